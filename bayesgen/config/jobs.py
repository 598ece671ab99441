"""Settings of the commands beside sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from bayesgen.config.fields import (
    Count,
    Fraction,
    Names,
    NonNegative,
    Nucleus,
    Positive,
    Range,
    Steps,
)
from bayesgen.config.shared import (
    BaseDir,
    BatchSize,
    Checkpointing,
    Corpus,
    DataDir,
    DataSettings,
    Device,
    LabelColumn,
    LabelledData,
    ModelSettings,
    PairColumn,
    PriorName,
    PriorSettings,
    RandomSeed,
    ScoringSettings,
    TextColumn,
    Validation,
)
from bayesgen.tasks import tasks_that


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
        str,
        Names(partial(tasks_that, "finetune")),
        "what the model does; a sentence model embeds each text by the mean of its tokens",
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
class CheckPriorSettings(ModelSettings, DataSettings, PriorSettings):
    prior: PriorName = "swag"
    num_draws: Annotated[Count, "draws from the prior"] = 20
    num_samples: Annotated[Count, "validation windows or examples that they predict"] = 200
    base_dir: BaseDir = "."


@dataclass(frozen=True)
class ExportSettings:
    out: Annotated[str | None, "folder to write; it must be empty, or not there yet"] = None
    num_draws: Annotated[Count | None, "draws to take, evenly spaced (default: all)"] = None
    model: Annotated[str | None, "the run's model, where it does not lie where it did"] = None


GPU_RECIPE: Mapping[str, Any] = {
    "n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 64, "dropout": 0.2,
    "max_iters": 5000, "eval_iters": 200, "precision": "bf16",
}  # fmt: skip
