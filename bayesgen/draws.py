"""Draws of θ on disk, read one at a time."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.parameters import Layout
from bayesgen.runs import Run, RunRecord


class Draws:
    """S draws of θ ∈ R^P.

    Draws stay where they are until they are asked for: memory does not grow with S.

    Attributes:
        layout: names, shapes and offsets of θ.
        info: the record of the run; None for draws in memory.
    """

    def __init__(
        self, layout: Layout, shards: Sequence[Path] | Tensor, info: RunRecord | None = None
    ) -> None:
        self.layout = layout
        self.info = info
        self._shards = shards
        if isinstance(shards, Tensor):
            self._rows = [(0, row) for row in range(len(shards))]
        else:
            self._rows = [
                (i, row) for i, path in enumerate(shards) for row in range(_rows(path, layout.size))
            ]
        self._places = list(range(len(self._rows)))

    @classmethod
    def load(cls, run_dir: str | Path) -> Self:
        """The draws of a run, all chains, first to last.

        Raises:
            UserError: no run there, no draws yet, or a damaged file.
        """
        run = Run.open(run_dir, setting="run")
        info = run.record()
        paths = run.draw_paths()
        if not paths:
            raise UserError(f"'{run_dir}' has no draws yet; continue it with `resume='{run_dir}'`")
        return cls(Layout.from_json(info.parameters), paths, info)

    @classmethod
    def from_draws(cls, draws: Tensor, layout: Layout) -> Self:
        """Draws [S, P] that are in memory."""
        return cls(layout, draws)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Tensor:
        """θ [P] of one draw, a copy.

        Raises:
            UserError: it is not finite: its file was damaged.
        """
        shard, row = self._rows[index]
        if isinstance(self._shards, Tensor):
            return self._shards[row].clone()
        with safe_open(self._shards[shard], framework="pt") as file:
            theta: Tensor = file.get_slice("draws")[row : row + 1].squeeze(0)
        # the ends carry every NaN and infinity, at a twentieth of the time of isfinite on all of θ
        if not torch.stack(theta.aminmax()).isfinite().all():
            raise UserError(
                f"'{self._shards[shard]}' is damaged: a draw in it is not finite; copy it back, or"
                " move it out of the folder"
            )
        return theta

    @property
    def places(self) -> list[int]:
        """The place of each draw among all draws of the run, from 0."""
        return self._places

    def fingerprints(self) -> list[str]:
        """One string for each draw that changes when the draw does: its file, size and time of
        writing; of a draw in memory, a hash."""
        if isinstance(self._shards, Tensor):
            rows = [self._shards[row].cpu().numpy().tobytes() for _, row in self._rows]
            return [hashlib.sha256(row).hexdigest() for row in rows]
        found = []
        for shard, row in self._rows:
            path = self._shards[shard]
            stat = path.stat()
            found.append(f"{path.name}:{row}:{stat.st_size}:{stat.st_mtime_ns}")
        return found

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def thin(self, count: int | None) -> Self:
        """At most `count` draws, evenly spaced, the last one among them; None keeps all."""
        if count is None or count >= len(self):
            return self
        kept = np.linspace(len(self) - 1, 0, count).round().astype(int)[::-1]
        thinned = copy.copy(self)
        thinned._rows = [self._rows[i] for i in kept]
        thinned._places = [self._places[i] for i in kept]
        return thinned

    def mean(self) -> Tensor:
        """The mean weights [P], accumulated in float64."""
        total = torch.zeros(self.layout.size, dtype=torch.float64)
        for theta in self:
            total += theta
        return (total / len(self)).float()


def _rows(path: Path, size: int) -> int:
    """How many draws of `size` elements there are in a shard.

    Raises:
        UserError: it does not hold float32 draws [k, size].
    """
    try:
        with safe_open(path, framework="pt") as file:
            draws = file.get_slice("draws")
            shape, dtype = draws.get_shape(), draws.get_dtype()
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, str(error)) from error
    if not (len(shape) == 2 and shape[0] > 0 and shape[1] == size and dtype == "F32"):
        raise _unreadable(path, f"draws are {dtype} {shape}, not F32 [1 or more, {size}]")
    return int(shape[0])


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"'{path}' is not a readable shard of draws ({why}); copy it back, or move it out of the"
        " folder"
    )
