"""Any Hugging Face model as a functional model.

Needs the extra `hf` (`pip install 'bayesgen[hf]'`).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesgen.errors import UserError
from bayesgen.likelihoods import Likelihood, likelihood_of
from bayesgen.models.functional import POOLER, FunctionalModel, ModelInfo, weights_sha256
from bayesgen.models.hf_interface import CausalReader, call_of, quiet, read_tokenizer
from bayesgen.models.lora import Lora, add_adapters
from bayesgen.parameters import ADAPTER, Subset
from bayesgen.registry import resolved
from bayesgen.tasks import TASKS, Task

ADAPTERS = "adapter_config.json"


def load(
    name: str,
    task: str = "causal-lm",
    parameters: Subset | None = None,
    *,
    lora: Lora | None = None,
    num_labels: int | None = None,
    head: Mapping[str, Any] | None = None,
    outline: bool = False,
) -> FunctionalModel:
    """Load `name`, a local folder or a hub name, through the Auto classes (see `load_model`); in
    `head` are settings of a sentence classifier's head, such as `head_dropout`.

    transformers keeps a checkpoint's own dtype; what is sampled must be float32, because the noise
    of a small step vanishes in bfloat16. Nothing is downloaded for a folder. A folder of PEFT
    adapters is loaded with the model that they belong to.
    """
    try:
        from transformers import AutoConfig

        from bayesgen.models import sentence  # makes transformers know it
    except ImportError as error:
        raise UserError(
            "`model`: a Hugging Face model needs transformers; pip install 'bayesgen[hf]'"
        ) from error

    kind = TASKS[task]
    auto = _auto(kind)
    _refuse_missing(name)
    adapters = _adapters_of(name)
    base = adapters.base_model_name_or_path if adapters else name
    _refuse_missing(base)
    labels = 1 if kind.labels == "number" else num_labels
    given = {} if labels is None else {"num_labels": labels}
    local = Path(base).is_dir()
    with _loading(base):
        stored = config = AutoConfig.from_pretrained(base, local_files_only=local, **given)
    _refuse_wrong_task(base, kind, config)
    if kind.sentence:
        config = sentence.configured(config, base, task, head or {}, num_labels)
    new: set[str] = set()
    if outline:
        with _loading(base), torch.device("meta"):
            module = auto.from_config(config, dtype=torch.float32).to("meta")
        if adapters:
            add_adapters(module, adapters, folder=name)
    else:
        load_weights = _weights if config is stored else _around_encoder
        module, new = load_weights(base, kind, auto, config)
        if adapters:
            _load_adapters(name, module)
            # a head that was trained with the adapters has a name of its own
            new &= {name for name, _ in module.named_parameters()}
    sha256 = None if outline else weights_sha256(module)
    if lora is not None and not any(ADAPTER in name for name, _ in module.named_parameters()):
        new = add_adapters(module, lora.config(module), new)
    places = (name, base) if kind.text else ()
    tokenizers = (read_tokenizer(place, module) for place in dict.fromkeys(places))
    # a stateful model (Mamba, RWKV) keeps something else than keys and values
    cached = kind.can("generate") and not module._is_stateful
    return FunctionalModel(
        module,
        call_of(kind, module),
        parameters=parameters,
        tokenizer=next(filter(None, tokenizers), None),
        block_size=_block_size(config, module),
        info=ModelInfo(name, "huggingface", task, config.to_dict(), sha256),
        reader=CausalReader(config) if cached else None,
        likelihood=_likelihood(kind, config, base),
        new=new,
    )


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Let transformers load `name`, without words of its own; what it finds no weights for, such as
    a new head, is the same at every load. Of a damaged folder it can raise nearly anything."""
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(0)
            yield
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        if (Path(name) / ADAPTERS).is_file() and "report" in str(error):  # of shapes; it is hidden
            why = f"the adapters in '{name}' have other shapes than its {ADAPTERS} says; copy both"
            why += " anew"
        elif Path(name).is_dir():
            why = f"'{name}' is no loadable Hugging Face model: {reason}"
        else:
            why = f"there is no folder '{name}', and no such model could be loaded from the Hugging"
            why += f" Face hub: {reason}"
        raise UserError(f"`model`: {why}") from error


def _refuse_missing(name: str) -> None:
    """Say at once that a path leads nowhere, instead of asking the hub for it."""
    path = Path(name).expanduser()
    config = path / "config.json"
    looks_like_a_path = name.startswith((".", "/", "~")) or len(path.parts) > 2
    if looks_like_a_path and not path.is_dir():
        raise UserError(
            f"`model`: no folder at '{name}'; name a Hugging Face model's folder, its hub name, or"
            " a nanoGPT checkpoint (.pt)"
        )
    if config.is_file() and '"bayesian-' in config.read_text():
        raise UserError(
            f"`model`: '{name}' is an exported posterior; name the run itself, or its model"
        )
    if path.is_dir() and not config.is_file() and not (path / ADAPTERS).is_file():
        raise UserError(
            f"`model`: '{name}' holds no Hugging Face model (no config.json in the folder); name"
            " the folder that save_pretrained wrote"
        )


def _adapters_of(name: str) -> Any:
    """The configuration of a folder of PEFT adapters; None where `name` is none."""
    if not (Path(name) / ADAPTERS).is_file():
        return None
    from peft import PeftConfig

    with _loading(name):
        config = PeftConfig.from_pretrained(name)
    kind = getattr(config, "peft_type", None)
    if kind != "LORA" or config.use_dora:
        kind = "DoRA" if kind == "LORA" else getattr(kind, "value", kind)
        raise UserError(
            f"`model`: '{name}' holds adapters of the kind {kind}; only LoRA can be sampled:"
            " merge them into their model (PEFT's merge_and_unload)"
        )
    if not config.base_model_name_or_path:
        raise UserError(
            f"`model`: '{name}' does not say which model its adapters belong to; put its folder or"
            f" name into {ADAPTERS} as base_model_name_or_path"
        )
    return config


def _auto(task: Task) -> Any:
    """The class that loads the task's models."""
    name = task.auto_class
    return resolved(name if ":" in name else f"transformers:{name}")


def _refuse_wrong_task(name: str, task: Task, config: Any) -> None:
    """Refuse an architecture that cannot do `task`, and name what it can."""
    from bayesgen.models.sentence import SentenceConfig

    masked = type(config) in _auto(TASKS["masked-lm"])._model_mapping
    permuted = config.model_type == "xlnet"

    def can(other: Task) -> bool:
        if isinstance(config, SentenceConfig):
            return other.name == config.task
        if other.sentence:
            return masked and not config.is_encoder_decoder
        if not other.auto_class or type(config) not in _auto(other)._model_mapping:
            return False
        if other.can("generate"):
            # an encoder has a causal class, too, but attends to both sides unless it is a decoder
            return not permuted and (not masked or getattr(config, "is_decoder", False))
        return other.masking != "permute" or permuted

    if not can(task):
        possible = ", ".join(other for other in TASKS if can(TASKS[other]))
        raise UserError(
            f"`task={task.name}`: '{name}' is a model of type {config.model_type}, which is made"
            f" for {possible or 'none of the tasks'}"
        )


def _around_encoder(name: str, task: Task, auto: Any, config: Any) -> tuple[nn.Module, set[str]]:
    """A sentence model with the encoder in `name`, and the names of what is new in it."""
    from bayesgen.models.sentence import SentenceModel, without_pooler

    inner = config.text_config
    encoder, lacking = _weights(name, task, auto, inner, bare=True, **without_pooler(inner))
    with _loading(name):
        module = SentenceModel.around(encoder, config)
    base = f"{module.base_model_prefix}."
    head = {key for key, _ in module.named_parameters() if not key.startswith(base)}
    return module, head | {base + key for key in lacking}


def _weights(
    name: str, task: Task, auto: Any, config: Any, bare: bool = False, **options: Any
) -> tuple[nn.Module, set[str]]:
    """The module with its weights, and the names of those that the folder does not hold; of a
    `bare` encoder, which has no head, it must hold all but the pooler's."""
    with _loading(name):
        module, loading = auto.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            local_files_only=Path(name).is_dir(),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with their names
            **options,
        )
    if loading["mismatched_keys"]:
        key, stored, made = min(loading["mismatched_keys"])
        raise UserError(
            f"`model`: '{name}' holds '{key}' of shape {list(stored)}, but its config.json, the"
            f" task or the number of classes makes it {list(made)}; they must agree"
        )
    # of a tied weight the first name alone is one of a parameter
    every = {key for key, _ in module.named_parameters(remove_duplicate=False)}
    tied = every - {key for key, _ in module.named_parameters()}
    lacking = new = set(loading["missing_keys"]) - tied
    if task.new_head:
        base = "" if bare else f"{module.base_model_prefix}."
        # masked tokens train no pooler: where it is missing it is as new as the head
        lacking = {k for k in new if k.startswith(base) and not k.startswith(base + POOLER)}
    if lacking:
        raise UserError(
            f"`model`: '{name}' lacks weights of its own architecture, such as '{min(lacking)}';"
            " name a model that was trained for this task"
        )
    return module, new


def _load_adapters(name: str, module: Any) -> None:
    """Put the PEFT adapters in the folder `name` into `module`."""
    with _loading(name):
        found = module.load_adapter(name, adapter_kwargs={"local_files_only": True})
    if found.missing_keys:
        raise UserError(
            f"`model`: the adapters in '{name}' lack weights, such as '{min(found.missing_keys)}';"
            " name a folder that PEFT's save_pretrained wrote for this model"
        )


def _likelihood(task: Task, config: Any, name: str) -> Likelihood:
    """Density of the labels, with the noise that a fine-tune left."""
    std = getattr(config, "noise_std", None)
    if std is None or task.labels != "number":
        return likelihood_of(task)
    if isinstance(std, bool) or not isinstance(std, int | float) or not 0 < std < math.inf:
        raise UserError(
            f"`model`: noise_std in the config.json of '{name}' is {std!r}; it must be a positive"
            " number, the standard deviation of the labels around the outputs"
        )
    return likelihood_of(task, float(std))


def _block_size(config: Any, module: nn.Module) -> int | None:
    """The longest input in tokens; None where nothing limits it."""
    config = config.text_config if config.model_type == "bayesgen-sentence" else config
    size = getattr(config, "max_position_embeddings", None)
    if not isinstance(size, int) or size < 1:
        return None
    for name, child in module.named_modules():
        padding: int | None = getattr(child, "padding_idx", None)
        if name.endswith("embeddings.position_embeddings") and padding is not None:
            return size - padding - 1  # RoBERTa and its kin begin behind the padding's position
    return size
