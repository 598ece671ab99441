"""BAOA: Langevin dynamics by a splitting that is second order in the step size.

    m ← m + lr ∇ℓ;  θ ← θ + (lr/2) σ⁻² m;  m ← e^(−lr γ) m + N(0, (1 − e^(−2 lr γ)) σ² T/N);
    θ ← θ + (lr/2) σ⁻² m,   γ = α σ⁻²

Leimkuhler and Matthews 2015, Molecular Dynamics, p. 271; conjugate to BAOAB with one gradient a
step. Transform: `posteriors.sgmcmc.baoa`.
"""

from __future__ import annotations

from bayesgen.log_posterior import LogPosterior
from bayesgen.samplers.base import Sampler, own, stationary_momenta, underdamped
from bayesgen.samplers.library import posteriors
from bayesgen.samplers.schedules import Plan, lookup
from bayesgen.settings import BAOASettings


def build(log_posterior: LogPosterior, settings: BAOASettings, plan: Plan) -> Sampler:
    module = posteriors.sgmcmc.baoa
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
