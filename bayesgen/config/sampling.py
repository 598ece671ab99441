"""Settings of a run, and what the samplers of a kind share: a sampler's own are in its file.

The class a sampler's settings inherit from says what its draws are, how they are prepared and which
settings have an effect: `draws_from` and the methods below are all that the rest of bayesgen asks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

from bayesgen.config.fields import Advanced, Count, Fraction, NonNegative, Positive, Steps, Width
from bayesgen.config.shared import (
    DataSettings,
    EvalSettings,
    FinalFraction,
    LoopSettings,
    ModelSettings,
    PriorName,
    PriorSettings,
    PriorStd,
    RampFraction,
    Temperature,
    idle_unless,
)
from bayesgen.tasks import TASKS, tasks_that

Draws = Literal["chain", "gaussian", "point"]
"""What draws are: positions of a chain, samples of a fitted Gaussian, or one point estimate."""


@dataclass(frozen=True)
class TrainSettings(ModelSettings, DataSettings, PriorSettings, LoopSettings, EvalSettings):
    """What every sampler has. Subclasses extend the methods by calling `super()`."""

    learning_rate: Annotated[NonNegative, "step size; see the sampler's page for its unit"] = 1e-3
    temperature: Temperature = 1.0
    init_from: Annotated[
        str | None,
        "finished run on the same model whose mean weights are the start, such as one of `sampler`"
        " map; the prior stays around the loaded weights (default: these)",
    ] = None

    group: ClassVar[str] = "sampler"
    draws_from: ClassVar[Draws] = "point"
    if_diverged: ClassVar[str] = "lower `learning_rate`"
    """What to do about a run whose loss or θ is not finite any more."""

    @property
    def num_draws_at_most(self) -> int:
        """Draws of one chain; a cyclical schedule collects fewer."""
        return 1

    @property
    def measured_batches(self) -> int:
        """Batches whose gradients are measured before the first step."""
        return 0

    def phase(self, step: int) -> str:
        """What the run does at `step`, where there is more than one thing to do."""
        return ""

    def without_effect(self) -> dict[str, str]:
        lora = "lora" in self.parameters.split(",")
        idle = idle_unless(lora, "needs `parameters=lora`", "lora_r", "lora_alpha", "lora_targets")
        if TASKS[self.task].is_labelled:
            idle["corpus"] = f"has no effect on {self.task}, which takes `data`"
        else:
            labelled = ("data", "text_column", "label_column", "pair_column", "validation")
            choices = ", ".join(tasks_that("sample", "class", "number"))
            idle |= dict.fromkeys(labelled, f"needs `task={choices}`")
        idle |= super().without_effect()
        # the short runs that choose λ are scored, too
        used = {"eval_batch_size", "eval_precision"} if self.prior_scale == "auto" else set()
        unused = [f.name for f in fields(EvalSettings) if f.name not in {"eval", *used}]
        return idle | idle_unless(self.eval, "needs `eval`", *unused)


@dataclass(frozen=True)
class ChainSettings(TrainSettings):
    """Samplers whose draws are positions of a chain. They are preconditioned."""

    temperature: Temperature = 0.01
    warmup_steps: Annotated[Steps, "steps before the first draw can be collected"] = 2250
    sampling_steps: Annotated[Count, "steps after warm-up"] = 750
    thinning: Annotated[Count, "steps from one draw to the next"] = 25
    schedule: Annotated[
        Literal["constant", "cosine", "linear", "cyclical"],
        "of the step size: cosine and linear stay at the peak in warm-up and fall while sampling",
    ] = "linear"
    ramp_fraction: RampFraction = 0.25
    final_fraction: FinalFraction = 0.02
    cycles: Annotated[Count, "cycles of the cyclical schedule", Advanced] = 4
    cycle_exploration: Annotated[
        Fraction,
        "noise-free first part of a cycle, as a fraction; draws come from the rest",
        Advanced,
    ] = 0.5
    temperature_ramp_steps: Annotated[
        Steps, "linear rise of the temperature from 0 to T", Advanced
    ] = 0
    preconditioner: Annotated[
        str,
        "gradients (a short pass), adam (the checkpoint's moments), none, or a variance file",
        Advanced,
    ] = "gradients"
    preconditioner_batches: Annotated[Count, "batches of the short pass", Advanced] = 30
    preconditioner_damping: Annotated[
        NonNegative, "ε: 0 is full preconditioning, large is none", Advanced
    ] = 0.01
    gradient_clip: Annotated[
        NonNegative,
        "longest gradient of a step, as a multiple of the typical one at the start; 0: no limit",
        Advanced,
    ] = 2.0

    draws_from: ClassVar[Draws] = "chain"
    if_diverged: ClassVar[str] = (
        "lower `learning_rate` or `temperature`, or raise `preconditioner_damping`"
    )

    @property
    def num_draws_at_most(self) -> int:
        return self.sampling_steps // self.thinning

    @property
    def measured_batches(self) -> int:
        needed = self.preconditioner == "gradients" or self.gradient_clip > 0
        return self.preconditioner_batches if needed else 0

    def phase(self, step: int) -> str:
        return "warm-up" if step < self.warmup_steps else "sampling"

    def longest_step(self, curvature: float) -> float:
        """The largest step size that follows a direction of this curvature without overshooting."""
        # Langevin dynamics is unstable beyond lr c = 2: half leaves room for the likelihood
        return 1 / curvature

    def without_effect(self) -> dict[str, str]:
        idle = super().without_effect()
        if self.schedule != "cyclical":
            idle["cycles"] = idle["cycle_exploration"] = "needs `schedule=cyclical`"
        if self.schedule == "constant":
            idle["final_fraction"] = "has no effect on a constant schedule"
        if self.measured_batches == 0:
            idle["preconditioner_batches"] = "needs `preconditioner=gradients` or `gradient_clip`"
        if self.preconditioner not in {"gradients", "adam"}:
            idle["preconditioner_damping"] = "needs `preconditioner=gradients` or adam"
        return idle


@dataclass(frozen=True)
class MomentumSettings(ChainSettings):
    """Samplers whose position has a velocity. With h the sharpest curvature, BAOA is stable while
    lr²·h is below 4, SGHMC and SGNHT while it is below 4 − 2·lr·α; less friction lets them travel
    farther."""

    learning_rate: Annotated[NonNegative, "time step of the dynamics"] = 1.4
    friction: Annotated[NonNegative, "α; the velocity is forgotten after 1/(lr·α) steps"] = 0.35
    momentum_std: Annotated[Width, "σ: sd of the momenta's target at T/N = 1", Advanced] = 1.0

    def longest_step(self, curvature: float) -> float:
        # unstable beyond lr² c = 4 σ²
        return self.momentum_std / math.sqrt(curvature)


@dataclass(frozen=True)
class PassSettings(TrainSettings):
    """Methods that pass over the data set, and whose result is their last state."""

    epochs: Annotated[Positive, "passes over the data set (a fraction is a part of one)"] = 1.0


@dataclass(frozen=True)
class GaussianSettings(TrainSettings):
    """Methods whose result is a Gaussian: draws are taken from it at the end."""

    prior: PriorName = "pretrained"
    num_draws: Annotated[Count, "draws to take from the fitted Gaussian"] = 30

    draws_from: ClassVar[Draws] = "gaussian"

    @property
    def num_draws_at_most(self) -> int:
        return self.num_draws


@dataclass(frozen=True)
class PerExampleSettings(GaussianSettings, PassSettings):
    """Methods that take a gradient per window. Flat directions keep the width of the prior, so that
    it has to be narrow beside the weights."""

    prior_std: PriorStd = 0.003
    jacobian_memory: Annotated[
        Count, "MiB that per-example gradients may take; batches are cut to fit", Advanced
    ] = 1024

    @staticmethod
    def row_bytes(size: int) -> int:
        """Memory of one row of a Jacobian [B, size], which an update holds about four times over:
        collected rows, their stack, the cotangent product under vmap, and the squares."""
        return 4 * 4 * size
