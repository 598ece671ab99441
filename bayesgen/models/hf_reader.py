"""Reading texts in pieces through the cache of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CausalReader:
    """Reads texts through transformers' own cache.

    Texts of different lengths have a cache each: where a window or a bias counts slots, a gap
    between two tokens of a text would count, too.
    """

    stackable = False

    def __init__(self, config: Any) -> None:
        self.config = config

    def cache(self, texts: int, slots: int, device: torch.device) -> Any:
        return []

    def read(
        self,
        apply: Callable[..., Any],
        input_ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: Any,
    ) -> Tensor:
        from transformers import DynamicCache

        rows, length = input_ids.shape
        if not cache:
            groups = 1 if bool(mask.all()) else rows
            cache.extend(DynamicCache(config=self.config) for _ in range(groups))
        if len(cache) == 1:
            return _logits(apply, input_ids, positions, cache[0])
        each = []
        for row, own in enumerate(cache):
            new = int(mask[row, -length:].sum())
            piece = slice(row, row + 1), slice(0, new)
            logits = _logits(apply, input_ids[piece], positions[piece], own)
            each.append(torch.nn.functional.pad(logits, (0, 0, 0, length - new)))
        return torch.cat(each)


def _logits(apply: Callable[..., Any], input_ids: Tensor, positions: Tensor, cache: Any) -> Tensor:
    logits: Tensor = apply(
        input_ids=input_ids, position_ids=positions, past_key_values=cache, use_cache=True
    ).logits
    return logits
