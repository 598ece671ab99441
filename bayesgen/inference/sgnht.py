"""SGNHT: Langevin dynamics whose friction is a thermostat.

    θ ← θ + lr σ⁻² m
    m ← m + lr ∇ℓ(θ) − lr σ⁻² ξ m + N(0, 2 lr α T/N)
    ξ ← ξ + lr (σ⁻² mᵀm / P − T/N)

Ding et al. 2014, https://proceedings.neurips.cc/paper/2014/hash/21fe5b8ba755eeaece7a450849876228,
algorithm 1. Transform: `posteriors.sgmcmc.sgnht`. ξ starts at α and moves in proportion to T/N:
over a short run on a large data set it stays there, and SGNHT is SGHMC. As there, the gradient is
taken at the new θ; ξ is moved by the momenta that the step began with.
"""

from bayesgen.config import MomentumSettings
from bayesgen.inference.registry import SamplerSpec, chain

SAMPLER = SamplerSpec(
    name="sgnht",
    summary="SGHMC whose friction is a thermostat",
    paper="https://proceedings.neurips.cc/paper/2014/hash/21fe5b8ba755eeaece7a450849876228",
    settings=MomentumSettings,
    # its init takes the first ξ, too
    build=chain("sgnht", init_with=lambda settings: (settings.friction,), look_ahead=True),
    floats=13.5,
    labelled={"learning_rate": 0.5},
)
