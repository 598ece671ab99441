"""Settings of the commands other than sampling."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from bayesgen.config.fields import (
    Advanced,
    Count,
    Fraction,
    Names,
    NonNegative,
    Nucleus,
    Positive,
    Precision,
    Range,
    Seed,
    Steps,
    check_ranges,
    refuse_idle,
)
from bayesgen.config.shared import (
    BaseDir,
    BatchSize,
    Checkpointing,
    Corpus,
    DataDir,
    DataSettings,
    Device,
    JsonOutput,
    LabelledSettings,
    ModelSettings,
    PriorName,
    PriorSettings,
    RandomSeed,
    ScoringSettings,
    idle_unless,
)
from bayesgen.errors import UserError
from bayesgen.tasks import TASKS, tasks_that


@dataclass(frozen=True)
class BaselineSettings:
    """nanoGPT's CPU recipe; `GPU_RECIPE` holds what its GPU recipe changes."""

    group: ClassVar[str] = "training"
    recipe: Annotated[Literal["cpu", "gpu"], "nanoGPT's: the defaults of the others"] = "cpu"
    corpus: Corpus = "python-docs"
    data_dir: DataDir = None
    tokenizer: Annotated[Literal["char", "gpt2"], "characters, or GPT-2's byte pairs"] = "char"
    architecture: Annotated[
        Literal["nanogpt", "gpt2", "llama"], "nanoGPT's, or GPT-2's or Llama's as Hugging Face's"
    ] = "nanogpt"
    out: Annotated[
        str | None, "file (nanogpt) or folder to write (default: in checkpoints/baseline/models)"
    ] = None
    base_dir: BaseDir = "."
    device: Device = "auto"
    precision: Annotated[Precision, "of the network's arithmetic"] = "fp32"
    seed: RandomSeed = 1337
    n_layer: Annotated[Count, "transformer blocks"] = 4
    n_head: Annotated[Count, "attention heads"] = 4
    n_embd: Annotated[Count, "width"] = 128
    block_size: Annotated[Count, "longest context in tokens"] = 64
    bias: Annotated[bool, "biases in linear layers and norms", Advanced] = False
    dropout: Annotated[Fraction, "while training"] = 0.0
    batch_size: BatchSize = 12
    max_iters: Annotated[Count, "length of the schedule in steps"] = 2000
    stop_at: Annotated[Count | None, "stop after this many steps: a warm start"] = None
    learning_rate: Annotated[NonNegative, "AdamW's; falls to a tenth along a cosine"] = 1e-3
    warmup_iters: Annotated[Steps, "steps of linear warm-up", Advanced] = 100
    weight_decay: Annotated[NonNegative, "AdamW's, on matrices", Advanced] = 0.1
    beta2: Annotated[Fraction, "AdamW's", Advanced] = 0.99
    grad_clip: Annotated[NonNegative, "largest gradient norm; 0: no clipping", Advanced] = 1.0
    eval_interval: Annotated[Count, "steps between evaluations", Advanced] = 250
    eval_iters: Annotated[Count, "batches per evaluation", Advanced] = 20


GPU_RECIPE: Mapping[str, Any] = {
    "n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 64, "dropout": 0.2,
    "max_iters": 5000, "eval_iters": 200, "precision": "bf16",
}  # fmt: skip


@dataclass(frozen=True)
class EncoderSettings:
    """A pretrained model, and the head that a fine-tune gives it."""

    group: ClassVar[str] = "model"
    model: Annotated[str | None, "folder or name of a Hugging Face model"] = None
    task: Annotated[
        str,
        Names(partial(tasks_that, "finetune")),
        "what the model does; a sentence model embeds each text by the mean of its tokens",
    ] = "sequence-classification"
    head_hidden_size: Annotated[
        Steps | None,
        "width of the head's hidden layer (default: the model's own, or none)",
        Advanced,
    ] = None
    head_activation: Annotated[
        Literal["tanh", "relu"] | None,
        "of that layer (default: the model's own, or tanh)",
        Advanced,
    ] = None
    head_dropout: Annotated[
        Fraction | None, "before and after that layer (default: the model's, or 0.1)", Advanced
    ] = None


@dataclass(frozen=True)
class FinetuneSettings(LabelledSettings, EncoderSettings):
    """The deterministic fine-tune; names are those of transformers' `TrainingArguments`."""

    group: ClassVar[str] = "training"
    train_samples: Annotated[Count | None, "training rows, drawn by seed (default: all)"] = None
    max_length: Annotated[
        Count | None, "tokens of a text at most; the rest is cut (default: the model's)"
    ] = None
    out: Annotated[
        str | None, "folder for the result (default: checkpoints/finetuned/<model>_<data>)"
    ] = None
    base_dir: BaseDir = "."
    device: Device = "auto"
    seed: Annotated[int, Range(0, 2**32 - 1), "seed of everything random"] = 0
    learning_rate: Annotated[NonNegative, "AdamW's, at its peak"] = 1e-4
    num_train_epochs: Annotated[Positive, "passes over the training rows"] = 3.0
    max_steps: Annotated[Count | None, "optimizer steps, instead of epochs"] = None
    per_device_train_batch_size: Annotated[Count, "rows per forward pass"] = 16
    per_device_eval_batch_size: Annotated[Count, "the same when scoring", Advanced] = 64
    gradient_accumulation_steps: Annotated[Count, "forward passes per step", Advanced] = 1
    warmup_steps: Annotated[NonNegative, "steps of warm-up; below 1 a share", Advanced] = 0.1
    lr_scheduler_type: Annotated[
        Literal["linear", "cosine", "constant", "constant_with_warmup"],
        "of the learning rate after the warm-up (constant has none)",
        Advanced,
    ] = "linear"
    weight_decay: Annotated[NonNegative, "AdamW's, on all but norms and biases", Advanced] = 0.01
    label_smoothing_factor: Annotated[Fraction, "share spread over all classes", Advanced] = 0.0
    class_weights: Annotated[Literal["none", "balanced"], "balanced: rare classes count more"] = (
        "none"
    )
    max_grad_norm: Annotated[NonNegative, "largest gradient norm; 0: no clipping", Advanced] = 1.0
    bf16: Annotated[bool, "bfloat16 arithmetic; the weights stay float32"] = False
    gradient_checkpointing: Checkpointing = False
    eval_steps: Annotated[
        Count | None, "steps between evaluations (default: an epoch)", Advanced
    ] = None
    early_stopping_patience: Annotated[
        Count | None, "stop after this many evaluations without a lower loss (default: never)"
    ] = None
    freeze: Annotated[
        tuple[str, ...] | None, "shell pattern over names of parameters to freeze; may be repeated"
    ] = None
    eval_test: Annotated[bool, "score the test split at the end"] = False

    def validate(self, given: Container[str] = ()) -> None:
        """Refuse what is missing, out of range, or without effect, naming the setting; `given` are
        settings that were chosen, whatever their value."""
        check_ranges(self)
        for name, example in (("model", "the folder of a pretrained model"), ("data", "ag_news")):
            if getattr(self, name) is None:
                raise UserError(f"`{name}` is missing: name {example}")
        if "max_steps" in given and "num_train_epochs" in given:
            raise UserError(
                "`max_steps` stands in the place of `num_train_epochs`: give one of them"
            )
        if self.lr_scheduler_type == "constant" and "warmup_steps" in given:
            raise UserError("`warmup_steps` needs another `lr_scheduler_type` than constant")
        of_classes = "class_weights", "label_smoothing_factor"
        of_heads = "head_hidden_size", "head_activation", "head_dropout"
        task, with_head = TASKS[self.task], " or ".join(tasks_that("head"))
        classifiers = " or ".join(tasks_that("finetune", "class"))
        idle = idle_unless(task.labels == "class", f"needs `task={classifiers}`", *of_classes)
        idle |= idle_unless(task.can("head"), f"needs `task={with_head}`", *of_heads)
        refuse_idle([n for n in idle if getattr(self, n) != getattr(FinetuneSettings, n)], idle)
        if self.head_activation is not None and not self.head_hidden_size:
            raise UserError("`head_activation` needs a `head_hidden_size` above 0")


@dataclass(frozen=True)
class DecodingSettings:
    """How text is generated."""

    group: ClassVar[str] = "text"
    max_new_tokens: Annotated[Count, "tokens to generate after the prompt"] = 200
    temperature: Annotated[NonNegative, "of the text; 0 takes the most probable token"] = 1.0
    top_k: Annotated[Count | None, "sample from this many most probable tokens (default: all)"] = (
        None
    )
    top_p: Annotated[Nucleus | None, "sample from the tokens that hold this probability"] = None
    decode: Annotated[
        Literal["mixture", "per-draw"], "average the draws at every token, or one draw per text"
    ] = "mixture"
    seed: RandomSeed = 0


@dataclass(frozen=True)
class SourceSettings:
    """How a run is read again."""

    group: ClassVar[str] = "run"
    num_draws: Annotated[Count | None, "draws to use, evenly spaced (default: all)"] = None
    model: Annotated[str | None, "the run's model, if it has moved"] = None


@dataclass(frozen=True)
class EvaluateSettings(ScoringSettings):
    group: ClassVar[str] = "run"
    text: Annotated[str | None, "score this whole text too (a name or path)"] = None
    model: Annotated[str | None, "the runs' model, if it has moved"] = None
    corpus: Annotated[str | None, "the runs' corpus, if it has moved"] = None
    data: Annotated[str | None, "the same for labelled data"] = None
    data_dir: DataDir = None
    device: Device = "auto"


@dataclass(frozen=True)
class GenerateSettings(DecodingSettings, SourceSettings):
    group: ClassVar[str] = "run"
    prompt: Annotated[
        tuple[str, ...] | None, "text to continue; may be repeated (default: a line break)"
    ] = None
    prompt_file: Annotated[str | None, "UTF-8 file whose whole text is the prompt"] = None
    num_texts: Annotated[Count, "texts per prompt"] = 1
    num_draws: Annotated[Count | None, "draws to use, evenly spaced (default: at most 10)"] = None
    strategy: Annotated[
        Literal["auto", "stacked", "cached", "plain"],
        "all draws in one step, one after the other, or without a cache (auto: by memory)",
        Advanced,
    ] = "auto"
    json: JsonOutput = False
    device: Device = "auto"


@dataclass(frozen=True)
class SimilaritySettings(SourceSettings):
    pairs_file: Annotated[
        str | None, "TSV, CSV or JSONL file of pairs: columns sentence1 and sentence2, or two"
    ] = None
    level: Annotated[float, Range(0, 1, above=True), "probability of the central intervals"] = 0.9
    json: JsonOutput = False
    out: Annotated[str | None, "safetensors file for the embeddings' means and sds"] = None
    device: Device = "auto"


@dataclass(frozen=True)
class CheckPriorSettings(ModelSettings, DataSettings, PriorSettings):
    group: ClassVar[str] = "run"
    prior: PriorName = "swag"
    num_draws: Annotated[Count, "draws from the prior"] = 20
    num_samples: Annotated[Count, "validation windows or examples that they predict"] = 200
    base_dir: BaseDir = "."


@dataclass(frozen=True)
class ExportSettings(SourceSettings):
    out: Annotated[str | None, "folder to write; it must be empty or new"] = None


@dataclass(frozen=True)
class QuickstartSettings:
    corpus: Corpus = "python-docs"
    data_dir: DataDir = None
    base_dir: BaseDir = "."
    device: Device = "auto"
    baseline_iters: Annotated[Count, "steps of the baseline"] = 2000
    warmup_steps: Annotated[Steps, "steps before the first draw can be collected"] = 1500
    sampling_steps: Annotated[Count, "steps after warm-up"] = 500
    thinning: Annotated[Count, "steps from one draw to the next"] = 25
    text_tokens: Annotated[Count, "length of the generated paragraph"] = 400
    seed: Annotated[Seed, "seed of everything random"] = 0


@dataclass(frozen=True)
class PriorShowSettings:
    json: Annotated[bool, "print one JSON document"] = False


@dataclass(frozen=True)
class PriorImportSettings:
    published: Annotated[
        str | None,
        "folder with *_mean.pt, *_variance.pt and *_covmat.pt (and *_model.pt), or their path up to"
        " the _: the same as the next four flags",
    ] = None
    mean: Annotated[str | None, "file of the means, a tensor [P]"] = None
    variance: Annotated[str | None, "file of the variances, a tensor [P]"] = None
    deviations: Annotated[str | None, "file of the deviations, a tensor [K, P]"] = None
    model_file: Annotated[
        str | None,
        "state dict of the network that the prior was learned from: its shapes must be the model's",
    ] = None
    rows: Annotated[
        Literal["divided", "undivided"] | None,
        "whether the deviations are divided by √(K − 1) already; needed of 3 and more",
    ] = None
    order: Annotated[
        Literal["module", "torchvision"] | None,
        "order of the parameters in the files, where the model is a ResNet and no `model_file`"
        " shows it",
    ] = None
    swag_state: Annotated[
        str | None, "state dict of a SWAG module (swa_gaussian), in the place of all these"
    ] = None
    model: Annotated[
        str | None, "folder or name of the Hugging Face model, or nanoGPT checkpoint: gives names"
    ] = None
    task: Annotated[str, Names(partial(tuple, TASKS)), "what the model does"] = (
        "image-classification"
    )
    parameters: Annotated[
        str,
        "which of the model's parameters the files hold: all, or shell patterns over their names"
        " with commas between, such as 'resnet.*'",
    ] = "all"
    out: Annotated[str | None, "file to write (.safetensors)"] = None
