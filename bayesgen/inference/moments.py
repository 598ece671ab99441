"""The weights that an optimizer's path goes through: mean, variance and last deviations.

Mean and sum of squares are Welford's (1962), which keep a variance that is a millionth of the
square of its weight, in float64 where the device has it. In SWAG's paper (Maddox et al. 2019,
https://arxiv.org/abs/1902.02476, algorithm 1) a deviation is from the mean at the time, so that its
first row is zero; here all are from the last mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bayesgen.inference.libraries import posteriors
from bayesgen.inference.log_posterior import Chunks
from bayesgen.inference.sampler import Learned, leaves, restore
from bayesgen.models.functional import Batch
from bayesgen.parameters import widest
from bayesgen.priors.gaussian import LowRankGaussian

LEAST_VARIANCE = 1e-30
"""Of a weight that never moved."""


@dataclass(frozen=True)
class Path:
    """What is kept of a path, in chunks: how many weights were collected, an int64; their mean, the
    sum of their squared distances from it, and the last K [K, ...]: number n in row n mod K. Beside
    them the weights and the optimizer's state, as `posteriors.torchopt` has it."""

    count: Tensor
    mean: Chunks
    squares: Chunks
    last: Chunks
    params: Chunks
    opt_state: Any
    loss: Tensor
    step: Tensor

    def collect_(self) -> None:
        """Take in the weights, in place."""
        self.count.add_(1)
        n = int(self.count)
        pieces = zip(self.params, self.mean, self.squares, self.last, strict=True)
        for p, mean, squares, last in pieces:
            exact = p.to(mean.dtype)
            before = exact - mean
            mean.add_(before, alpha=1 / n)
            squares.addcmul_(before, exact - mean)
            if len(last):
                last[(n - 1) % len(last)].copy_(p)

    def centre(self) -> Tensor:
        """Mean [P] in float32."""
        return torch.cat(self.mean).float()

    def variance(self) -> Tensor:
        """v [P], unbiased; needs two collected weights."""
        return torch.cat(self.squares).div(int(self.count) - 1).float()

    def deviations(self) -> Tensor:
        """Q [K, P], from the oldest to the newest; fewer rows where fewer were collected."""
        n, rank = int(self.count), len(self.last[0])
        rows = torch.arange(max(n - rank, 0), n) % max(rank, 1)
        pieces = [
            (last[rows].to(mean.dtype) - mean).float()
            for last, mean in zip(self.last, self.mean, strict=True)
        ]
        return torch.cat(pieces, dim=1).div(max(len(rows) - 1, 1) ** 0.5)

    def gaussian(self) -> LowRankGaussian:
        """SWAG's q; without deviations N(θ̄, diag(v))."""
        half = 0.5 if len(self.last[0]) else 1.0
        diagonal = (half * self.variance()).clamp(min=LEAST_VARIANCE)
        return LowRankGaussian(self.centre(), diagonal, self.deviations(), half**0.5, words="SWAG")

    def learned(self) -> Learned:
        """The same Gaussian as a prior, in whose file v counts half."""
        v = self.variance() * (1.0 if len(self.last[0]) else 2.0)
        return Learned("swag", self.centre(), v, self.deviations(), int(self.count))


def follow(
    loss: Callable[..., Any], optimizer: Any, rank: int, collect: Callable[[int], bool]
) -> posteriors.types.Transform:
    """The optimizer of `loss(params, batch)` with the moments of its path, as a transform of
    `posteriors`; `collect` says whether the weights after step t, from 0, are taken in."""

    def init(params: Chunks) -> Path:
        state = posteriors.torchopt.init(params, optimizer)
        return Path(
            count=torch.zeros((), dtype=torch.int64),
            mean=tuple(torch.zeros_like(p, dtype=widest(p.device)) for p in params),
            squares=tuple(torch.zeros_like(p, dtype=widest(p.device)) for p in params),
            last=tuple(p.new_zeros(rank, len(p)) for p in params),
            params=state.params,
            opt_state=state.opt_state,
            loss=state.loss,
            step=torch.zeros((), dtype=torch.int64),
        )

    def update(path: Path, batch: Batch, inplace: bool = False) -> tuple[Path, Tensor]:
        state = posteriors.torchopt.TorchOptState(path.params, path.opt_state, path.loss)
        state, terms = posteriors.torchopt.update(state, batch, loss, optimizer)
        moved = {name: getattr(state, name) for name in ("params", "opt_state", "loss")}
        path = replace(path, step=path.step + 1, **moved)
        if collect(int(path.step) - 1):
            path = path if inplace else restore(path, leaves(path))
            path.collect_()
        return path, terms

    return posteriors.types.Transform(init, update)
