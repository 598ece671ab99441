"""Every setting, once: these dataclasses are the command line, the presets and a run's `run.json`.

A field's annotation carries its help text and its default is the product's default. Classes are
combined by inheritance into one flat set of names for each sampler; importing this module imports
nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from bayesgen.errors import UserError


class Range(NamedTuple):
    """Values that a number may take: from `low` (itself excluded if `above`) to `high`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def refusal(self, value: float) -> str | None:
        """Why `value` is not allowed, or None."""
        if not math.isfinite(value):
            return f"must be a finite number, not {value}"
        if value < self.low or (self.above and value == self.low):
            return f"must be {'above' if self.above else 'at least'} {self.low:g}, not {value}"
        return f"must be at most {self.high:g}, not {value}" if value > self.high else None


Count = Annotated[int, Range(1)]
Steps = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Width = Annotated[float, Range(1e-12, 1e12)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Nucleus = Annotated[float, Range(0, 1, above=True)]
Splits = Literal["val", "train", "test"]

LABELS: Mapping[str, Literal["class", "score"]] = {
    "sequence-classification": "class",
    "regression": "score",
    "sentence-classification": "class",
    "sentence-similarity": "score",
}
"""What a label is, by task with labelled texts: one of a few classes, or a real number."""


def tasks_with(labels: str) -> str:
    """The tasks whose labels are of this kind, in words."""
    return " or ".join(task for task, kind in LABELS.items() if kind == labels)


# what several classes have, with defaults of their own
Temperature = Annotated[NonNegative, "T: 1 is Bayes, below 1 a cold posterior (T/N is ours)"]
FinalFraction = Annotated[Fraction, "step size at the end, as a fraction of the first"]
PriorStd = Annotated[Width, "σ; with --prior-relative the factor s in σᵢ = s·|θᵢ|"]
PriorName = Annotated[
    Literal["normal", "pretrained", "swag"],
    "N(0, σ²), N(loaded weights, σ²), or one learned from pretraining",
]
DataDir = Annotated[str | None, "cache and search place for corpora; embeddings are kept there too"]
BaseDir = Annotated[str, "folder that checkpoints/ lies in"]
Device = Annotated[str, "cpu, cuda, mps, or auto"]
BatchSize = Annotated[Count, "windows per step"]
RandomSeed = Annotated[Seed, "of everything random"]
Checkpointing = Annotated[
    bool, "compute activations again in the backward pass: less memory, more time"
]
LabelledData = Annotated[
    str | None, "labelled data: ag_news, sst2, imdb, stsb, or the path of a file or folder"
]
TextColumn = Annotated[str | None, "of --data (default: found by its name)"]
LabelColumn = Annotated[str | None, "the same, of the labels"]
PairColumn = Annotated[str | None, "the same, of the second text of a pair"]
Validation = Annotated[
    Positive,
    "training rows to hold back, a number or below 1 a share, where --data has no rows for"
    " validation; the same rows for every seed",
]
Corpus = Annotated[str, "python-docs, shakespeare, a UTF-8 text file, or a nanoGPT data folder"]


@dataclass(frozen=True)
class ModelSettings:
    model: Annotated[
        str | None,
        "nanoGPT checkpoint (.pt), or folder or name of a Hugging Face model"
        " (default: checkpoints/baseline/models/baseline_model_2k.pt)",
    ] = None
    meta_path: Annotated[str | None, "meta.pkl of --model, where it does not lie beside it"] = None
    parameters: Annotated[
        str,
        "which parameters are Bayesian: all, last-layer, head, layers=-2:, lora, shell patterns"
        " over their names, or several of these with commas between",
    ] = "all"
    lora_r: Annotated[Count, "rank of the adapters that --parameters lora adds"] = 8
    lora_alpha: Annotated[Positive, "α: the adapters are multiplied by α/r"] = 16.0
    lora_targets: Annotated[
        str | None,
        "layers that get adapters: ends of their names, with commas between (default: PEFT's"
        " choice for the architecture; c_attn for nanoGPT)",
    ] = None
    task: Annotated[
        Literal[
            "causal-lm",
            "sequence-classification",
            "regression",
            "sentence-classification",
            "sentence-similarity",
        ],
        "what the model does",
    ] = "causal-lm"
    device: Device = "auto"
    precision: Annotated[
        Literal["fp32", "bf16"], "of the network's arithmetic; θ is always float32"
    ] = "fp32"


@dataclass(frozen=True)
class DataSettings:
    corpus: Corpus = "python-docs"
    data: LabelledData = None
    data_dir: DataDir = None
    text_column: TextColumn = None
    label_column: LabelColumn = None
    pair_column: PairColumn = None
    validation: Validation = 0.1
    train_samples: Annotated[
        Count | None,
        "training windows (or examples) that make up the data set, drawn by seed (default: all)",
    ] = None
    batch_size: BatchSize = 12
    block_size: Annotated[
        Count | None,
        "tokens per window (default: the model's own, at most 1024), and of an example at most"
        " (default: that of the fine-tune, or the model's own)",
    ] = None
    seed: RandomSeed = 0


@dataclass(frozen=True)
class PriorSettings:
    prior: PriorName = "normal"
    prior_std: PriorStd = 0.2
    prior_relative: Annotated[bool, "width of the pretrained prior relative to each weight"] = False
    prior_scale: Annotated[Positive, "λ, multiplies the prior's covariance"] = 1.0
    prior_path: Annotated[str | None, "file of a learned prior"] = None


@dataclass(frozen=True)
class LoopSettings:
    base_dir: BaseDir = "."
    out: Annotated[
        str | None,
        "folder for the run (default: checkpoints/samplers/<sampler>_sampler/run_<time>)",
    ] = None
    chains: Annotated[Count, "independent chains (or fits), one after the other"] = 1
    gradient_accumulation: Annotated[Count, "micro-batches that each batch is split into"] = 1
    gradient_checkpointing: Checkpointing = False
    log_every: Annotated[Count, "steps between lines of metrics.jsonl"] = 10
    checkpoint_every: Annotated[Count, "steps between saved states (resume is exact at any)"] = 200
    wandb: Annotated[bool, "log to Weights & Biases too (WANDB_AVAILABLE; --no-wandb)"] = False


@dataclass(frozen=True)
class ScoringSettings:
    """How a run's draws are scored."""

    eval_splits: Annotated[
        tuple[Splits, ...] | None,
        "splits to score (default: val; of labelled data test, where there is one)",
    ] = None
    eval_num_posterior_samples: Annotated[Count | None, "draws to use (default: all)"] = None
    eval_max_samples: Annotated[Count | None, "windows to score of each split (default: all)"] = (
        None
    )
    eval_num_text_samples: Annotated[
        Steps, "texts to continue from each split, for BLEU, ROUGE and diversity (0: none)"
    ] = 0
    eval_batch_size: Annotated[Count, "windows per forward pass when scoring"] = 64
    eval_precision: Annotated[
        Literal["fp32", "bf16"],
        "of the network's arithmetic when scoring; bf16 is used only where the processor has it",
    ] = "fp32"
    ood_corpus: Annotated[
        str | None, "a far text (a name or path): how well uncertainty tells it from the split"
    ] = None
    ood_data: Annotated[
        str | None,
        "the same for classifiers: another labelled set (a name or path, its labels are not used),"
        " or a table of texts",
    ] = None


@dataclass(frozen=True)
class EvalSettings(ScoringSettings):
    eval: Annotated[bool, "score the splits after the run"] = False


@dataclass(frozen=True)
class TrainSettings(ModelSettings, DataSettings, PriorSettings, LoopSettings, EvalSettings):
    """What every sampler has."""

    learning_rate: Annotated[NonNegative, "step size; see the sampler's page for its unit"] = 1e-3
    temperature: Temperature = 1.0


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
    ramp_fraction: Annotated[
        Fraction, "part of the warm-up in which the step size rises from 0 to its peak"
    ] = 0.25
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
class GaussianSettings(PassSettings):
    """Methods whose result is a Gaussian: draws are taken from it at the end."""

    prior: PriorName = "pretrained"
    num_draws: Annotated[Count, "draws to take from the fitted Gaussian"] = 30


@dataclass(frozen=True)
class PerExampleSettings(GaussianSettings):
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
class VISettings(GaussianSettings):
    learning_rate: Annotated[NonNegative, "Adam's, for means and log standard deviations"] = 1e-3
    final_fraction: FinalFraction = 0.1
    init_std: Annotated[Width, "standard deviation that every weight starts with"] = 1e-3


@dataclass(frozen=True)
class MAPSettings(PassSettings):
    learning_rate: Annotated[NonNegative, "AdamW's"] = 1e-3
    weight_decay: Annotated[NonNegative, "AdamW's own; the prior is in the loss already"] = 0.0
    final_fraction: FinalFraction = 0.1


@dataclass(frozen=True)
class BaselineSettings:
    """nanoGPT's CPU recipe; `GPU_RECIPE` holds what its GPU recipe changes."""

    recipe: Annotated[
        Literal["cpu", "gpu"], "nanoGPT's recipe that the other values start from"
    ] = "cpu"
    corpus: Corpus = "python-docs"
    data_dir: DataDir = None
    tokenizer: Annotated[Literal["char", "gpt2"], "characters, or GPT-2's byte pairs"] = "char"
    architecture: Annotated[
        Literal["nanogpt", "gpt2", "llama"],
        "nanoGPT's own, or the shape of GPT-2 or Llama, written as a Hugging Face model",
    ] = "nanogpt"
    out: Annotated[
        str | None,
        "file (nanogpt) or folder of the checkpoint (default: checkpoints/baseline/models/...)",
    ] = None
    base_dir: BaseDir = "."
    device: Device = "auto"
    precision: Annotated[Literal["fp32", "bf16"], "of the network's arithmetic"] = "fp32"
    seed: RandomSeed = 1337
    n_layer: Annotated[Count, "transformer blocks"] = 4
    n_head: Annotated[Count, "attention heads"] = 4
    n_embd: Annotated[Count, "width"] = 128
    block_size: Annotated[Count, "longest context in tokens"] = 64
    bias: Annotated[bool, "biases in linear layers and norms"] = False
    dropout: Annotated[Fraction, "while training"] = 0.0
    batch_size: BatchSize = 12
    max_iters: Annotated[Count, "length of the schedule in steps"] = 2000
    stop_at: Annotated[
        Count | None, "stop after this many steps of the schedule: a warm start for a sampler"
    ] = None
    learning_rate: Annotated[NonNegative, "AdamW's; falls to a tenth along a cosine"] = 1e-3
    warmup_iters: Annotated[Steps, "steps of linear warm-up"] = 100
    weight_decay: Annotated[NonNegative, "AdamW's, on matrices"] = 0.1
    beta2: Annotated[Fraction, "AdamW's"] = 0.99
    grad_clip: Annotated[NonNegative, "largest gradient norm; 0 for no clipping"] = 1.0
    eval_interval: Annotated[Count, "steps between evaluations"] = 250
    eval_iters: Annotated[Count, "batches per evaluation"] = 20


@dataclass(frozen=True)
class FinetuneSettings:
    """The deterministic fine-tune; names are those of transformers' `TrainingArguments`."""

    model: Annotated[str | None, "folder or name of a Hugging Face model"] = None
    task: Annotated[
        Literal[
            "sequence-classification",
            "regression",
            "sentence-classification",
            "sentence-similarity",
        ],
        "what the model does: the last two embed each text by the mean of its tokens",
    ] = "sequence-classification"
    head_hidden_size: Annotated[
        Steps | None,
        "width of a layer between embedding and classes; 0: none (default: the model's own, or 0)",
    ] = None
    head_activation: Annotated[
        Literal["tanh", "relu"] | None, "of that layer (default: the model's own, or tanh)"
    ] = None
    head_dropout: Annotated[
        Fraction | None,
        "on the embedding and on that layer, while training (default: the model's own, or 0.1)",
    ] = None
    data: LabelledData = None
    data_dir: DataDir = None
    text_column: TextColumn = None
    label_column: LabelColumn = None
    pair_column: PairColumn = None
    validation: Validation = 0.1
    train_samples: Annotated[Count | None, "training rows to use, drawn by seed (default: all)"] = (
        None
    )
    max_length: Annotated[
        Count | None, "longest text in tokens; the rest is cut (default: the model's own limit)"
    ] = None
    out: Annotated[
        str | None, "folder for the result (default: checkpoints/finetuned/<model>_<data>)"
    ] = None
    base_dir: BaseDir = "."
    device: Device = "auto"
    seed: Annotated[int, Range(0, 2**32 - 1), "of everything random"] = 0
    learning_rate: Annotated[NonNegative, "AdamW's, at its peak"] = 1e-4
    num_train_epochs: Annotated[Positive, "passes over the training rows"] = 3.0
    max_steps: Annotated[Count | None, "optimizer steps, in the place of epochs"] = None
    per_device_train_batch_size: Annotated[Count, "rows per forward pass"] = 16
    per_device_eval_batch_size: Annotated[Count, "the same when scoring"] = 64
    gradient_accumulation_steps: Annotated[Count, "forward passes per optimizer step"] = 1
    warmup_steps: Annotated[
        NonNegative, "steps of linear warm-up; below 1 a fraction of all steps"
    ] = 0.1
    lr_scheduler_type: Annotated[
        Literal["linear", "cosine", "constant", "constant_with_warmup"],
        "of the learning rate after the warm-up (constant has none)",
    ] = "linear"
    weight_decay: Annotated[NonNegative, "AdamW's, on all but norms and biases"] = 0.01
    label_smoothing_factor: Annotated[
        Fraction, "share of each label's weight that is spread over all classes"
    ] = 0.0
    class_weights: Annotated[
        Literal["none", "balanced"], "weigh each row by how rare its class is in the training rows"
    ] = "none"
    max_grad_norm: Annotated[NonNegative, "largest gradient norm; 0 for no clipping"] = 1.0
    bf16: Annotated[bool, "bfloat16 arithmetic; the weights stay float32"] = False
    gradient_checkpointing: Checkpointing = False
    eval_steps: Annotated[
        Count | None, "optimizer steps between evaluations (default: one after each epoch)"
    ] = None
    early_stopping_patience: Annotated[
        Count | None,
        "stop after this many evaluations without a lower validation loss (default: never)",
    ] = None
    freeze: Annotated[
        tuple[str, ...] | None,
        "shell pattern over names of parameters that stay as they are; may be given again",
    ] = None
    eval_test: Annotated[bool, "score the test split at the end"] = False


@dataclass(frozen=True)
class DecodingSettings:
    """How text is generated."""

    max_new_tokens: Annotated[Count, "tokens to generate after the prompt"] = 200
    temperature: Annotated[
        NonNegative, "of the text: divides the log-probabilities; 0 takes the most probable token"
    ] = 1.0
    top_k: Annotated[Count | None, "draw from this many most probable tokens (default: all)"] = None
    top_p: Annotated[
        Nucleus | None, "draw from the most probable tokens that hold this much probability"
    ] = None
    decode: Annotated[
        Literal["mixture", "per-draw"],
        "average the draws' probabilities at every token, or follow one draw in each text",
    ] = "mixture"
    seed: RandomSeed = 0


@dataclass(frozen=True)
class EvaluateSettings(ScoringSettings):
    text: Annotated[str | None, "score this whole text too (a name or path)"] = None
    model: Annotated[str | None, "the runs' model, where it does not lie where it did"] = None
    corpus: Annotated[str | None, "the runs' corpus, where it does not lie where it did"] = None
    data: Annotated[str | None, "the same, of labelled data"] = None
    data_dir: DataDir = None
    device: Device = "auto"


@dataclass(frozen=True)
class GenerateSettings(DecodingSettings):
    prompt: Annotated[
        tuple[str, ...] | None, "text to continue; may be given again (default: a line break)"
    ] = None
    prompt_file: Annotated[str | None, "UTF-8 file whose whole text is the prompt"] = None
    num_texts: Annotated[Count, "texts for each prompt"] = 1
    num_draws: Annotated[
        Count | None, "draws to use, evenly spaced (default: 10, or all where there are fewer)"
    ] = None
    strategy: Annotated[
        Literal["auto", "stacked", "cached", "plain"],
        "all draws in one step, one after the other, or without a cache (auto: by memory)",
    ] = "auto"
    json: Annotated[bool, "print one JSON document"] = False
    model: Annotated[str | None, "the run's model, where it does not lie where it did"] = None
    device: Device = "auto"


@dataclass(frozen=True)
class SimilaritySettings:
    pairs_file: Annotated[
        str | None, "TSV, CSV or JSONL file of pairs: columns sentence1 and sentence2, or two"
    ] = None
    level: Annotated[
        float, Range(0, 1, above=True), "probability that the central intervals hold"
    ] = 0.9
    num_draws: Annotated[Count | None, "draws to use, evenly spaced (default: all)"] = None
    json: Annotated[bool, "print one JSON document"] = False
    out: Annotated[
        str | None, "safetensors file to write: mean and sd of every text's embedding"
    ] = None
    model: Annotated[str | None, "the run's model, where it does not lie where it did"] = None
    device: Device = "auto"


@dataclass(frozen=True)
class ExportSettings:
    out: Annotated[str | None, "folder to write; it must be empty, or not there yet"] = None
    num_draws: Annotated[Count | None, "draws to take, evenly spaced (default: all)"] = None
    model: Annotated[str | None, "the run's model, where it does not lie where it did"] = None


GPU_RECIPE: Mapping[str, Any] = {
    "n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 64, "dropout": 0.2,
    "max_iters": 5000, "eval_iters": 200, "precision": "bf16",
}  # fmt: skip


SAMPLERS: Mapping[str, type[TrainSettings]] = {
    "sgld": SGLDSettings,
    "sghmc": SGHMCSettings,
    "baoa": BAOASettings,
    "sgnht": SGNHTSettings,
    "sglrw": SGLRWSettings,
    "ekf": EKFSettings,
    "laplace": LaplaceSettings,
    "vi": VISettings,
    "map": MAPSettings,
}
"""Each sampler's settings, by the name that `--sampler` takes."""

LABELLED: Mapping[str, Mapping[str, Any]] = {
    "sgld": {"learning_rate": 0.9},
    "sghmc": {"learning_rate": 0.5},
    "baoa": {"learning_rate": 0.5},
    "sgnht": {"learning_rate": 0.5},
    "sglrw": {"learning_rate": 0.36},
}
"""What takes the place of a chain's step size where the data are labelled."""

LABELLED_CHAIN: Mapping[str, Any] = {
    "temperature": 0.3, "batch_size": 32, "warmup_steps": 100, "sampling_steps": 240,
    "thinning": 20, "gradient_clip": 10.0,
}  # fmt: skip
"""The same, of all chains: presets for a fine-tuned encoder, whose N is thousands of examples and
not millions of tokens, and which fits most of them so well that a few make all of the gradient."""


SCORED_STEP = 0.2
"""Step sizes where labels are real numbers, as a fraction of those for classes."""


def labelled_defaults(sampler: str, task: str) -> dict[str, Any]:
    """Defaults that stand in the place of a sampler's own; none for a language model."""
    if task not in LABELS or sampler not in LABELLED:
        return {}
    last = "layers=-2:" if task == "sentence-similarity" else "layers=-2:,head"
    chosen = {**LABELLED_CHAIN, **LABELLED[sampler], "parameters": last}
    if LABELS[task] == "score":
        # a Gaussian with little noise is far sharper than a softmax
        step = SCORED_STEP * chosen["learning_rate"]
        chosen |= {"learning_rate": step, "temperature": 0.01, "preconditioner_damping": 1.0}
    return chosen


class Setting(NamedTuple):
    """One field of a settings class, as a command line needs it.

    `kind` is bool, int, float, str, a Literal, or a tuple of a Literal; `optional` says that None
    is a value too.
    """

    kind: Any
    optional: bool
    help: str
    range: Range
    default: Any


def described(cls: type) -> dict[str, Setting]:
    """Every field of a settings class, by name."""
    hints = get_type_hints(cls, include_extras=True)
    result = {}
    for field in fields(cls):
        kind, extras = _unwrap(hints[field.name])
        optional = get_origin(kind) in (Union, types.UnionType)
        if optional:
            inner = next(arg for arg in get_args(kind) if arg is not type(None))
            kind, more = _unwrap(inner)
            extras += more
        text = next(e for e in extras if isinstance(e, str))
        allowed = next((e for e in extras if isinstance(e, Range)), Range())
        result[field.name] = Setting(kind, optional, text, allowed, field.default)
    return result


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def check_ranges(settings: Any) -> None:
    """Refuse numbers out of their range and words that are no choice, naming the flag.

    Raises:
        UserError: a value cannot be used.
    """
    for name, setting in described(type(settings)).items():
        value = getattr(settings, name)
        if setting.kind in {int, float} and value is not None:
            refusal = setting.range.refusal(value)
            if refusal:
                raise UserError(f"--{name.replace('_', '-')} {refusal}")
        choices = get_args(setting.kind) if get_origin(setting.kind) is Literal else ()
        if choices and value is not None and value not in choices:
            raise UserError(
                f"--{name.replace('_', '-')} must be one of {', '.join(choices)}, not {value!r}"
            )


def without_effect(sampler: str, settings: TrainSettings) -> dict[str, str]:
    """Settings that would change nothing beside the others, and what they need."""
    idle: dict[str, str] = {}

    def needs(condition: bool, why: str, *names: str) -> None:
        if not condition:
            idle.update(dict.fromkeys(names, why))

    adapters = "lora" in settings.parameters.split(",")
    needs(adapters, "needs --parameters lora", "lora_r", "lora_alpha", "lora_targets")
    text = settings.task == "causal-lm"
    labelled = ("data", "text_column", "label_column", "pair_column", "validation")
    needs(not text, f"needs --task {', '.join(LABELS)}", *labelled)
    needs(text, f"has no effect on {settings.task}, which takes --data", "corpus")
    evaluation = [name for name in described(EvalSettings) if name != "eval"]
    needs(settings.eval, "needs --eval", *evaluation)
    if isinstance(settings, ChainSettings):
        cyclical, constant = settings.schedule == "cyclical", settings.schedule == "constant"
        needs(cyclical, "needs --schedule cyclical", "cycles", "cycle_exploration")
        needs(not constant, "has no effect on a constant schedule", "final_fraction")
        measured = settings.preconditioner == "gradients"
        damped = settings.preconditioner in {"gradients", "adam"}
        measured |= settings.gradient_clip > 0
        why = "needs --preconditioner gradients or --gradient-clip"
        needs(measured, why, "preconditioner_batches")
        needs(damped, "needs --preconditioner gradients or adam", "preconditioner_damping")
    why = f"has no effect on {sampler}"
    needs(sampler != "laplace", why, "learning_rate", "chains")
    needs(sampler != "map", why, "temperature")
    needs(not isinstance(settings, PerExampleSettings), why, "gradient_accumulation")
    return idle


def validate(settings: TrainSettings) -> None:
    """Refuse what cannot work, or is not in this version, naming the flag.

    Raises:
        UserError: see the messages.
    """
    check_ranges(settings)
    if settings.prior == "swag" or settings.prior_path is not None:
        raise UserError(
            "--prior swag and --prior-path: priors learned from pretraining are not in this"
            " version; use --prior normal or --prior pretrained"
        )
    if settings.prior_relative and settings.prior != "pretrained":
        raise UserError("--prior-relative needs --prior pretrained")
