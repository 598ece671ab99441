"""Where a model computes."""

from __future__ import annotations

import torch

from bayesgen.errors import UserError


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU.

    Raises:
        UserError: there is no such device, or not on this machine.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, present in there.items() if present))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not there.get(device.type, False):
        usable = ", ".join(kind for kind, present in there.items() if present)
        raise UserError(f"`device`: '{name}' is not on this machine; use auto or {usable}")
    return device
