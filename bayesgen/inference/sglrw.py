"""SGLRW: Langevin dynamics as a lattice random walk.

    θ ← θ ± √(2 lr T/N),  up with probability ½ (1 + ∇ℓ √(lr N / 2T)), clipped to [0, 1]

Mensch et al. 2026, https://arxiv.org/abs/2602.15925. Transform: `posteriors.sgmcmc.sglrw`. Every
weight moves by the same small amount each step, so the drift saturates where |∇ℓ| exceeds
√(2T / (lr N)): at a low T/N it needs a larger temperature than the other samplers.
"""

from __future__ import annotations

from bayesgen.config import SGLRWSettings
from bayesgen.errors import UserError
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.sampler import Sampler, position_sampler
from bayesgen.inference.schedules import Plan, lookup
from bayesgen.inference.transforms import posteriors


def build(log_posterior: LogPosterior, settings: SGLRWSettings, plan: Plan) -> Sampler:
    if not (plan.temperature > 0).all():
        raise UserError(
            "`sampler` sglrw moves by its noise alone: the temperature must be above 0 at every"
            " step (no cyclical schedule, `temperature` above 0)"
        )
    transform = posteriors.sgmcmc.sglrw.build(
        log_posterior,
        lr=lookup(plan.learning_rate),
        temperature=lookup(plan.temperature / log_posterior.num_observations),
    )
    return position_sampler(transform, log_posterior)
