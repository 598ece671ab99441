"""Windows of tokens, and batches of them that are a pure function of (seed, step).

A batch is {"input_ids": [B, T] int64, "labels": [B, T] int64}: labels[b, t] is the token after
input_ids[b, t], and -100 where nothing is scored.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bayesgen.errors import UserError

IGNORED = -100

# What a random draw is for: two purposes never share a stream.
_OFFSETS, _EPOCH, _SUBSET, MASKS, ROW_MASKS = range(5)


class Rows(ABC):
    """Rows with labels, in a fixed order: windows of a text, labelled examples, or what a user has.
    Unless it says otherwise, each row is one observation."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: ArrayLike, /) -> dict[str, Tensor]:
        """The rows of the 1-D `indices`: what the network takes, and "labels" [B, ...]."""

    @abstractmethod
    def take(self, indices: ArrayLike, /) -> Self:
        """The rows of the 1-D `indices`, in their order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 of what the rows hold."""

    @abstractmethod
    def overlaps(self, other: Rows, /) -> bool:
        """Whether both may hold rows of the same data."""

    @property
    def num_targets(self) -> int:
        """N, the number of labels that are observations."""
        return len(self)

    @property
    @abstractmethod
    def row_targets(self) -> int:
        """Labels of one row, at most."""

    @property
    def num_classes(self) -> int | None:
        """Of labels that are classes; None for tokens of a text, and for real numbers."""
        return None


@dataclass(frozen=True, eq=False)
class TextRows(Rows):
    """Windows of `block_size` tokens each, window i from position `starts[i]` of 1-D `tokens`."""

    tokens: NDArray[Any]
    block_size: int
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def fingerprint(self, rules: str = "") -> str:
        """sha256 of the text and how it is cut, and of further `rules`."""
        digest = hashlib.sha256(f"{self.block_size}{rules}".encode())
        digest.update(np.ascontiguousarray(self.starts).tobytes())
        digest.update(np.ascontiguousarray(self.tokens).tobytes())
        return digest.hexdigest()

    def overlaps(self, other: Rows) -> bool:
        return isinstance(other, type(self)) and other.tokens is self.tokens


@dataclass(frozen=True, eq=False)
class Windows(TextRows):
    """Windows of `block_size` targets each, the tokens after their own; one that reaches over the
    end is padded there. Raises ValueError where a window would have no target."""

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, not {self.block_size}")
        if len(self) and not 0 <= self.starts.min() <= self.starts.max() < len(self.tokens) - 1:
            raise ValueError("every start must have a next token")

    @classmethod
    def tiled(cls, tokens: NDArray[Any], block_size: int, split: str = "corpus") -> Windows:
        """Windows side by side that score each of the n - 1 targets of `tokens` exactly once."""
        _require_block(tokens, block_size, split)
        return cls(tokens, block_size, np.arange(0, len(tokens) - 1, block_size))

    @property
    def num_targets(self) -> int:
        """Number of scored targets in all windows, those that overlap counted in each."""
        return int(np.minimum(self.block_size, len(self.tokens) - 1 - self.starts).sum())

    @property
    def row_targets(self) -> int:
        return self.block_size

    def subset(self, num: int, seed: int) -> Windows:
        """`num` of the windows without padding, drawn without replacement, in text order; with the
        same seed a smaller subset lies within every larger one."""
        whole = self.take(np.flatnonzero(self.starts + self.block_size < len(self.tokens)))
        if not 1 <= num <= len(whole):
            raise UserError(
                f"`train_samples={num}`: the train split has {len(whole)} windows of"
                f" {self.block_size} tokens; choose a number from 1 to {len(whole)}"
            )
        return whole.take(np.sort(_permutation(len(whole), seed, _SUBSET, 0)[:num]))

    def take(self, indices: ArrayLike) -> Self:
        return replace(self, starts=self.starts[np.asarray(indices, dtype=np.int64)])

    def batch(self, indices: ArrayLike) -> dict[str, Tensor]:
        starts = self.starts[np.asarray(indices, dtype=np.int64)]
        return _gather(self.tokens, self.block_size, starts)


@dataclass(frozen=True, eq=False)
class RandomWindows:
    """nanoGPT's get_batch: windows at offsets uniform over `tokens`, drawn with replacement."""

    tokens: NDArray[Any]
    block_size: int
    batch_size: int
    seed: int
    split: str = "train"

    def __post_init__(self) -> None:
        _require_block(self.tokens, self.block_size, self.split)
        _require_batch(self.batch_size)

    @property
    def num_observations(self) -> int:
        """N, the number of target tokens in the data."""
        return len(self.tokens) - 1

    @property
    def steps_per_epoch(self) -> int:
        """Batches that together hold N targets, rounded up."""
        return -(-self.num_observations // (self.batch_size * self.block_size))

    def passes(self, steps: int) -> float:
        """How often the first `steps` batches go over the N targets, in fractions too."""
        return steps * self.batch_size * self.block_size / self.num_observations

    def batch(self, step: int) -> dict[str, Tensor]:
        offsets = len(self.tokens) - self.block_size
        generator = torch.Generator().manual_seed(stream(self.seed, _OFFSETS, step))
        starts = torch.randint(offsets, (self.batch_size,), generator=generator).numpy()
        return _gather(self.tokens, self.block_size, starts)


@dataclass(frozen=True, eq=False)
class ShuffledWindows:
    """Every row once per epoch, in a new order each; the last batch of an epoch may be small."""

    windows: Rows
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        _require_batch(self.batch_size)
        if not len(self.windows):
            raise ValueError("there are no windows to shuffle")
        self.rows(0)  # a seed that cannot be used is refused here

    @property
    def num_observations(self) -> int:
        return self.windows.num_targets

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def passes(self, steps: int) -> float:
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs + rest * self.batch_size / len(self.windows)

    def batch(self, step: int) -> dict[str, Tensor]:
        return self.windows.batch(self.rows(step))

    def rows(self, step: int) -> NDArray[np.int64]:
        """Indices of the windows of step >= 0. Raises ValueError for step < 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = _permutation(len(self.windows), self.seed, _EPOCH, epoch)
        return order[index * self.batch_size : (index + 1) * self.batch_size]


Batches = RandomWindows | ShuffledWindows
"""Training batches with random access: the cursor of a resumed run is the step alone."""


def _gather(tokens: NDArray[Any], block_size: int, starts: NDArray[np.int64]) -> dict[str, Tensor]:
    """The windows from `starts`, [B]: one indexing, which reads only their pages of a memmap."""
    last = len(tokens) - 1
    positions = starts[:, None] + np.arange(block_size + 1)
    block = np.asarray(tokens[np.minimum(positions, last)]).astype(np.int64)
    padding = positions[:, 1:] > last
    return {
        "input_ids": torch.from_numpy(np.where(padding, 0, block[:, :-1])),
        "labels": torch.from_numpy(np.where(padding, IGNORED, block[:, 1:])),
    }


@lru_cache(maxsize=2)  # steps come in order, and so all batches of an epoch in a row
def _permutation(n: int, seed: int, purpose: int, step: int) -> NDArray[np.int64]:
    generator = torch.Generator().manual_seed(stream(seed, purpose, step))
    order: NDArray[np.int64] = torch.randperm(n, generator=generator).numpy()
    return order


def stream(seed: int, purpose: int, *step: int) -> int:
    """Seed of torch's CPU generator for one draw. Neighbouring seeds and steps must give unrelated
    streams, and torch seeds with the low 32 bits only: a SeedSequence mixes all bits into those."""
    if seed < 0:
        raise UserError(f"`seed={seed}`: choose a number that is not negative")
    if min(step) < 0:
        raise ValueError(f"step must not be negative, not {min(step)}")
    return int(np.random.SeedSequence(seed, spawn_key=(purpose, *step)).generate_state(1)[0])


def _require_block(tokens: NDArray[Any], block_size: int, split: str) -> None:
    if len(tokens) < block_size + 1:
        raise UserError(
            f"the {split} split has {len(tokens)} tokens, too few for one block of {block_size} "
            "and the token after it: take a longer text or a model with a shorter block"
        )


def _require_batch(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"`batch_size={batch_size}`: choose at least 1")
