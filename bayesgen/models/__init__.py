"""Models as functions of one parameter vector. `load_model` is the entry point."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from bayesgen.errors import UserError
from bayesgen.likelihoods import likelihood_of
from bayesgen.models import nanogpt
from bayesgen.models.functional import FunctionalModel, ModelInfo, weights_sha256
from bayesgen.models.lora import Lora, add_adapters
from bayesgen.parameters import Subset, names_adapters
from bayesgen.registry import resolved
from bayesgen.tasks import TASKS, Task

__all__ = ["FunctionalModel", "Head", "Lora", "ModelInfo", "load_model", "resolve_device"]


@dataclass(frozen=True)
class Head:
    """The head of a sentence classifier; None is the model's own value, or that of a new head.

    Attributes:
        hidden_size: width of a layer between embedding and classes (0: none, as in a new head).
        activation: of that layer, tanh (that of a new head) or relu.
        dropout: on the embedding and on that layer while training (0.1 in a new head).
    """

    hidden_size: int | None = None
    activation: str | None = None
    dropout: float | None = None


def load_model(
    name: str | Path,
    *,
    task: str = "causal-lm",
    parameters: Subset | None = None,
    lora: Lora | None = None,
    num_labels: int | None = None,
    head: Head | None = None,
    meta_path: str | Path | None = None,
    device: str = "cpu",
    outline: bool = False,
) -> FunctionalModel:
    """Load a nanoGPT checkpoint (a `.pt` file), a Hugging Face model (a folder or name), or what
    the task's own loader takes.

    Args:
        name: path of a checkpoint, folder of a Hugging Face model or of PEFT adapters, or a hub
            name.
        task: what the model does, one of `bayesgen.tasks.TASKS`.
        parameters: which parameters are Bayesian (see `bayesgen.parameters.select`); None for all,
            or for what a task's presets say where the model is sampled. Where `lora`
            is among them and the model has no adapters, untrained ones are added.
        lora: rank, scale and targets of adapters that are added.
        num_labels: of a classifier whose head is new.
        head: of a sentence classifier; by default the folder's own, or a single layer.
        meta_path: nanoGPT's `meta.pkl` where it does not lie beside the checkpoint.
        outline: make it on the device "meta", without its weights: their sizes alone.

    Raises:
        UserError: nothing loadable is there, or it is not a model of this task; the message names
            the way out.

    Example:
        >>> import bayesgen
        >>> model = bayesgen.load_model("model.pt")
        >>> model.info.family, model.theta.shape == (model.layout.size,)
        ('nanogpt', True)
    """
    kind = TASKS[task]
    if num_labels is not None:
        _refuse_num_labels(num_labels, kind)
    if head is not None and not kind.can("head"):
        raise UserError(f"`head_hidden_size`, `head_dropout`: a {task} has none; leave them out")
    adapters = (lora or Lora()) if parameters and names_adapters(parameters) else None
    path = Path(name)
    if kind.loader is not None:
        model = _custom(str(name), kind, parameters)
    elif path.suffix in nanogpt.SUFFIXES or path.is_file():
        if task != ModelInfo.task:
            raise UserError(f"`task={task}`: '{name}' is a nanoGPT checkpoint, a {ModelInfo.task}")
        meta = Path(meta_path) if meta_path else None
        model = _nanogpt(
            str(path), nanogpt.read_checkpoint(path, meta, outline), parameters, adapters
        )
    else:
        from bayesgen.models import huggingface

        model = huggingface.load(
            str(name),
            task,
            parameters,
            lora=adapters,
            num_labels=num_labels,
            head={f"head_{k}": v for k, v in vars(head or Head()).items() if v is not None},
            outline=outline,
        )
    return model if outline else model.to(device)


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU; what is not on this machine is a `UserError`."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there = [*(kind for kind in present if present[kind]), "cpu"]
    with suppress(RuntimeError):
        device = torch.device(there[0] if name == "auto" else name)
        if device.type in there:
            return device
    raise UserError(f"`device`: '{name}' is not on this machine; use auto or {', '.join(there)}")


def _refuse_num_labels(num_labels: int, task: Task) -> None:
    if not task.is_labelled:
        raise UserError(f"`num_labels`: a {task.name} has no classes; leave it out")
    if num_labels < 1:
        raise UserError(f"`num_labels={num_labels}`: must be at least 1")
    if task.labels == "number" and num_labels != 1:
        raise UserError(f"`num_labels={num_labels}`: a {task.name} has one output; leave it out")


def _custom(name: str, task: Task, parameters: Subset | None) -> FunctionalModel:
    """The model that the task's own loader finds at `name`."""
    module = resolved(task.loader)(name)
    config = getattr(module, "config", {})
    return FunctionalModel(
        module,
        resolved(task.call),
        parameters=parameters,
        info=ModelInfo(name, task.name, task.name, config, weights_sha256(module)),
        likelihood=likelihood_of(task),
    )


def _nanogpt(
    name: str, read: nanogpt.Checkpoint, parameters: Subset | None, adapters: Lora | None
) -> FunctionalModel:
    module = read.module
    return FunctionalModel(
        module,
        nanogpt.call,
        parameters=parameters,
        tokenizer=read.tokenizer,
        block_size=module.config.block_size,
        info=ModelInfo(name, "nanogpt", config=vars(module.config), sha256=read.sha256),
        reader=nanogpt.GPTReader(module.config),
        new=add_adapters(module, adapters.config(module, "c_attn")) if adapters else (),
    )
