"""Rows that a user has in memory: for networks of one's own, whose batches are any tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import default_collate

from bayesgen.data.windows import Rows
from bayesgen.errors import UserError

Count = Callable[[Tensor], Tensor]
"""How many observations some labels hold: `count` of a likelihood."""
PART = 256
"""Rows that are looked at together where all are."""


@dataclass(eq=False)
class OwnRows(Rows):
    """Rows of a map-style dataset, each a mapping of tensors with "labels", or a pair (x, y), which
    becomes {"inputs": x, "labels": y}.

    `source` has a length and gives row i, such as a `torch.utils.data.Dataset` or a list, or is one
    batch of all rows; `places` are those of these rows in it. `classes` says how many there are,
    where these rows may lack some.
    """

    source: Any
    count: Count
    places: NDArray[np.int64]
    collate: Callable[[list[Any]], Any] = default_collate
    classes: int | None = None

    def __post_init__(self) -> None:
        if not len(self.places):
            raise UserError("`data`: there are no rows; give one or more")

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: ArrayLike) -> dict[str, Tensor]:
        chosen = self.places[np.asarray(indices, dtype=np.int64)]
        if isinstance(self.source, Mapping):
            return {name: tensor[torch.from_numpy(chosen)] for name, tensor in self.source.items()}
        return as_batch(self.collate([self.source[int(i)] for i in chosen]))

    @cached_property
    def _looked(self) -> tuple[int, int, str, int | None]:
        """Observations, most of a row, sha256 of all, and classes where labels are one id a row."""
        total, most, largest, single = 0, 1, -1, True
        digest = hashlib.sha256()
        for start in range(0, len(self), PART):
            batch = self.batch(np.arange(start, min(start + PART, len(self))))
            labels = batch["labels"]
            total += int(self.count(labels))
            most = max(most, labels[0].numel())
            single &= labels.dim() == 1 and not labels.is_floating_point()
            largest = max(largest, int(labels.max())) if single else largest
            for name, tensor in sorted(batch.items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return total, most, digest.hexdigest(), largest + 1 if single else None

    @property
    def num_targets(self) -> int:
        return self._looked[0]

    @property
    def row_targets(self) -> int:
        return self._looked[1]

    @property
    def num_classes(self) -> int | None:
        return self.classes or self._looked[3]

    def fingerprint(self) -> str:
        return self._looked[2]

    def take(self, indices: ArrayLike) -> OwnRows:
        return replace(self, places=self.places[np.asarray(indices, dtype=np.int64)])

    def overlaps(self, other: Rows) -> bool:
        return (
            isinstance(other, OwnRows)
            and other.source is self.source
            and not set(self.places.tolist()).isdisjoint(other.places.tolist())
        )


def own_rows(data: Any, count: Count) -> OwnRows:
    """`data` as rows: a map-style dataset or list of rows (see `OwnRows`); one batch of all rows, a
    mapping of tensors or a pair (x, y); or an iterable of such batches, such as a DataLoader, which
    is gone through once and kept in memory."""
    if isinstance(data, OwnRows):
        return data
    if isinstance(data, Mapping) or _is_pair(data):
        source = as_batch(data)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return OwnRows(data, count, np.arange(len(data)))
    elif isinstance(data, Iterable):
        batches = [as_batch(batch) for batch in data]
        if not batches:
            raise UserError("`data`: the iterable gives no batch; give one or more")
        try:
            source = {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
        except (KeyError, RuntimeError) as error:
            raise UserError(
                f"`data`: the batches cannot be put together ({error}); give a map-style dataset,"
                " whose rows are collated batch by batch"
            ) from error
    else:
        raise UserError(
            f"`data`: a {type(data).__name__} holds no rows; give a map-style dataset, tensors"
            " (x, y), or an iterable of batches"
        )
    lengths = {name: len(tensor) for name, tensor in source.items()}
    if len(set(lengths.values())) > 1:
        sizes = ", ".join(f"{length} of '{name}'" for name, length in lengths.items())
        raise UserError(f"`data`: as many rows of each are needed, not {sizes}")
    return OwnRows(source, count, np.arange(lengths["labels"]))


def as_batch(found: Any) -> dict[str, Tensor]:
    named = {"inputs": found[0], "labels": found[1]} if _is_pair(found) else found
    if not (isinstance(named, Mapping) and "labels" in named and len(named) >= 2):
        raise UserError(
            "`data`: a batch must be a mapping of tensors with 'labels' and an input, or a pair"
            f" (inputs, labels), not a {type(found).__name__}"
        )
    return {str(name): torch.as_tensor(value) for name, value in named.items()}


def _is_pair(found: Any) -> bool:
    return (
        isinstance(found, Sequence)
        and len(found) == 2
        and all(isinstance(each, Tensor | np.ndarray) and each.ndim for each in found)
        and len(found[0]) == len(found[1])
    )
