"""SGNHT: Langevin dynamics whose friction is a thermostat.

    θ ← θ + lr σ⁻² m
    m ← m + lr ∇ℓ(θ) − lr σ⁻² ξ m + N(0, 2 lr α T/N)
    ξ ← ξ + lr (σ⁻² mᵀm / P − T/N)

Ding et al. 2014, https://proceedings.neurips.cc/paper/2014/hash/21fe5b8ba755eeaece7a450849876228,
algorithm 1. Transform: `posteriors.sgmcmc.sgnht`. ξ starts at α and moves in proportion to T/N:
over a short run on a large data set it stays there, and SGNHT is SGHMC. As there, the gradient is
taken at the new θ; ξ is moved by the momenta that the step began with.
"""

from __future__ import annotations

from bayesgen.config import SGNHTSettings
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.sampler import Sampler, momentum_sampler
from bayesgen.inference.schedules import Plan
from bayesgen.inference.transforms import posteriors


def build(log_posterior: LogPosterior, settings: SGNHTSettings, plan: Plan) -> Sampler:
    # the third argument of init is the first ξ
    return momentum_sampler(
        posteriors.sgmcmc.sgnht,
        log_posterior,
        settings,
        plan,
        settings.friction,
        look_ahead=True,
    )
