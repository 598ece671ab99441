"""SGLD: stochastic gradient Langevin dynamics.

    θ ← θ + lr ∇ℓ + N(0, 2 lr T/N)

Welling and Teh 2011, https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf, eq. 4, on
the per-datum scale: their ε is 2 lr/N. Transform: `posteriors.sgmcmc.sgld`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from bayesgen.config import ChainSettings
from bayesgen.config.fields import NonNegative
from bayesgen.inference.registry import SamplerSpec

if TYPE_CHECKING:
    from bayesgen.inference.log_posterior import LogPosterior
    from bayesgen.inference.sampler import Sampler
    from bayesgen.inference.schedules import Plan


@dataclass(frozen=True)
class SGLDSettings(ChainSettings):
    learning_rate: Annotated[NonNegative, "step size on the per-datum scale"] = 2.5


def build(log_posterior: LogPosterior, settings: SGLDSettings, plan: Plan) -> Sampler:
    from bayesgen.inference.libraries import posteriors
    from bayesgen.inference.sampler import position_sampler

    return position_sampler(posteriors.sgmcmc.sgld, log_posterior, plan)


SAMPLER = SamplerSpec(
    name="sgld",
    summary="Langevin dynamics",
    paper="https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf",
    settings=SGLDSettings,
    build=build,
    floats=10,
    labelled={"learning_rate": 0.9},
)
