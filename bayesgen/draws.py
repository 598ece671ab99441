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
from bayesgen.runs import Run
from bayesgen.runs.files import RunRecord


class Draws:
    """S draws of θ ∈ R^P.

    Draws stay where they are until they are asked for: memory does not grow with S.

    Attributes:
        layout: names, shapes and offsets of θ.
        info: the record of the run; None for draws in memory.
        places: the place of each draw among all draws of the run, from 0.
    """

    def __init__(
        self, layout: Layout, shards: Sequence[Path] | Tensor, info: RunRecord | None = None
    ) -> None:
        self.layout = layout
        self.info = info
        self._rows: list[tuple[Path, int] | Tensor]  # where each draw lies, or the draw
        if isinstance(shards, Tensor):
            self._rows = list(shards)
        else:
            self._rows = [(path, i) for path in shards for i in range(_count(path, layout.size))]
        self.places = list(range(len(self._rows)))

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
        place = self._rows[index]
        if isinstance(place, Tensor):
            return place.clone()
        path, row = place
        with safe_open(path, framework="pt") as file:
            theta: Tensor = file.get_slice("draws")[row : row + 1].squeeze(0)
        # the ends carry every NaN and infinity, at a twentieth of the time of isfinite on all of θ
        if not torch.stack(theta.aminmax()).isfinite().all():
            raise UserError(
                f"'{path}' is damaged: a draw in it is not finite; copy it back, or move it out of"
                " the folder"
            )
        return theta

    def fingerprints(self) -> list[str]:
        """One string for each draw that changes when the draw does: its file, size and time of
        writing; of a draw in memory, a hash."""

        def of(place: tuple[Path, int] | Tensor) -> str:
            if isinstance(place, Tensor):
                return hashlib.sha256(place.cpu().numpy().tobytes()).hexdigest()
            path, row = place
            stat = path.stat()
            return f"{path.name}:{row}:{stat.st_size}:{stat.st_mtime_ns}"

        return [of(place) for place in self._rows]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def thin(self, count: int | None) -> Self:
        """At most `count` draws, evenly spaced, the last one among them; None keeps all."""
        if count is None or count >= len(self):
            return self
        kept = np.linspace(len(self) - 1, 0, count).round().astype(int)[::-1]
        thinned = copy.copy(self)
        thinned._rows = [self._rows[i] for i in kept]
        thinned.places = [self.places[i] for i in kept]
        return thinned

    def mean(self) -> Tensor:
        """The mean weights [P], accumulated in float64."""
        total = torch.zeros(self.layout.size, dtype=torch.float64)
        for theta in self:
            total += theta
        return (total / len(self)).float()


def _count(path: Path, size: int) -> int:
    """How many draws there are in a shard, which should hold float32 draws [k, size]."""
    try:
        with safe_open(path, framework="pt") as file:
            draws = file.get_slice("draws")
            shape, dtype = draws.get_shape(), draws.get_dtype()
        if not (len(shape) == 2 and shape[0] > 0 and shape[1] == size and dtype == "F32"):
            raise OSError(f"draws are {dtype} {shape}, not F32 [1 or more, {size}]")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"'{path}' is not a readable shard of draws ({error}); copy it back, or move it out of"
            " the folder"
        ) from error
    return int(shape[0])
