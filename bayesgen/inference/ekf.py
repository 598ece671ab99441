"""EKF: a diagonal Gaussian, updated by the extended Kalman filter as the data pass by.

    Σ⁻¹ ← (Σ + τ²)⁻¹ + (lr/T) Σ_i g_i²,   μ ← μ + (lr/T) Σ Σ_i g_i

over the B rows i of a batch, g_i the gradient of the row's log-likelihood at μ; it starts from the
prior, N(μ₀, T σ²). Ollivier 2018, https://arxiv.org/abs/1703.00209, algorithm 1, with the diagonal
of the empirical Fisher. Transform: `posteriors.ekf.diag_fisher`, whose lr multiplies a *mean* over
the batch. lr = 1 is Bayes' rule for one pass over the data; E passes would count the data E times,
so each update is divided by E.

The unit of the Fisher information is the window (language models) or example: a window's gradient
is the sum over its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from bayesgen.config import PerExampleSettings
from bayesgen.config.fields import NonNegative
from bayesgen.errors import UserError
from bayesgen.inference.registry import SamplerSpec

if TYPE_CHECKING:
    from bayesgen.inference.log_posterior import LogPosterior
    from bayesgen.inference.sampler import Sampler
    from bayesgen.inference.schedules import Plan


@dataclass(frozen=True)
class EKFSettings(PerExampleSettings):
    learning_rate: Annotated[NonNegative, "multiplies each update; 1 is Bayes' rule at T"] = 1.0
    transition_std: Annotated[NonNegative, "sd of the random walk between updates"] = 0.0


def build(log_posterior: LogPosterior, settings: EKFSettings, plan: Plan) -> Sampler:
    import torch

    from bayesgen.inference.libraries import posteriors
    from bayesgen.inference.log_posterior import Affine
    from bayesgen.inference.sampler import Sampler, diagonal_prior, rows_within, terms_of
    from bayesgen.priors import DiagonalGaussian

    prior = diagonal_prior(log_posterior, "ekf")
    if settings.temperature == 0:
        raise UserError("`sampler=ekf` divides by `temperature`: it must be above 0")
    inverse_temperature = settings.learning_rate / (settings.temperature * max(1.0, plan.passes))
    cut = rows_within(settings, log_posterior.model.layout.size)

    def update(state: Any, batch: Any, inplace: bool = False) -> tuple[Any, Any]:
        total = torch.zeros((), device=prior.mean.device)
        for index, piece in enumerate(cut(batch)):
            rows = len(piece["labels"])
            state, _ = posteriors.ekf.diag_fisher.update(
                state,
                piece,
                log_posterior.per_sequence,
                lr=inverse_temperature * rows,
                # the random walk is between batches, not between the pieces of one
                transition_sd=settings.transition_std if index == 0 else 0.0,
                per_sample=True,
                inplace=inplace,
            )
            total = total - state.log_likelihood * rows
        return state, terms_of(total / log_posterior.likelihood.count(batch["labels"]))

    def init(_: Any = None) -> Any:
        sd = (settings.temperature * prior.variance).sqrt()
        return posteriors.ekf.diag_fisher.init(Affine(prior.mean).start(), Affine(sd).start())

    return Sampler.of(
        posteriors.types.Transform(init, update),
        log_posterior,
        gaussian=lambda state: DiagonalGaussian(
            torch.cat(state.params), torch.cat(state.sd_diag) ** 2
        ),
    )


SAMPLER = SamplerSpec(
    name="ekf",
    summary="a diagonal Gaussian by the extended Kalman filter, in a pass over the data",
    paper="https://arxiv.org/abs/1703.00209",
    settings=EKFSettings,
    build=build,
    floats=17,
    ignores=("gradient_accumulation", "prior_scale_steps"),
    starts_at_prior=True,
)
