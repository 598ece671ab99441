"""VI: mean-field variational inference.

    minimise  −E_q[ℓ(θ)] − (T/N) H[q],   q = N(μ, diag(σ²))

by Adam on (μ, log σ) with reparametrised draws. Blundell et al. 2015,
https://arxiv.org/abs/1505.05424; the gradient with the score term dropped is Roeder et al. 2017,
https://arxiv.org/abs/1703.09194. Transform: `posteriors.vi.diag`.
"""

from __future__ import annotations

import math

import torch

from bayesgen.config import VISettings
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.sampler import Sampler, own
from bayesgen.inference.schedules import Plan, lookup
from bayesgen.inference.transforms import posteriors, torchopt
from bayesgen.parameters import chunks
from bayesgen.priors import DiagonalGaussian


def build(log_posterior: LogPosterior, settings: VISettings, plan: Plan) -> Sampler:
    transform = posteriors.vi.diag.build(
        log_posterior,
        torchopt.adam(lr=lookup(plan.learning_rate)),
        temperature=settings.temperature / log_posterior.num_observations,
        init_log_sds=math.log(settings.init_std),
        stl=True,
    )
    start = log_posterior.model.theta
    return Sampler(
        transform,
        init=lambda: own(transform.init(tuple(c.clone() for c in chunks(start)))),
        theta=lambda state: torch.cat(state.params),
        gaussian=lambda state: DiagonalGaussian(
            torch.cat(state.params), torch.cat(state.log_sd_diag).exp() ** 2
        ),
        inplace=False,
    )
