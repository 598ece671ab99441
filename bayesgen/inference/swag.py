"""SWAG: a Gaussian around the path of an optimizer.

    q = N(θ̄, ½ (diag(v) + Qᵀ Q)),   Q = (θ_i − θ̄) / √(K − 1)  for the last K collected θ_i

with θ̄ and v the mean and variance of all collected weights. Maddox et al. 2019,
https://arxiv.org/abs/1902.02476, algorithm 1 and eq. 1.

The optimizer is one of torchopt, moved by `posteriors.torchopt`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bayesgen.config import SWAGSettings
from bayesgen.inference.affine import Chunks
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.moments import Moments, collect_, deviations, init, variance
from bayesgen.inference.sampler import Learned, Sampler, own
from bayesgen.inference.schedules import Plan, lookup
from bayesgen.inference.transforms import posteriors, torchopt
from bayesgen.models.functional import Batch
from bayesgen.parameters import chunks
from bayesgen.priors.low_rank import LowRankGaussian

LEAST_VARIANCE = 1e-30
"""Of a weight that never moved."""


def fitted(moments: Moments, low_rank: bool) -> LowRankGaussian:
    """The Gaussian q; without its low-rank part N(θ̄, diag(v))."""
    v = variance(moments)
    half = 0.5 if low_rank else 1.0
    q = deviations(moments) if low_rank else v.new_zeros(0, len(v))
    return LowRankGaussian(
        torch.cat(moments.mean).float(),
        (half * v).clamp(min=LEAST_VARIANCE),
        q,
        half**0.5,
        words="SWAG",
    )


def learned(moments: Moments, low_rank: bool) -> Learned:
    """The same Gaussian as a prior."""
    # of a prior's file the diagonal counts half
    v = variance(moments) * (1.0 if low_rank else 2.0)
    mean = torch.cat(moments.mean).float()
    return Learned("swag", mean, v, deviations(moments), int(moments.count))


@dataclass(frozen=True)
class SWAGState:
    """The optimizer's state, as `posteriors.torchopt` has it, and the moments of its path."""

    params: Chunks
    opt_state: Any
    loss: Tensor
    step: Tensor
    count: Tensor
    mean: Chunks
    squares: Chunks
    last: Chunks

    @property
    def moments(self) -> Moments:
        return Moments(self.count, self.mean, self.squares, self.last)


def transform(
    loss: Callable[..., Any], optimizer: Any, rank: int, collect: Callable[[int], bool]
) -> posteriors.types.Transform:
    """The optimizer with SWAG's moments, in the form of `posteriors`.

    Args:
        loss: (params, batch) -> (loss, auxiliary), to be minimised.
        collect: whether the weights after step t, from 0, are taken in.
    """

    def begin(params: Chunks) -> SWAGState:
        inner = posteriors.torchopt.init(params, optimizer)
        m = init(params, rank)
        step = torch.zeros((), dtype=torch.int64)
        return SWAGState(
            inner.params, inner.opt_state, inner.loss, step, m.count, m.mean, m.squares, m.last
        )

    def update(state: SWAGState, batch: Batch, inplace: bool = False) -> tuple[SWAGState, Tensor]:
        inner = posteriors.torchopt.TorchOptState(state.params, state.opt_state, state.loss)
        inner, terms = posteriors.torchopt.update(inner, batch, loss, optimizer)
        moved = replace(
            state,
            params=inner.params,
            opt_state=inner.opt_state,
            loss=inner.loss,
            step=state.step + 1,
        )
        if collect(int(state.step)):
            if not inplace:
                moved = _with_own_moments(moved)
            collect_(moved.moments, moved.params)
        return moved, terms

    return posteriors.types.Transform(begin, update)


def sample(state: SWAGState, low_rank: bool = True) -> Tensor:
    """One draw of θ [P] from q, by the global generator."""
    return fitted(state.moments, low_rank).sample()


def _with_own_moments(state: SWAGState) -> SWAGState:
    """`state` with copies of what is changed in place."""
    return replace(
        state,
        count=state.count.clone(),
        mean=tuple(t.clone() for t in state.mean),
        squares=tuple(t.clone() for t in state.squares),
        last=tuple(t.clone() for t in state.last),
    )


def build(log_posterior: LogPosterior, settings: SWAGSettings, plan: Plan) -> Sampler:
    def loss(phi: Chunks, batch: Batch) -> tuple[Tensor, Tensor]:
        value, terms = log_posterior(phi, batch)
        return -value, terms

    rate = lookup(plan.learning_rate)
    optimizer = (
        torchopt.sgd(lr=rate, momentum=settings.momentum, weight_decay=settings.weight_decay)
        if settings.optimizer == "sgd"
        else torchopt.adamw(lr=rate, weight_decay=settings.weight_decay)
    )
    low_rank = settings.covariance == "low-rank"
    rank = settings.rank if low_rank else 0
    moving = transform(loss, optimizer, rank, lambda step: bool(plan.collect[step]))
    start = log_posterior.model.theta
    return Sampler(
        moving,
        init=lambda: own(moving.init(tuple(c.clone() for c in chunks(start)))),
        theta=lambda state: torch.cat(state.params),
        gaussian=lambda state: fitted(state.moments, low_rank),
        learned=lambda state: learned(state.moments, low_rank),
    )
