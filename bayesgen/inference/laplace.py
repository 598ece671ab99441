"""Laplace: a Gaussian at the weights where it starts, its precision the diagonal empirical Fisher.

    Σ⁻¹ = (1/T) (Σ_i g_i² + σ⁻²)

over all N observations, g_i the gradient of a window's log-likelihood at θ* and σ² the prior's
variance. Daxberger et al. 2021, https://arxiv.org/abs/2106.14806, section 2. Transform:
`posteriors.laplace.diag_fisher`. After a part of an epoch, or several, the sum is scaled to one
pass. The Gaussian may be the prior of a later task, as in a Kalman filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from bayesgen.config import PerExampleSettings
from bayesgen.config.fields import NonNegative
from bayesgen.inference.registry import SamplerSpec

if TYPE_CHECKING:
    from bayesgen.inference.log_posterior import LogPosterior
    from bayesgen.inference.sampler import Sampler
    from bayesgen.inference.schedules import Plan


@dataclass(frozen=True)
class LaplaceSettings(PerExampleSettings):
    learning_rate: Annotated[NonNegative, "not used by Laplace: leave at 1"] = 1.0


def build(log_posterior: LogPosterior, settings: LaplaceSettings, plan: Plan) -> Sampler:
    import torch

    from bayesgen.inference.libraries import posteriors
    from bayesgen.inference.sampler import Learned, Sampler, diagonal_prior, rows_within, terms_of
    from bayesgen.priors import DiagonalGaussian

    prior = diagonal_prior(log_posterior, "laplace")
    count = log_posterior.likelihood.count

    def report(phi: Any, batch: Any) -> tuple[Any, Any]:
        # the terms travel as the transform's auxiliary output; a piece may hold no target
        values, _ = log_posterior.per_sequence(phi, batch)
        return values, terms_of(-values.detach().sum() / count(batch["labels"]).clamp(min=1))

    transform = posteriors.laplace.diag_fisher.build(report, per_sample=True)
    cut = rows_within(settings, log_posterior.model.layout.size)

    def update(state: Any, batch: Any, inplace: bool = False) -> tuple[Any, Any]:
        shares = []
        for piece in cut(batch):
            state, terms = transform.update(state, piece, inplace=inplace)
            shares.append(terms * count(piece["labels"]))
        return state, torch.stack(shares).sum(0) / count(batch["labels"])

    def gaussian(state: Any) -> DiagonalGaussian:
        fisher = torch.cat(state.prec_diag) / plan.passes
        variance = settings.temperature / (fisher + 1 / prior.variance)
        return DiagonalGaussian(torch.cat(state.params), variance)

    def learned(state: Any) -> Learned:
        mean, variance = (fitted := gaussian(state)).mean, fitted.variance
        # the diagonal counts half in a prior's file
        return Learned("laplace", mean, 2 * variance, mean.new_zeros(0, len(mean)))

    return Sampler.of(
        posteriors.types.Transform(transform.init, update),
        log_posterior,
        gaussian=gaussian,
        learned=learned,
    )


SAMPLER = SamplerSpec(
    name="laplace",
    summary="a diagonal Gaussian at the loaded weights, from the empirical Fisher information",
    paper="https://arxiv.org/abs/2106.14806",
    settings=LaplaceSettings,
    build=build,
    floats=13,
    ignores=("gradient_accumulation", "prior_scale_steps", "learning_rate", "chains"),
)
