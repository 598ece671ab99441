"""VI: mean-field variational inference.

    minimise  −E_q[ℓ(θ)] − (T/N) H[q],   q = N(μ, diag(σ²))

by Adam on (μ, log σ) with reparametrised draws. Blundell et al. 2015,
https://arxiv.org/abs/1505.05424; the gradient with the score term dropped is Roeder et al. 2017,
https://arxiv.org/abs/1703.09194. Transform: `posteriors.vi.diag`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from bayesgen.config import GaussianSettings, PassSettings
from bayesgen.config.fields import NonNegative, Width
from bayesgen.config.shared import FinalFraction
from bayesgen.inference.registry import SamplerSpec

if TYPE_CHECKING:
    from bayesgen.inference.log_posterior import LogPosterior
    from bayesgen.inference.sampler import Sampler
    from bayesgen.inference.schedules import Plan


@dataclass(frozen=True)
class VISettings(GaussianSettings, PassSettings):
    learning_rate: Annotated[NonNegative, "Adam's, for means and log standard deviations"] = 1e-3
    final_fraction: FinalFraction = 0.1
    init_std: Annotated[Width, "standard deviation that every weight starts with"] = 1e-3


def build(log_posterior: LogPosterior, settings: VISettings, plan: Plan) -> Sampler:
    import torch

    from bayesgen.inference.libraries import posteriors, torchopt
    from bayesgen.inference.sampler import Sampler, lookup
    from bayesgen.priors import DiagonalGaussian

    transform = posteriors.vi.diag.build(
        log_posterior,
        torchopt.adam(lr=lookup(plan.learning_rate)),
        temperature=settings.temperature / log_posterior.num_observations,
        init_log_sds=math.log(settings.init_std),
        stl=True,
    )
    return Sampler.of(
        transform,
        log_posterior,
        gaussian=lambda state: DiagonalGaussian(
            torch.cat(state.params), torch.cat(state.log_sd_diag).exp() ** 2
        ),
        inplace=False,
    )


SAMPLER = SamplerSpec(
    name="vi",
    summary="a diagonal Gaussian by mean-field variational inference",
    paper="https://arxiv.org/abs/1505.05424",
    settings=VISettings,
    build=build,
    floats=39,
)
