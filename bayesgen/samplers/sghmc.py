"""SGHMC: stochastic gradient Hamiltonian Monte Carlo.

    θ ← θ + lr σ⁻² m
    m ← m + lr ∇ℓ − lr σ⁻² α m + N(0, 2 lr α T/N)

Chen, Fox and Guestrin 2014, https://arxiv.org/abs/1402.4102, eq. 13. Transform:
`posteriors.sgmcmc.sghmc`. A step size ε and friction α given for the summed log posterior are
lr = ε √N and α/√N here.
"""

from __future__ import annotations

from bayesgen.log_posterior import LogPosterior
from bayesgen.samplers.base import Sampler, own, stationary_momenta, underdamped
from bayesgen.samplers.library import posteriors
from bayesgen.samplers.schedules import Plan, lookup
from bayesgen.settings import SGHMCSettings


def build(log_posterior: LogPosterior, settings: SGHMCSettings, plan: Plan) -> Sampler:
    module = posteriors.sgmcmc.sghmc
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
        return own(module.init(affine.start(), momenta))

    return Sampler(
        transform,
        init,
        theta=lambda state: affine.theta(state.params),
        langevin=underdamped(settings.friction, settings.momentum_std),
    )
