"""Rows that a user has in memory: for networks of one's own, whose batches are any tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
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


class OwnRows(Rows):
    """Rows of a map-style dataset, each a mapping of tensors with "labels", or a pair (x, y), which
    becomes {"inputs": x, "labels": y}.

    Args:
        source: has a length and gives row i, such as a `torch.utils.data.Dataset` or a list.
        count: of the likelihood.
        collate: makes a batch of a list of rows.
        classes: how many there are, where these rows may lack some.

    Raises:
        UserError: there is no row, or a row is of another form.
    """

    def __init__(
        self,
        source: Any,
        count: Count,
        places: NDArray[np.int64] | None = None,
        collate: Callable[[list[Any]], Any] = default_collate,
        classes: int | None = None,
    ) -> None:
        self.source = source
        self.count = count
        self.places = np.arange(len(source)) if places is None else places
        self.collate = collate
        self.classes = classes
        if not len(self.places):
            raise UserError("`data`: there are no rows; give one or more")

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: ArrayLike) -> dict[str, Tensor]:
        """The rows of the 1-D `indices`, collated."""
        chosen = self.places[np.asarray(indices, dtype=np.int64)]
        if isinstance(self.source, _Stacked):
            return self.source.rows(chosen)
        return as_batch(self.collate([self.source[int(i)] for i in chosen]))

    @cached_property
    def _looked(self) -> tuple[int, int, str, int | None]:
        """Observations, the most of a row, sha256 of all, and classes where labels are one id a
        row."""
        total, most, largest = 0, 1, -1
        digest = hashlib.sha256()
        single = True
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
        chosen = self.places[np.asarray(indices, dtype=np.int64)]
        return OwnRows(self.source, self.count, chosen, self.collate, self.classes)

    def overlaps(self, other: Rows) -> bool:
        return (
            isinstance(other, OwnRows)
            and other.source is self.source
            and not set(self.places.tolist()).isdisjoint(other.places.tolist())
        )


class _Stacked:
    """Rows of one large batch."""

    def __init__(self, batch: Mapping[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["labels"])

    def rows(self, places: NDArray[np.int64]) -> dict[str, Tensor]:
        return {name: tensor[torch.from_numpy(places)] for name, tensor in self.batch.items()}


def own_rows(data: Any, count: Count) -> OwnRows:
    """`data` as rows.

    Args:
        data: a map-style dataset or list of rows (see `OwnRows`); one batch of all rows, a mapping
            of tensors or a pair (x, y); or an iterable of such batches, such as a DataLoader, which
            is gone through once and kept in memory.
        count: of the likelihood.

    Raises:
        UserError: it is none of these, or the batches cannot be put together.
    """
    if isinstance(data, OwnRows):
        return data
    if isinstance(data, Mapping) or _is_pair(data):
        return OwnRows(_Stacked(as_batch(data)), count)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return OwnRows(data, count)
    if not isinstance(data, Iterable):
        raise UserError(
            f"`data`: a {type(data).__name__} holds no rows; give a map-style dataset, tensors"
            " (x, y), or an iterable of batches"
        )
    batches = [as_batch(batch) for batch in data]
    if not batches:
        raise UserError("`data`: the iterable gives no batch; give one or more")
    try:
        together = {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"`data`: the batches cannot be put together ({error}); give a map-style dataset, whose"
            " rows are collated batch by batch"
        ) from error
    return OwnRows(_Stacked(together), count)


def as_batch(found: Any) -> dict[str, Tensor]:
    """A batch as named tensors, "labels" among them.

    Raises:
        UserError: it is neither a mapping with labels nor a pair.
    """
    if isinstance(found, Mapping):
        batch = {str(name): torch.as_tensor(value) for name, value in found.items()}
    elif _is_pair(found):
        batch = {"inputs": torch.as_tensor(found[0]), "labels": torch.as_tensor(found[1])}
    else:
        batch = {}
    if "labels" not in batch or len(batch) < 2:
        raise UserError(
            "`data`: a batch must be a mapping of tensors with 'labels' and an input, or a pair"
            f" (inputs, labels), not a {type(found).__name__}"
        )
    return batch


def _is_pair(found: Any) -> bool:
    return (
        isinstance(found, Sequence)
        and len(found) == 2
        and all(isinstance(each, Tensor | np.ndarray) for each in found)
        and all(each.ndim for each in found)
        and len(found[0]) == len(found[1])
    )
