"""SGLD: stochastic gradient Langevin dynamics.

    θ ← θ + lr ∇ℓ + N(0, 2 lr T/N)

Welling and Teh 2011, https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf, eq. 4, on
the per-datum scale: their ε is 2 lr/N. Transform: `posteriors.sgmcmc.sgld`.
"""

from __future__ import annotations

from bayesgen.config import SGLDSettings
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.sampler import Sampler, position_sampler
from bayesgen.inference.schedules import Plan, lookup
from bayesgen.inference.transforms import posteriors


def build(log_posterior: LogPosterior, settings: SGLDSettings, plan: Plan) -> Sampler:
    transform = posteriors.sgmcmc.sgld.build(
        log_posterior,
        lr=lookup(plan.learning_rate),
        temperature=lookup(plan.temperature / log_posterior.num_observations),
    )
    return position_sampler(transform, log_posterior)
