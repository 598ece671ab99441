"""BAOA: Langevin dynamics by a splitting that is second order in the step size.

    m ← m + lr ∇ℓ;  θ ← θ + (lr/2) σ⁻² m;  m ← e^(−lr γ) m + N(0, (1 − e^(−2 lr γ)) σ² T/N);
    θ ← θ + (lr/2) σ⁻² m,   γ = α σ⁻²

Leimkuhler and Matthews 2015, Molecular Dynamics, p. 271; conjugate to BAOAB with one gradient a
step. Transform: `posteriors.sgmcmc.baoa`.
"""

from bayesgen.config import MomentumSettings
from bayesgen.inference.registry import SamplerSpec, chain

SAMPLER = SamplerSpec(
    name="baoa",
    summary="Langevin dynamics by a splitting that is second order in the step size",
    paper="https://doi.org/10.1007/978-3-319-16375-8",
    settings=MomentumSettings,
    build=chain("baoa"),
    floats=13.5,
    labelled={"learning_rate": 0.5},
)
