"""SGLD: stochastic gradient Langevin dynamics.

    θ ← θ + lr ∇ℓ + N(0, 2 lr T/N)

Welling and Teh 2011, https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf, eq. 4, on
the per-datum scale: their ε is 2 lr/N. Transform: `posteriors.sgmcmc.sgld`.
"""

from dataclasses import dataclass
from typing import Annotated

from bayesgen.config import ChainSettings
from bayesgen.config.fields import NonNegative
from bayesgen.inference.registry import SamplerSpec, chain


@dataclass(frozen=True)
class SGLDSettings(ChainSettings):
    learning_rate: Annotated[NonNegative, "step size on the per-datum scale"] = 2.5


SAMPLER = SamplerSpec(
    name="sgld",
    summary="Langevin dynamics",
    paper="https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf",
    settings=SGLDSettings,
    build=chain("sgld"),
    floats=10,
    labelled={"learning_rate": 0.9},
)
