"""SGNHT: Langevin dynamics whose friction is a thermostat.

    θ ← θ + lr σ⁻² m
    m ← m + lr ∇ℓ − lr σ⁻² ξ m + N(0, 2 lr α T/N)
    ξ ← ξ + lr (σ⁻² mᵀm / P − T/N)

Ding et al. 2014, https://proceedings.neurips.cc/paper/2014/hash/21fe5b8ba755eeaece7a450849876228,
algorithm 1. Transform: `posteriors.sgmcmc.sgnht`. ξ starts at α and moves in proportion to T/N:
over a short run on a large data set it stays there, and SGNHT is SGHMC.
"""

from __future__ import annotations

from bayesgen.log_posterior import LogPosterior
from bayesgen.samplers.base import Sampler, own, stationary_momenta, underdamped
from bayesgen.samplers.library import posteriors
from bayesgen.samplers.schedules import Plan, lookup
from bayesgen.settings import SGNHTSettings


def build(log_posterior: LogPosterior, settings: SGNHTSettings, plan: Plan) -> Sampler:
    module = posteriors.sgmcmc.sgnht
    transform = module.build(
        log_posterior,
        lr=lookup(plan.learning_rate),
        alpha=settings.friction,
        sigma=settings.momentum_std,
        temperature=lookup(plan.temperature / log_posterior.num_observations),
    )
    affine = log_posterior.affine

    def init() -> object:
        momenta = stationary_momenta(log_posterior, settings.momentum_std, plan)
        return own(module.init(affine.start(), momenta, settings.friction))

    return Sampler(
        transform,
        init,
        theta=lambda state: affine.theta(state.params),
        langevin=underdamped(settings.friction, settings.momentum_std),
    )
