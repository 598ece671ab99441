"""SGHMC: stochastic gradient Hamiltonian Monte Carlo.

    θ ← θ + lr σ⁻² m
    m ← m + lr ∇ℓ(θ) − lr σ⁻² α m + N(0, 2 lr α T/N)

Chen, Fox and Guestrin 2014, https://arxiv.org/abs/1402.4102, algorithm 2. A step size ε and
friction α given for the summed log posterior are lr = ε √N and α/√N here.

Transform: `posteriors.sgmcmc.sghmc`, given a log density that looks ahead. On its own it takes the
gradient at the old θ: explicit Euler, which gains energy, so that a direction of curvature h is
stable only while lr/α < 1/h, whatever the friction, half of what SGLD bears. At the new θ, as in
the paper, the steps are symplectic but for friction and noise, and stable while lr² h / σ² <
4 − 2 lr α / σ². Their stationary variance is too large by 1 / (1 − lr² h / (4 − 2 lr α)) at σ = 1:
small only where lr² h is. BAOA has no such error in a quadratic well.
"""

from bayesgen.config import MomentumSettings
from bayesgen.inference.registry import SamplerSpec, chain

SAMPLER = SamplerSpec(
    name="sghmc",
    summary="Hamiltonian dynamics with friction and noise",
    paper="https://arxiv.org/abs/1402.4102",
    settings=MomentumSettings,
    build=chain("sghmc", look_ahead=True),
    floats=13.5,
    labelled={"learning_rate": 0.5},
)
