"""Masked words are predicted where they are asked for, and nowhere else.

An encoder's last product is with the embeddings of all words, and with the softmax behind it costs
more than its blocks do. Of the positions that were read, a sixth or so are masked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def at_targets(module: Any) -> Callable[[Callable[..., Any], Tensor, dict[str, Tensor]], Tensor]:
    """How a network for masked words is asked for the logits at some positions.

    What is given back takes something that is called like the module, positions [B, K] int64, and
    what to call it with; it returns logits [B, K, V]. Where the network does not hand the states
    [B, T, H] of what it reads to its output embeddings, the logits of all positions are computed,
    and those of the others dropped.

    Args:
        module: of transformers; the copies that are made of it afterwards are served, too.
    """
    asked: list[tuple[Tensor, tuple[int, ...]]] = []

    def choose(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not asked or inputs[0].shape[:-1] != asked[0][1]:
            return None
        return _at(inputs[0], asked.pop()[0]), *inputs[1:]

    embeddings = module.get_output_embeddings()
    if embeddings is not None:
        embeddings.register_forward_pre_hook(choose)

    def logits(apply: Callable[..., Any], positions: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        asked.append((positions, inputs["input_ids"].shape))
        try:
            found: Tensor = apply(**inputs).logits
            return _at(found, positions) if asked else found
        finally:
            asked.clear()

    return logits


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """`states` [B, T, H] at `positions` [B, K]: [B, K, H]."""
    return states.take_along_dim(positions[..., None], 1)
