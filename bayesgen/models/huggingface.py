"""Any Hugging Face model as a functional model.

Needs the extra `hf` (`pip install 'bayesgen[hf]'`).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesgen.errors import UserError
from bayesgen.likelihoods import Likelihood, likelihood_of
from bayesgen.models.functional import (
    POOLER,
    Call,
    FunctionalModel,
    ModelInfo,
    weights_sha256,
)
from bayesgen.models.hf_interface import (
    CausalReader,
    logits_at,
    quiet,
    read_tokenizer,
    serve_targets,
)
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
    """Load `name`, a local folder or a hub name, through the Auto classes, in float32.

    transformers keeps a checkpoint's own dtype; what is sampled must be float32, because the noise
    of a small step vanishes in bfloat16. Nothing is downloaded for a folder. A folder of PEFT
    adapters is loaded with the model that they belong to.

    Args:
        lora: adapters to add, untrained, where the model has none.
        num_labels: of a classifier; the folder's own by default.
        head: settings of a sentence classifier's head; the folder's own by default.
        outline: make it on the device "meta", without its weights: their sizes alone.

    Raises:
        UserError: transformers is not installed, nothing loadable is at `name`, or it is not a
            model of this task.
    """
    try:
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
    stored = config = _config(base, 1 if kind.labels == "number" else num_labels)
    _refuse_wrong_task(base, kind, config)
    if kind.sentence:
        config = sentence.configured(config, base, task, head or {}, num_labels)
    new: set[str] = set()
    if outline:
        try:
            with torch.device("meta"), quiet():
                module = auto.from_config(config, dtype=torch.float32).to("meta")
        except Exception as error:  # of a damaged config.json, nearly any
            raise _unloadable(base, error) from error
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
        _call(kind, module),
        parameters=parameters,
        tokenizer=next((found for found in tokenizers if found is not None), None),
        block_size=_block_size(config, module),
        info=ModelInfo(name, "huggingface", task, config.to_dict(), sha256),
        reader=CausalReader(config) if cached else None,
        likelihood=_likelihood(kind, config, base),
        new=new,
    )


def _refuse_missing(name: str) -> None:
    """Say at once that a path leads nowhere, instead of asking the hub for it."""
    path = Path(name).expanduser()
    looks_like_a_path = name.startswith((".", "/", "~")) or len(path.parts) > 2
    if looks_like_a_path and not path.is_dir():
        raise UserError(
            f"`model`: no folder at '{name}'; name a Hugging Face model's folder, its hub name, or"
            " a nanoGPT checkpoint (.pt)"
        )
    if (path / "config.json").is_file() and '"bayesian-' in (path / "config.json").read_text():
        raise UserError(
            f"`model`: '{name}' is a posterior that was exported for transformers; name the run"
            " itself, or the model that it started from"
        )
    if path.is_dir() and not any((path / f).is_file() for f in ("config.json", ADAPTERS)):
        raise UserError(
            f"`model`: '{name}' holds no Hugging Face model (no config.json in the folder); name"
            " the folder that save_pretrained wrote"
        )


def _adapters_of(name: str) -> Any:
    """The configuration of a folder of PEFT adapters; None where `name` is none."""
    if not (Path(name) / ADAPTERS).is_file():
        return None
    from peft import PeftConfig

    try:
        with quiet():
            config = PeftConfig.from_pretrained(name)
    except Exception as error:  # of a damaged folder, nearly any
        raise _unloadable(name, error) from error
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
    import transformers

    name = task.auto_class
    return resolved(name) if ":" in name else getattr(transformers, name)


def _config(name: str, num_labels: int | None) -> Any:
    from transformers import AutoConfig

    given = {} if num_labels is None else {"num_labels": num_labels}
    try:
        with quiet():
            return AutoConfig.from_pretrained(name, local_files_only=Path(name).is_dir(), **given)
    except Exception as error:  # of a damaged folder, nearly any
        raise _unloadable(name, error) from error


def _refuse_wrong_task(name: str, task: Task, config: Any) -> None:
    """Refuse an architecture that cannot do `task`, and name what it can."""
    import transformers

    from bayesgen.models.sentence import SentenceConfig

    def can(other: Task) -> bool:
        if isinstance(config, SentenceConfig):
            return other.name == config.task
        if not other.auto_class:
            return False
        masked = type(config) in transformers.AutoModelForMaskedLM._model_mapping
        if other.sentence:
            return masked and not config.is_encoder_decoder
        known = type(config) in _auto(other)._model_mapping
        permuted = config.model_type == "xlnet"
        if other.can("generate"):
            # an encoder has a causal class, too, but attends to both sides unless it is a decoder
            return known and not permuted and (not masked or getattr(config, "is_decoder", False))
        return known and (other.masking != "permute" or permuted)

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
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)  # a new head is the same at every load
        module = SentenceModel.around(encoder, config)
    base = f"{module.base_model_prefix}."
    head = {key for key, _ in module.named_parameters() if not key.startswith(base)}
    return module, head | {f"{base}{key}" for key in lacking}


def _weights(
    name: str, task: Task, auto: Any, config: Any, bare: bool = False, **options: Any
) -> tuple[nn.Module, set[str]]:
    """The module with its weights, and the names of those that the folder does not hold.

    Args:
        bare: it is an encoder alone: no part of it is a head.
        options: of the module's class.
    """
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)  # a new head is the same at every load
        try:
            module, loading = auto.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                local_files_only=Path(name).is_dir(),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, with their names
                **options,
            )
        except Exception as error:  # of a damaged folder, nearly any
            raise _unloadable(name, error) from error
    if loading["mismatched_keys"]:
        key, stored, made = min(loading["mismatched_keys"])
        raise UserError(
            f"`model`: '{name}' holds '{key}' of shape {list(stored)}, but its config.json, the"
            f" task or the number of classes makes it {list(made)}; they must agree"
        )
    # of a tied weight the first name alone is one of a parameter
    every = {key for key, _ in module.named_parameters(remove_duplicate=False)}
    tied = every - {key for key, _ in module.named_parameters()}
    new = set(loading["missing_keys"]) - tied
    base = "" if bare else f"{module.base_model_prefix}."
    inner = {key.removeprefix(base): key for key in new if key.startswith(base)}
    # masked tokens train no pooler: where it is missing it is as new as the head
    lacking = {key for name, key in inner.items() if not name.startswith(POOLER)}
    if not task.new_head:
        lacking = new
    if lacking:
        raise UserError(
            f"`model`: '{name}' lacks weights of its own architecture, such as '{min(lacking)}';"
            " name a model that was trained for this task"
        )
    return module, new


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


def _load_adapters(name: str, module: Any) -> None:
    """Put the PEFT adapters in the folder `name` into `module`."""
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            lacking = module.load_adapter(
                name, adapter_kwargs={"local_files_only": True}
            ).missing_keys
    except Exception as error:  # of a damaged folder, nearly any
        if "report" in str(error):  # it points to a report of the shapes, which `quiet` hides
            raise UserError(
                f"`model`: the adapters in '{name}' have other shapes than its {ADAPTERS} says;"
                " copy both anew"
            ) from error
        raise _unloadable(name, error) from error
    if lacking:
        raise UserError(
            f"`model`: the adapters in '{name}' lack weights, such as '{min(lacking)}'; name a"
            " folder that PEFT's save_pretrained wrote for this model"
        )


def _call(task: Task, module: Any) -> Call:
    masked = task.masking == "replace"
    if masked:
        serve_targets(module)

    def call(apply: Callable[..., Any], batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        if masked and "targets" in inputs:
            return logits_at(apply, inputs.pop("targets"), inputs)
        if task.auto_class == "AutoModelForSeq2SeqLM" and "decoder_input_ids" not in batch:
            inputs["decoder_input_ids"] = module.prepare_decoder_input_ids_from_labels(
                batch["labels"]
            )
        logits: torch.Tensor = apply(**task.inputs, **inputs).logits
        return logits

    return call


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


def _unloadable(name: str, error: Exception) -> UserError:
    reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
    if Path(name).is_dir():
        return UserError(f"`model`: '{name}' is no loadable Hugging Face model: {reason}")
    return UserError(
        f"`model`: there is no folder '{name}', and no such model could be loaded from the Hugging"
        f" Face hub: {reason}"
    )
