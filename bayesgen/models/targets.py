"""Masked words are predicted where they are asked for, and nowhere else.

An encoder's last product is with the embeddings of all words, and with the softmax behind it costs
more than its blocks do. Of the positions that were read, a sixth or so are masked.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class _Asked:
    """Positions [B, K] of a batch whose input is of this shape, and whether they were chosen."""

    positions: Tensor
    shape: torch.Size
    served: bool = False


_ASKED: ContextVar[_Asked | None] = ContextVar("asked", default=None)
"""What is in the network right now; a hook is handed nothing but states."""


def serve_targets(module: Any) -> None:
    """Make a network for masked words, and copies of it, fit for `logits_at`."""
    embeddings = module.get_output_embeddings()
    if embeddings is not None:
        embeddings.register_forward_pre_hook(_choose)


def logits_at(apply: Callable[..., Any], positions: Tensor, inputs: dict[str, Any]) -> Tensor:
    """Logits [B, K, V] at `positions` [B, K] int64.

    Where the network does not hand the states [B, T, H] of what it reads to its output embeddings,
    the logits of all positions are computed, and those of the others dropped.

    Args:
        apply: something that is called like the network.
        inputs: what to call it with, "input_ids" [B, T] among it.
    """
    asked = _Asked(positions, inputs["input_ids"].shape)
    before = _ASKED.set(asked)
    try:
        found: Tensor = apply(**inputs).logits
    finally:
        _ASKED.reset(before)
    return found if asked.served else _at(found, positions)


def _choose(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    asked = _ASKED.get()
    if asked is None or asked.served or not inputs or inputs[0].shape[:-1] != asked.shape:
        return None
    asked.served = True
    return _at(inputs[0], asked.positions), *inputs[1:]


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """`states` [B, T, H] at `positions` [B, K]: [B, K, H]."""
    return states.take_along_dim(positions[..., None], 1)
