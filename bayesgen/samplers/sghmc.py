"""SGHMC: stochastic gradient Hamiltonian Monte Carlo.

    θ ← θ + lr σ⁻² m
    m ← m + lr ∇ℓ − lr σ⁻² α m + N(0, 2 lr α T/N)

Chen, Fox and Guestrin 2014, https://arxiv.org/abs/1402.4102, eq. 13. Transform:
`posteriors.sgmcmc.sghmc`. A step size ε and friction α given for the summed log posterior are
lr = ε √N and α/√N here.

Both updates use the old state (explicit Euler), so that a direction of curvature h is stable only
while lr/α < 1/h, whatever the friction: half of what SGLD bears. BAOA takes larger steps.
"""

from __future__ import annotations

from bayesgen.log_posterior import LogPosterior
from bayesgen.samplers.base import Sampler, momentum_sampler
from bayesgen.samplers.quiet import posteriors
from bayesgen.samplers.schedules import Plan
from bayesgen.settings import SGHMCSettings


def build(log_posterior: LogPosterior, settings: SGHMCSettings, plan: Plan) -> Sampler:
    return momentum_sampler(posteriors.sgmcmc.sghmc, log_posterior, settings, plan)
