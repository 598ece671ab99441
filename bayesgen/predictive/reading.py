"""Reading growing texts with every draw: log p(next token | text, θ_s), each token read once.

Keys and values of what was read are kept. Three strategies give the same numbers:

- `stacked`: all draws in memory, one vmapped step for all of them. A step's time is that of reading
  the weights, S·P numbers.
- `cached`: one draw after the other, its weights read from disk at every step.
- `plain`: no cache; every step reads the whole of every text with every draw.

Past the model's block size the oldest token falls out of every window and all positions move, so
that nothing that was kept is true any more: from there on every step is `plain`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesgen.draws import Draws
from bayesgen.models import FunctionalModel
from bayesgen.models.functional import Piece

Strategy = Literal["auto", "stacked", "cached", "plain"]
Places = tuple[Tensor, Tensor]  # rows, and columns in them [B]
MEMORY = 4 * 2**30  # bytes that draws and caches may take under `auto`


class Reading:
    """A batch of texts, at least one token id each, read by every draw of a posterior; at most
    `growth` tokens will be appended to each. The strategy `auto` is the first of the three (see the
    module) that fits `memory` bytes."""

    def __init__(
        self,
        model: FunctionalModel,
        posterior: Draws,
        texts: list[list[int]],
        growth: int,
        strategy: Strategy = "auto",
        memory: int = MEMORY,
    ) -> None:
        if not texts or not all(texts):
            raise ValueError("every text needs at least one token")
        self.model = model
        self.posterior = posterior
        self.texts = [list(text) for text in texts]
        self._reader: Any = model.reader
        slots = max(map(len, texts)) + growth
        self._slots = slots if model.block_size is None else min(slots, model.block_size)
        self.strategy = self._possible(strategy, memory)
        self._mask = torch.zeros(len(texts), 0, dtype=torch.bool)
        self._draws: Tensor | None = None
        self._read_of_first = 0
        self._cache: Any = None

    def _possible(self, wanted: Strategy, memory: int) -> Strategy:
        cached = self._reader is not None
        stackable = cached and self._reader.stackable
        possible = {"plain": True, "cached": cached, "stacked": stackable}
        if wanted != "auto":
            if wanted not in possible:
                raise ValueError(f"unknown strategy '{wanted}' (auto, {', '.join(possible)})")
            if not possible[wanted]:
                raise ValueError(f"this kind of model cannot read with strategy '{wanted}'")
            return wanted
        if not cached:
            return "plain"
        weights = 4 * self.model.layout.size * len(self.posterior)
        caches = self._cache_bytes() * len(self.posterior)
        if stackable and weights + caches <= memory:
            return "stacked"
        return "cached" if caches <= memory else "plain"

    def _cache_bytes(self) -> int:
        """Size of one draw's cache; the width that all architectures share bounds those that
        grow."""
        if not self._reader.stackable:
            # transformers gives every architecture these attributes beside its own names
            config = getattr(self._reader, "config", None)
            layers, width = (getattr(config, k, 0) for k in ("num_hidden_layers", "hidden_size"))
            return int(2 * 4 * layers * width * len(self.texts) * self._slots)
        leaves = pytree.tree_leaves(self._empty_cache(torch.device("meta")))
        return sum(leaf.numel() * leaf.element_size() for leaf in leaves)

    def _empty_cache(self, device: torch.device | None = None) -> Any:
        return self._reader.cache(len(self.texts), self._slots, device or self.model.device)

    def append(self, tokens: Tensor) -> None:
        """Let each text grow by one of `tokens` [B]; between two of these it is read once."""
        for text, token in zip(self.texts, tokens.tolist(), strict=True):
            text.append(int(token))

    @torch.no_grad()
    def log_probs(self) -> Tensor:
        """log p(next token | text, θ_s) of every draw and text: [S, B, V], float32."""
        limit = self.model.block_size
        longest = max(map(len, self.texts))
        if self.strategy == "plain" or (limit is not None and longest > limit):
            self._cache = self._draws = None
            logits = self._plain(limit or longest)
        else:
            logits = self._read()
        return logits.float().log_softmax(-1)

    def _plain(self, limit: int) -> Tensor:
        input_ids, _, last = _padded([text[-limit:] for text in self.texts])
        batch = {"input_ids": input_ids.to(self.model.device)}
        each = (self.model(theta.to(self.model.device), batch) for theta in self.posterior)
        return torch.stack([logits[last] for logits in each])

    def _read(self) -> Tensor:
        """Read what is new: the whole texts first, then one token of each."""
        first = not self._mask.shape[1]
        if not first and len(self.texts[0]) != self._read_of_first + 1:
            raise ValueError("texts are read once after each token that is appended")
        self._read_of_first = len(self.texts[0])
        input_ids, new, last = _padded(self.texts if first else [t[-1:] for t in self.texts])
        positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        if not first:
            positions = torch.tensor([[len(text) - 1] for text in self.texts])
        self._mask = torch.cat([self._mask, new], dim=1)
        device = self.model.device
        piece = Piece(input_ids.to(device), positions.to(device), self._mask.to(device))
        if self.strategy == "stacked":
            return self._stacked(piece, last)
        if self._cache is None:
            self._cache = [self._empty_cache() for _ in range(len(self.posterior))]
        return self._each(piece, last, self.posterior, self._cache)

    def _stacked(self, piece: Piece, last: Places) -> Tensor:
        count = len(self.posterior)
        if self._draws is None:
            self._draws = torch.empty(count, self.model.layout.size, device=self.model.device)
            for row, theta in zip(self._draws, self.posterior, strict=True):
                row.copy_(theta)
            # draws after the first dimension (layers): one layer of all draws is then one matrix
            # product over a view, without a copy
            self._cache = pytree.tree_map(
                lambda t: t.new_zeros(t.shape[0], count, *t.shape[1:]), self._empty_cache()
            )
            # whole texts keep the processor busy with one draw; fused attention has no vmap
            views = [pytree.tree_map(lambda t, s=s: t[:, s], self._cache) for s in range(count)]
            return self._each(piece, last, self._draws, views)
        step = torch.vmap(lambda theta, cache: self._one(piece, theta, cache), in_dims=(0, 1))
        logits: Tensor = step(self._draws, self._cache)
        return logits[:, :, 0]

    def _each(
        self, piece: Piece, last: Places, draws: Iterable[Tensor], caches: list[Any]
    ) -> Tensor:
        device, each = self.model.device, zip(draws, caches, strict=True)
        return torch.stack([self._one(piece, t.to(device), c)[last] for t, c in each])

    def _one(self, piece: Piece, theta: Tensor, cache: Any) -> Any:
        return self._reader.read(self.model.applied(theta), piece, cache)


def _padded(texts: list[list[int]]) -> tuple[Tensor, Tensor, Places]:
    """Token ids [B, T], padded on the right, where there is a token [B, T], and the last ones."""
    longest = max(map(len, texts))
    mask = torch.tensor([[i < len(text) for i in range(longest)] for text in texts])
    input_ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    return input_ids, mask, (torch.arange(len(texts)), mask.sum(1) - 1)
