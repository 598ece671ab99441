"""SWAG: a Gaussian around the path of an optimizer.

    q = N(θ̄, ½ (diag(v) + Qᵀ Q)),   Q = (θ_i − θ̄) / √(K − 1)  for the last K collected θ_i

with θ̄ and v the mean and variance of all collected weights. Maddox et al. 2019,
https://arxiv.org/abs/1902.02476, algorithm 1 and eq. 1. The path is that of an optimizer of
torchopt (`bayesgen.inference.moments`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from bayesgen.config import GaussianSettings, idle_unless
from bayesgen.config.fields import Count, Fraction, NonNegative, Steps
from bayesgen.config.shared import FinalFraction, RampFraction
from bayesgen.errors import UserError
from bayesgen.inference.registry import LABELLED_OPTIMIZER, SamplerSpec

if TYPE_CHECKING:
    from bayesgen.inference.log_posterior import LogPosterior
    from bayesgen.inference.sampler import Sampler
    from bayesgen.inference.schedules import Plan


@dataclass(frozen=True)
class SWAGSettings(GaussianSettings):
    learning_rate: Annotated[NonNegative, "the optimizer's, at its peak"] = 1e-3
    optimizer: Annotated[Literal["adamw", "sgd"], "whose path is collected"] = "adamw"
    momentum: Annotated[Fraction, "of sgd"] = 0.9
    weight_decay: Annotated[NonNegative, "the optimizer's own; the prior is in the loss"] = 0.0
    warmup_steps: Annotated[Steps, "steps before the first weights can be collected"] = 1000
    sampling_steps: Annotated[Count, "steps after that"] = 1000
    thinning: Annotated[Count, "steps from one collected model to the next"] = 25
    schedule: Annotated[
        Literal["constant", "cyclical"],
        "of the step size after the warm-up; a cycle falls along a line and ends with a collection",
    ] = "constant"
    ramp_fraction: RampFraction = 0.25
    final_fraction: FinalFraction = 0.1
    covariance: Annotated[
        Literal["low-rank", "diag"], "low rank and diagonal in equal parts, or diagonal alone"
    ] = "low-rank"
    rank: Annotated[Count, "K, deviations that make the low-rank part: the last ones"] = 20
    validation_every: Annotated[
        Steps, "steps between looks at the validation NLL; the best weights are kept (0: none)"
    ] = 0
    validation_samples: Annotated[Count, "windows or examples that are looked at"] = 200

    @property
    def kept(self) -> int:
        return self.rank if self.covariance == "low-rank" else 0

    def without_effect(self) -> dict[str, str]:
        cyclical, sgd = self.schedule == "cyclical", self.optimizer == "sgd"
        watched = self.validation_every > 0
        return {
            **super().without_effect(),
            **idle_unless(cyclical, "needs `schedule=cyclical`", "final_fraction"),
            **idle_unless(sgd, "needs `optimizer=sgd`", "momentum"),
            **idle_unless(self.kept > 0, "needs `covariance=low-rank`", "rank"),
            **idle_unless(watched, "needs `validation_every`", "validation_samples"),
        }


def make_plan(settings: SWAGSettings, steps_per_epoch: int) -> Plan:
    """Warm-up, then weights are collected every `thinning` steps.

    The step size rises over `ramp_fraction` of the warm-up and stays; with `cyclical` it falls
    along a line to lr·final_fraction between two collections (Izmailov et al. 2018,
    https://arxiv.org/abs/1803.05407, section 3.1).
    """
    import torch

    from bayesgen.inference.schedules import Plan, every_step, rising

    step = every_step(settings.warmup_steps + settings.sampling_steps)
    since = step - settings.warmup_steps
    shape = torch.ones_like(step)
    if settings.schedule == "cyclical":
        position = (since % settings.thinning) / max(settings.thinning - 1, 1)
        falling = 1 + (settings.final_fraction - 1) * position
        shape = torch.where(since >= 0, falling, shape)
    shape = rising(shape, round(settings.ramp_fraction * settings.warmup_steps))
    collect = (since >= 0) & ((since + 1) % settings.thinning == 0)
    found = int(collect.sum())
    least = max(2, settings.kept)
    if found < least:
        raise UserError(
            f"`rank={settings.rank}`: only {found} models would be collected, and {least} are"
            " needed; lower `rank` or `thinning`, or raise `sampling_steps`"
        )
    return Plan(settings.learning_rate * shape, torch.ones_like(step), collect)


def build(log_posterior: LogPosterior, settings: SWAGSettings, plan: Plan) -> Sampler:
    from bayesgen.inference.libraries import torchopt
    from bayesgen.inference.moments import Path, follow
    from bayesgen.inference.sampler import Sampler, lookup

    rate, decay = lookup(plan.learning_rate), settings.weight_decay
    optimizer = (
        torchopt.sgd(lr=rate, momentum=settings.momentum, weight_decay=decay)
        if settings.optimizer == "sgd"
        else torchopt.adamw(lr=rate, weight_decay=decay)
    )
    return Sampler.of(
        follow(log_posterior.loss, optimizer, settings.kept, lambda step: bool(plan.collect[step])),
        log_posterior,
        gaussian=Path.gaussian,
        learned=Path.learned,
    )


SAMPLER = SamplerSpec(
    name="swag",
    summary="a low-rank Gaussian around the path of an optimizer",
    paper="https://arxiv.org/abs/1902.02476",
    settings=SWAGSettings,
    build=build,
    floats=lambda settings: 29 + 3 * settings.kept,
    plan=make_plan,
    labelled={
        **LABELLED_OPTIMIZER, "warmup_steps": 120, "sampling_steps": 120, "thinning": 6,
        "ramp_fraction": 0.1, "num_draws": 10,
    },
    ignores=("temperature",),
)  # fmt: skip
