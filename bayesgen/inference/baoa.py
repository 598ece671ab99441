"""BAOA: Langevin dynamics by a splitting that is second order in the step size.

    m ← m + lr ∇ℓ;  θ ← θ + (lr/2) σ⁻² m;  m ← e^(−lr γ) m + N(0, (1 − e^(−2 lr γ)) σ² T/N);
    θ ← θ + (lr/2) σ⁻² m,   γ = α σ⁻²

Leimkuhler and Matthews 2015, Molecular Dynamics, p. 271; conjugate to BAOAB with one gradient a
step. Transform: `posteriors.sgmcmc.baoa`.
"""

from __future__ import annotations

from bayesgen.config import BAOASettings
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.sampler import Sampler, momentum_sampler
from bayesgen.inference.schedules import Plan
from bayesgen.inference.transforms import posteriors


def build(log_posterior: LogPosterior, settings: BAOASettings, plan: Plan) -> Sampler:
    return momentum_sampler(posteriors.sgmcmc.baoa, log_posterior, settings, plan)
