"""SGLRW: Langevin dynamics as a lattice random walk.

    θ ← θ ± √(2 lr T/N),  up with probability ½ (1 + ∇ℓ √(lr N / 2T)), clipped to [0, 1]

Mensch et al. 2026, https://arxiv.org/abs/2602.15925. Transform: `posteriors.sgmcmc.sglrw`. Every
weight moves by the same small amount each step, so the drift saturates where |∇ℓ| exceeds
√(2T / (lr N)): at a low T/N it needs a larger temperature than the other samplers.
"""

from dataclasses import dataclass
from typing import Annotated

from bayesgen.config import ChainSettings
from bayesgen.config.fields import NonNegative
from bayesgen.config.shared import Temperature
from bayesgen.errors import UserError
from bayesgen.inference.registry import SamplerSpec, chain


@dataclass(frozen=True)
class SGLRWSettings(ChainSettings):
    """It moves by its noise alone, so it needs more of it than the others."""

    learning_rate: Annotated[NonNegative, "step size on the per-datum scale"] = 1.0
    temperature: Temperature = 0.1

    def validate(self) -> None:
        super().validate()
        explores = self.warmup_steps > 0 or self.cycle_exploration > 0
        if self.temperature == 0 or (self.schedule == "cyclical" and explores):
            raise UserError(
                "`sampler=sglrw` moves by its noise alone: the temperature must be above 0 at every"
                " step (no cyclical schedule, `temperature` above 0)"
            )


SAMPLER = SamplerSpec(
    name="sglrw",
    summary="Langevin dynamics as a lattice random walk",
    paper="https://arxiv.org/abs/2602.15925",
    settings=SGLRWSettings,
    build=chain("sglrw"),
    floats=10,
    labelled={"learning_rate": 0.36},
)
