"""Settings that several commands share, and the registry of what the setting `prior` can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from bayesgen.config.fields import (
    Advanced,
    Count,
    Fraction,
    Names,
    NonNegative,
    Positive,
    Precision,
    Range,
    Seed,
    Splits,
    Steps,
    Width,
    check_ranges,
)
from bayesgen.errors import UserError
from bayesgen.registry import Registry
from bayesgen.tasks import tasks_that

# what several classes have, with defaults of their own
Temperature = Annotated[NonNegative, "T: 1 is Bayes, below 1 a cold posterior (T/N is ours)"]
RampFraction = Annotated[
    Fraction, "part of the warm-up in which the step size rises from 0 to its peak", Advanced
]
FinalFraction = Annotated[Fraction, "step size at the end, as a fraction of the first", Advanced]
PriorStd = Annotated[Width, "σ; with `prior_relative` the factor s in σᵢ = s·|θᵢ|"]
PriorName = Annotated[
    str,
    Names(lambda: tuple(PRIORS)),
    "density before any data: N(0, σ²), N(loaded weights, σ²), a learned one, or yours",
]
DataDir = Annotated[
    str | None, "cache and search path for corpora; embeddings are cached there too", Advanced
]
BaseDir = Annotated[str, "folder that contains checkpoints/", Advanced]
Device = Annotated[str, "cpu, cuda, mps, or auto"]
BatchSize = Annotated[Count, "windows per step"]
RandomSeed = Annotated[Seed, "seed of everything random"]
Checkpointing = Annotated[
    bool, "recompute activations in the backward pass: less memory, more time", Advanced
]
Corpus = Annotated[
    str,
    "python-docs, shakespeare, a UTF-8 text file, a nanoGPT data folder, or the texts alone of"
    " labelled data (ag_news, ..., a .tsv, .csv or .jsonl file)",
]
JsonOutput = Annotated[bool, "print one JSON document"]


def idle_unless(condition: bool, why: str, *names: str) -> dict[str, str]:
    """The settings `names`, each with the reason that it has no effect, unless `condition`."""
    return {} if condition else dict.fromkeys(names, why)


@dataclass(frozen=True)
class PriorSpec:
    """A prior that can be named; `bayesgen.priors.base` says how one is added.

    Attributes:
        name: what the setting `prior` takes.
        summary: the density in a few words.
        build: makes it, a `bayesgen.priors.Prior`, of the settings (a `PriorSettings` whose λ is a
            number) and of the weights that it is for (a `bayesgen.priors.Weights`); or
            "module:function".
        uses: the settings among `PRIOR_SETTINGS` that change it; the others are refused beside it.
        scales: λ that `prior_scale=auto` tries, increasing by about the same factor; where there
            are none, λ must be a number.
        written_by: for a prior that is read from `prior_path`, what writes that file, in words;
            None for one that the settings make.
    """

    name: str
    summary: str
    build: Callable[[Any, Any], Any] | str
    uses: frozenset[str] = frozenset({"prior_std"})
    scales: tuple[float, ...] = ()
    written_by: str | None = None

    @property
    def learned(self) -> bool:
        """Whether the density is read from `prior_path`."""
        return self.written_by is not None


PRIOR_SETTINGS = {
    "prior_std": "",
    "prior_relative": "needs `prior=pretrained`",
    "prior_path": "needs `prior=swag`, laplace or pretrained",
    "prior_epsilon": "needs `prior=swag` or `prior=laplace`",
}
"""Settings that only some priors have, and what is said where another one is named."""

STATED_SCALES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
"""λ where `prior_std` states the width, in the same units as the weights."""
_NORMAL = PriorSpec("normal", "N(0, σ²)", "bayesgen.priors.build:isotropic", scales=STATED_SCALES)
_PRETRAINED = replace(
    _NORMAL,
    name="pretrained",
    summary="N(loaded weights, σ²)",
    uses=frozenset({"prior_std", "prior_relative", "prior_path"}),
)
_SWAG = PriorSpec(
    "swag",
    "learned from the path of an optimizer in pretraining",
    "bayesgen.priors.build:learned",
    uses=frozenset({"prior_path", "prior_epsilon"}),
    scales=(0.1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5),  # far narrower than what a task may need
    written_by="bayesgen prior learn",
)
_LAPLACE = replace(
    _SWAG,
    name="laplace",
    summary="learned from the curvature at the end of pretraining",
    written_by="a run with `sampler=laplace`",
)
PRIORS: Registry[PriorSpec] = Registry(
    "prior", {spec.name: spec for spec in (_NORMAL, _PRETRAINED, _SWAG, _LAPLACE)}
)


@dataclass(frozen=True)
class ModelSettings:
    group: ClassVar[str] = "model"
    model: Annotated[
        str | None,
        "nanoGPT checkpoint (.pt), or folder or name of a Hugging Face model"
        " (default: checkpoints/baseline/models/baseline_model_2k.pt)",
    ] = None
    meta_path: Annotated[str | None, "meta.pkl of `model`, if it is not beside it", Advanced] = None
    parameters: Annotated[
        str,
        "which parameters are Bayesian: all, last-layer, head, layers=-2:, lora, shell patterns"
        " over their names, or a comma-separated list of these",
    ] = "all"
    lora_r: Annotated[Count, "rank of the adapters of `parameters=lora`", Advanced] = 8
    lora_alpha: Annotated[Positive, "α: the adapters are multiplied by α/r", Advanced] = 16.0
    lora_targets: Annotated[
        str | None,
        "ends of the names of the adapted layers, comma-separated (default: PEFT's)",
        Advanced,
    ] = None
    task: Annotated[str, Names(partial(tasks_that, "sample")), "what the model does"] = "causal-lm"
    device: Device = "auto"
    precision: Annotated[Precision, "of the network's arithmetic; θ is always float32"] = "fp32"


@dataclass(frozen=True)
class LabelledSettings:
    """Which labelled data, and how to read them."""

    group: ClassVar[str] = "data"
    data: Annotated[
        str | None, "labelled data: ag_news, sst2, imdb, stsb, or the path of a file or folder"
    ] = None
    data_dir: DataDir = None
    text_column: Annotated[str | None, "of `data` (default: found by name)", Advanced] = None
    label_column: Annotated[str | None, "the same for the labels", Advanced] = None
    pair_column: Annotated[str | None, "the same for the second text of a pair", Advanced] = None
    validation: Annotated[
        Positive, "rows to hold out if `data` has no validation split; below 1 a share", Advanced
    ] = 0.1


@dataclass(frozen=True)
class CorpusSettings:
    group: ClassVar[str] = "data"
    corpus: Corpus = "python-docs"


@dataclass(frozen=True)
class DataSettings(LabelledSettings, CorpusSettings):
    train_samples: Annotated[
        Count | None,
        "training windows (or examples) that make up the data set, drawn by seed (default: all)",
    ] = None
    batch_size: BatchSize = 12
    block_size: Annotated[
        Count | None,
        "tokens per window (default: the model's own, at most 1024), or at most per example"
        " (default: that of the fine-tune, or the model's own)",
    ] = None
    seed: RandomSeed = 0


@dataclass(frozen=True)
class PriorSettings:
    group: ClassVar[str] = "prior"
    prior: PriorName = "normal"
    prior_std: PriorStd = 0.2
    prior_relative: Annotated[bool, "σ of `prior=pretrained` per weight", Advanced] = False
    prior_scale: Annotated[
        float | Literal["auto"],
        "λ, multiplies the prior's covariance; auto: the one with the best validation NLL in short"
        " runs on a grid",
        Range(1e-12, 1e12),
    ] = 1.0
    prior_scale_steps: Annotated[Count, "steps of the short run for each λ", Advanced] = 100
    prior_path: Annotated[
        str | None,
        "learned prior (a file, or the folder of the run that learned it); with"
        " `prior=pretrained` its mean is the centre",
    ] = None
    prior_epsilon: Annotated[
        Positive, "ε, variance that a learned prior adds to every weight", Advanced
    ] = 1e-6
    head_prior_std: Annotated[
        Width | None,
        "σ of N(0, σ²) on a new head, and on parameters that a learned prior does not have"
        " (default: the other weights' prior; 0.5 with `prior=swag` or laplace)",
        Advanced,
    ] = None

    def validate(self) -> None:
        """Refuse numbers out of their range and settings that exclude each other, naming them."""
        check_ranges(self)
        spec = PRIORS[self.prior]
        if spec.learned and self.prior_path is None:
            raise UserError(
                f"`prior={self.prior}`, {spec.summary}, needs its file: `prior_path=FILE`"
                f" ({spec.written_by} writes one)"
            )
        if self.prior_relative and "prior_relative" not in spec.uses:
            raise UserError(f"`prior_relative` {PRIOR_SETTINGS['prior_relative']}")
        if self.prior_scale == "auto" and not spec.scales:
            raise UserError(f"`prior_scale=auto`: `prior={self.prior}` has no grid; give a number")

    def without_effect(self) -> dict[str, str]:
        """Settings that would change nothing beside the others, and what they need."""
        uses = PRIORS[self.prior].uses | {"prior_relative"}  # refused where it is True
        why = f"has no effect on `prior={self.prior}`"
        idle = {name: needs or why for name, needs in PRIOR_SETTINGS.items() if name not in uses}
        return idle | idle_unless(
            self.prior_scale == "auto", "needs `prior_scale=auto`", "prior_scale_steps"
        )


@dataclass(frozen=True)
class LoopSettings:
    group: ClassVar[str] = "run"
    base_dir: BaseDir = "."
    out: Annotated[
        str | None,
        "folder for the run (default: checkpoints/samplers/<sampler>_sampler/run_<time>)",
    ] = None
    chains: Annotated[Count, "independent chains (or fits), one after the other"] = 1
    gradient_accumulation: Annotated[Count, "micro-batches per batch", Advanced] = 1
    gradient_checkpointing: Checkpointing = False
    log_every: Annotated[Count, "steps between lines of metrics.jsonl", Advanced] = 10
    checkpoint_every: Annotated[
        Count, "steps between saved states (resume is exact at any)", Advanced
    ] = 200
    wandb: Annotated[
        bool, "log to Weights & Biases too (WANDB_AVAILABLE; `wandb=False`)", Advanced
    ] = False


@dataclass(frozen=True)
class ScoringSettings:
    """How a run's draws are scored."""

    group: ClassVar[str] = "evaluation"
    eval_splits: Annotated[
        tuple[Splits, ...] | None,
        "splits to score (default: val; for labelled data test, if there is one)",
    ] = None
    eval_num_posterior_samples: Annotated[Count | None, "draws to use (default: all)"] = None
    eval_max_samples: Annotated[
        Count | None, "windows to score per split (default: all)", Advanced
    ] = None
    eval_num_text_samples: Annotated[
        Steps,
        "texts to continue from each split, for BLEU, ROUGE and diversity (0: none)",
        Advanced,
    ] = 0
    eval_batch_size: Annotated[Count, "windows per forward pass when scoring", Advanced] = 64
    eval_precision: Annotated[
        Precision,
        "of the network's arithmetic when scoring; bf16 is used only if the processor has it",
        Advanced,
    ] = "fp32"
    ood_corpus: Annotated[
        str | None,
        "out-of-distribution text (a name or path): how well uncertainty tells it from the split",
    ] = None
    ood_data: Annotated[
        str | None,
        "the same for classifiers: another labelled data set (a name or path, its labels are not"
        " used), or a table of texts",
    ] = None


@dataclass(frozen=True)
class EvalSettings(ScoringSettings):
    eval: Annotated[bool, "score the splits after the run"] = False
