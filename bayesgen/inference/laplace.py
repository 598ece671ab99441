"""Laplace: a Gaussian at the weights where it starts, its precision the diagonal empirical Fisher.

    Σ⁻¹ = (1/T) (Σ_i g_i² + σ⁻²)

over all N observations, g_i the gradient of a window's log-likelihood at θ* and σ² the prior's
variance. Daxberger et al. 2021, https://arxiv.org/abs/2106.14806, section 2. Transform:
`posteriors.laplace.diag_fisher`. After a part of an epoch, or several, the sum is scaled to one
pass. The Gaussian may be the prior of a later task, as in a Kalman filter.
"""

from __future__ import annotations

from typing import Any

import torch

from bayesgen.config import LaplaceSettings
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.sampler import Learned, Sampler, diagonal_prior, own, rows_within
from bayesgen.inference.schedules import Plan
from bayesgen.inference.transforms import posteriors
from bayesgen.models.functional import Batch
from bayesgen.parameters import chunks
from bayesgen.priors import DiagonalGaussian


def build(log_posterior: LogPosterior, settings: LaplaceSettings, plan: Plan) -> Sampler:
    prior = diagonal_prior(log_posterior, "laplace")

    def report(phi: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        # the terms travel as the transform's auxiliary output
        values, _ = log_posterior.per_sequence(phi, batch)
        # a piece of a batch may hold no target
        count = log_posterior.likelihood.count(batch["labels"]).clamp(min=1)
        nll = -values.detach().sum() / count
        return values, torch.stack([nll, torch.zeros_like(nll), torch.zeros_like(nll)])

    transform = posteriors.laplace.diag_fisher.build(report, per_sample=True)
    cut = rows_within(settings, log_posterior.model.layout.size)

    def update(state: Any, batch: Batch, inplace: bool = False) -> tuple[Any, torch.Tensor]:
        pieces = cut(batch)
        shares = []
        for piece in pieces:
            state, terms = transform.update(state, piece, inplace=inplace)
            shares.append(terms * log_posterior.likelihood.count(piece["labels"]))
        total = log_posterior.likelihood.count(batch["labels"])
        return state, torch.stack(shares).sum(0) / total

    start = log_posterior.model.theta

    def gaussian(state: Any) -> DiagonalGaussian:
        fisher = torch.cat(state.prec_diag) / plan.passes
        variance = settings.temperature / (fisher + 1 / prior.variance)
        return DiagonalGaussian(torch.cat(state.params), variance)

    def learned(state: Any) -> Learned:
        fitted = gaussian(state)
        # of a prior's file the diagonal counts half
        return Learned(
            "laplace", fitted.mean, 2 * fitted.variance, fitted.mean.new_zeros(0, len(start))
        )

    return Sampler(
        posteriors.types.Transform(transform.init, update),
        init=lambda: own(transform.init(tuple(c.clone() for c in chunks(start)))),
        theta=lambda state: torch.cat(state.params),
        gaussian=gaussian,
        learned=learned,
    )
