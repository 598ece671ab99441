"""Settings of each sampler, which are also those of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from bayesgen.config.fields import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    Steps,
    Width,
    check_ranges,
    described,
)
from bayesgen.config.shared import (
    LABELS,
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
    check_prior_settings,
    idle_prior_settings,
)
from bayesgen.errors import UserError


@dataclass(frozen=True)
class TrainSettings(ModelSettings, DataSettings, PriorSettings, LoopSettings, EvalSettings):
    """What every sampler has."""

    learning_rate: Annotated[NonNegative, "step size; see the sampler's page for its unit"] = 1e-3
    temperature: Temperature = 1.0
    init_from: Annotated[
        str | None,
        "finished run on the same model whose mean weights are the start, such as one of `sampler`"
        " map; the prior stays around the loaded weights (default: these)",
    ] = None


@dataclass(frozen=True)
class ChainSettings(TrainSettings):
    """Samplers whose draws are positions of a chain."""

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
    cycles: Annotated[Count, "cycles of the cyclical schedule"] = 4
    cycle_exploration: Annotated[
        Fraction, "noise-free first part of a cycle, as a fraction; draws come from the rest"
    ] = 0.5
    temperature_ramp_steps: Annotated[Steps, "linear rise of the temperature from 0 to T"] = 0
    preconditioner: Annotated[
        str, "gradients (a short pass), adam (the checkpoint's moments), none, or a variance file"
    ] = "gradients"
    preconditioner_batches: Annotated[Count, "batches of the short pass"] = 30
    preconditioner_damping: Annotated[
        NonNegative, "ε: 0 is full preconditioning, large is none"
    ] = 0.01
    gradient_clip: Annotated[
        NonNegative,
        "longest gradient of a step, as a multiple of the typical one at the start; 0: no limit",
    ] = 2.0


@dataclass(frozen=True)
class SGLDSettings(ChainSettings):
    learning_rate: Annotated[NonNegative, "step size on the per-datum scale"] = 2.5


@dataclass(frozen=True)
class MomentumSettings(ChainSettings):
    """Samplers whose position has a velocity. With h the sharpest curvature, BAOA is stable while
    lr²·h is below 4, SGHMC and SGNHT while it is below 4 − 2·lr·α; less friction lets them travel
    farther."""

    learning_rate: Annotated[NonNegative, "time step of the dynamics"] = 1.4
    friction: Annotated[NonNegative, "α; the velocity is forgotten after 1/(lr·α) steps"] = 0.35
    momentum_std: Annotated[Width, "σ: sd of the momenta's target at T/N = 1"] = 1.0


@dataclass(frozen=True)
class SGHMCSettings(MomentumSettings):
    pass


@dataclass(frozen=True)
class BAOASettings(MomentumSettings):
    pass


@dataclass(frozen=True)
class SGNHTSettings(MomentumSettings):
    pass


@dataclass(frozen=True)
class SGLRWSettings(ChainSettings):
    """It moves by its noise alone, so it needs more of it than the others."""

    learning_rate: Annotated[NonNegative, "step size on the per-datum scale"] = 1.0
    temperature: Temperature = 0.1


@dataclass(frozen=True)
class PassSettings(TrainSettings):
    """Methods that pass over the data set: EKF, Laplace, VI and MAP."""

    epochs: Annotated[Positive, "passes over the data set (a fraction is a part of one)"] = 1.0


@dataclass(frozen=True)
class GaussianSettings(TrainSettings):
    """Methods whose result is a Gaussian: draws are taken from it at the end."""

    prior: PriorName = "pretrained"
    num_draws: Annotated[Count, "draws to take from the fitted Gaussian"] = 30


@dataclass(frozen=True)
class PerExampleSettings(GaussianSettings, PassSettings):
    """Methods that take a gradient per window. Flat directions keep the width of the prior, so that
    it has to be narrow beside the weights."""

    prior_std: PriorStd = 0.003
    jacobian_memory: Annotated[
        Count, "MiB that per-example gradients may take; batches are cut to fit"
    ] = 1024


@dataclass(frozen=True)
class EKFSettings(PerExampleSettings):
    learning_rate: Annotated[NonNegative, "multiplies each update; 1 is Bayes' rule at T"] = 1.0
    transition_std: Annotated[NonNegative, "sd of the random walk between updates"] = 0.0


@dataclass(frozen=True)
class LaplaceSettings(PerExampleSettings):
    learning_rate: Annotated[NonNegative, "not used by Laplace: leave at 1"] = 1.0


@dataclass(frozen=True)
class VISettings(GaussianSettings, PassSettings):
    learning_rate: Annotated[NonNegative, "Adam's, for means and log standard deviations"] = 1e-3
    final_fraction: FinalFraction = 0.1
    init_std: Annotated[Width, "standard deviation that every weight starts with"] = 1e-3


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
        Steps,
        "steps between looks at the validation NLL; the best weights are kept (0: none)",
    ] = 0
    validation_samples: Annotated[Count, "windows or examples that are looked at"] = 200


@dataclass(frozen=True)
class MAPSettings(PassSettings):
    learning_rate: Annotated[NonNegative, "AdamW's"] = 1e-3
    weight_decay: Annotated[NonNegative, "AdamW's own; the prior is in the loss already"] = 0.0
    final_fraction: FinalFraction = 0.1


SAMPLERS: Mapping[str, type[TrainSettings]] = {
    "sgld": SGLDSettings,
    "sghmc": SGHMCSettings,
    "baoa": BAOASettings,
    "sgnht": SGNHTSettings,
    "sglrw": SGLRWSettings,
    "ekf": EKFSettings,
    "laplace": LaplaceSettings,
    "vi": VISettings,
    "swag": SWAGSettings,
    "map": MAPSettings,
}
"""Each sampler's settings, by the name that `--sampler` takes."""


def without_effect(sampler: str, settings: TrainSettings) -> dict[str, str]:
    """Settings that would change nothing beside the others, and what they need."""
    idle: dict[str, str] = {}

    def needs(condition: bool, why: str, *names: str) -> None:
        if not condition:
            idle.update(dict.fromkeys(names, why))

    adapters = "lora" in settings.parameters.split(",")
    needs(adapters, "needs `parameters=lora`", "lora_r", "lora_alpha", "lora_targets")
    text = settings.task not in LABELS
    labelled = ("data", "text_column", "label_column", "pair_column", "validation")
    needs(not text, f"needs `task={', '.join(LABELS)}`", *labelled)
    needs(text, f"has no effect on {settings.task}, which takes `data`", "corpus")
    idle |= idle_prior_settings(settings)
    # short runs are scored, too
    also = {"eval_batch_size", "eval_precision"} if settings.prior_scale == "auto" else set()
    evaluation = [name for name in described(EvalSettings) if name not in {"eval", *also}]
    needs(settings.eval, "needs `eval`", *evaluation)
    if isinstance(settings, ChainSettings):
        cyclical, constant = settings.schedule == "cyclical", settings.schedule == "constant"
        needs(cyclical, "needs `schedule=cyclical`", "cycles", "cycle_exploration")
        needs(not constant, "has no effect on a constant schedule", "final_fraction")
        measured = settings.preconditioner == "gradients"
        damped = settings.preconditioner in {"gradients", "adam"}
        measured |= settings.gradient_clip > 0
        why = "needs `preconditioner=gradients` or `gradient_clip`"
        needs(measured, why, "preconditioner_batches")
        needs(damped, "needs `preconditioner=gradients` or adam", "preconditioner_damping")
    if isinstance(settings, SWAGSettings):
        cyclical, low_rank = settings.schedule == "cyclical", settings.covariance == "low-rank"
        needs(cyclical, "needs `schedule=cyclical`", "final_fraction")
        needs(settings.optimizer == "sgd", "needs `optimizer=sgd`", "momentum")
        needs(low_rank, "needs `covariance=low-rank`", "rank")
        needs(settings.validation_every > 0, "needs `validation_every`", "validation_samples")
    why = f"has no effect on {sampler}"
    needs(sampler != "laplace", why, "learning_rate", "chains")
    needs(sampler not in {"map", "swag"}, why, "temperature")
    per_example = isinstance(settings, PerExampleSettings)
    needs(not per_example, why, "gradient_accumulation", "prior_scale_steps")
    return idle


def validate(settings: TrainSettings) -> None:
    """Refuse what cannot work, naming the setting.

    Raises:
        UserError: see the messages.
    """
    check_ranges(settings)
    check_prior_settings(settings)
    if isinstance(settings, EKFSettings) and settings.init_from is not None:
        raise UserError("`init_from`: the EKF starts at the prior's mean; leave it out")
