"""What other programs' files and ours have in common: tensors, read so that nothing is executed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesgen.errors import UserError
from bayesgen.parameters import Layout
from bayesgen.priors.learned import LearnedPrior


def read_pt(path: Path, setting: str) -> Any:
    """What a file of `torch.save` holds: tensors and plain data, by `weights_only=True`.

    Raises:
        UserError: there is no file, it is damaged, or it holds anything else.
    """
    if not path.is_file():
        raise UserError(f"{setting}: no file at '{path}'")
    try:
        # mapped, where the format allows it: a prior is in memory once
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    # a damaged pickle can raise nearly any exception
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{setting}: '{path}' cannot be read, it is damaged or holds more than tensors and"
            f" plain data; copy it anew, or save its tensors alone ({reason[:200]})"
        ) from error


def dense(tensor: Any, setting: str, dims: int | None = None) -> Tensor:
    """`tensor`, if it is a dense one of float numbers, with so many dimensions.

    Raises:
        UserError: it is none.
    """
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        raise UserError(f"{setting}: it holds no tensor of numbers ({type(tensor).__name__})")
    if not tensor.is_floating_point() or tensor.device.type != "cpu":
        raise UserError(
            f"{setting}: it holds {tensor.dtype} on '{tensor.device}', no float numbers"
        )
    if dims is not None and tensor.dim() != dims:
        raise UserError(
            f"{setting}: its shape is {list(tensor.shape)}; it must have {dims} dimensions"
        )
    # a few bytes can claim to be any number of rows
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise UserError(f"{setting}: its shape {list(tensor.shape)} is larger than what it holds")
    return tensor.detach()


def named_prior(
    mean: Tensor,
    variance: Tensor,
    rows: Tensor,
    layout: Layout,
    module: nn.Module,
    record: Mapping[str, Any] | None,
    *,
    divided: bool = False,
) -> LearnedPrior:
    """The prior of these tensors, of parameters of `module`.

    Args:
        mean, variance: [P].
        rows: deviations [K, P].
        divided: whether they are divided by √(K − 1) already.
        record: of the prior; the prefix of the module's names is added.

    Raises:
        UserError: a number is not finite, or a variance negative.
    """
    record = dict(record or {})
    record["model"] = {**record.get("model", {}), "base": base_of(module)}
    divisor = 1.0 if divided else float(max(len(rows) - 1, 1) ** 0.5)
    prior = LearnedPrior(mean.float(), variance.float(), rows.float() / divisor, layout, record)
    fault = prior.fault()
    if fault is not None:
        raise UserError(f"the prior cannot be imported: {fault}; copy its files anew")
    return prior


def base_of(module: nn.Module) -> str:
    """Prefix of the names of a Hugging Face model without its head; else empty."""
    base = str(getattr(module, "base_model_prefix", ""))
    return base if base and hasattr(module, base) else ""
