"""MAP: the maximum of the log posterior, by AdamW through the same loop.

    θ ← argmax ℓ(θ)

The point estimate that every posterior is compared with. Loshchilov and Hutter 2019,
https://arxiv.org/abs/1711.05101. Transform: `posteriors.torchopt` with torchopt's AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from bayesgen.config import PassSettings
from bayesgen.config.fields import NonNegative
from bayesgen.config.shared import FinalFraction
from bayesgen.inference.registry import LABELLED_OPTIMIZER, SamplerSpec

if TYPE_CHECKING:
    from bayesgen.inference.log_posterior import LogPosterior
    from bayesgen.inference.sampler import Sampler
    from bayesgen.inference.schedules import Plan


@dataclass(frozen=True)
class MAPSettings(PassSettings):
    learning_rate: Annotated[NonNegative, "AdamW's"] = 1e-3
    weight_decay: Annotated[NonNegative, "AdamW's own; the prior is in the loss already"] = 0.0
    final_fraction: FinalFraction = 0.1


def build(log_posterior: LogPosterior, settings: MAPSettings, plan: Plan) -> Sampler:
    from bayesgen.inference.libraries import posteriors, torchopt
    from bayesgen.inference.sampler import Sampler, lookup

    optimizer = torchopt.adamw(lr=lookup(plan.learning_rate), weight_decay=settings.weight_decay)
    transform = posteriors.torchopt.build(log_posterior.loss, optimizer)
    return Sampler.of(transform, log_posterior, inplace=False)


SAMPLER = SamplerSpec(
    name="map",
    summary="the maximum of the log posterior, by AdamW: a point estimate",
    paper="https://arxiv.org/abs/1711.05101",
    settings=MAPSettings,
    build=build,
    floats=14.5,
    labelled={**LABELLED_OPTIMIZER, "epochs": 3.0},
    ignores=("temperature",),
)
