"""A model as a pure function f(θ, batch) -> logits."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesgen.data.tokenizers import Tokenizer
from bayesgen.errors import UserError
from bayesgen.likelihoods import Categorical, Gaussian, Likelihood
from bayesgen.models.checkpointing import checkpoint_blocks
from bayesgen.parameters import FlatModule, Layout, Subset, select
from bayesgen.tasks import TASKS, Labels, Task

POOLER = "pooler."
"""What some encoders have behind their last block, for the tasks that need it."""
Batch = Mapping[str, Tensor]
Call = Callable[[Callable[..., Any], Batch], Tensor]
"""How a batch goes through a network: given something that is called like the module, and a batch,
return the logits. The only thing that differs between one model family and another."""


class Reader(Protocol):
    """How a model family reads texts in pieces and keeps keys and values, to read each token once.

    Texts of different lengths stand side by side in columns ("slots"); the first piece is padded on
    the right, and a mask says which slots hold a token.
    """

    stackable: bool
    """Whether the cache is a tree of tensors, so that `read` can be vmapped over draws."""

    def cache(self, texts: int, slots: int, device: torch.device) -> Any:
        """An empty cache."""

    def read(
        self,
        apply: Callable[..., Any],
        input_ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: Any,
    ) -> Tensor:
        """Logits [B, T, V] of a piece `input_ids` [B, T], which is added to `cache` in place.

        Args:
            apply: something that is called like the module.
            positions: [B, T], of the piece's tokens in their texts.
            mask: [B, slots filled up to and with this piece], bool.
        """


@dataclass(frozen=True)
class ModelInfo:
    """What a run records about its model.

    Attributes:
        name: the path or name it was loaded from.
        family: `nanogpt`, `huggingface` or `custom`.
        task: what it does, one of `bayesgen.tasks.TASKS`.
        config: the family's own settings, plain data.
        sha256: hash of the checkpoint file (nanoGPT) or of the weights (Hugging Face).
    """

    name: str = "module"
    family: str = "custom"
    task: str = "causal-lm"
    config: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None


class FunctionalModel:
    """Any `torch.nn.Module` as a function of one flat parameter vector.

    Args:
        module: the network; it is put in evaluation mode and its parameters are frozen.
        call: see `Call`; the default hands over what the batch holds beside "labels".
        parameters: which parameters are Bayesian (see `bayesgen.parameters.select`); None for all,
            or for what a task's presets say where it is sampled.
        block_size: the longest context in tokens, or None where there is no limit.
        reader: reads texts in pieces; None for a model that knows no cache.
        likelihood: log p(labels | outputs), any `bayesgen.likelihoods.Likelihood`.
        new: names of the parameters that no training has seen yet, such as those of a new head.

    Attributes:
        layout: names, shapes and offsets of θ.
        loaded: the loaded weights, float32 [P]: what priors are placed around.
        theta: where every chain starts, [P]: the same, unless `start_at` says otherwise.

    Example:
        >>> import torch
        >>> from bayesgen import FunctionalModel, Gaussian
        >>> net = torch.nn.Linear(2, 1)
        >>> model = FunctionalModel(
        ...     net, lambda apply, batch: apply(batch["inputs"]), likelihood=Gaussian(0.1)
        ... )
        >>> model
        FunctionalModel(Linear, custom, 3 of 3 parameters Bayesian)
        >>> x = {"inputs": torch.ones(4, 2)}
        >>> torch.equal(model(model.theta, x), net(x["inputs"]))
        True
    """

    def __init__(
        self,
        module: nn.Module,
        call: Call | None = None,
        *,
        parameters: Subset | None = None,
        tokenizer: Tokenizer | None = None,
        block_size: int | None = None,
        info: ModelInfo | None = None,
        reader: Reader | None = None,
        likelihood: Likelihood = Categorical(),  # noqa: B008  (it is frozen)
        new: Collection[str] = (),
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.call: Call = call or _only_input
        self.tokenizer = tokenizer
        self.block_size = block_size
        self.info = info or ModelInfo()
        self.reader = reader
        self.likelihood = likelihood
        self.new = frozenset(new)
        self.parameters = parameters
        named = dict(module.named_parameters())
        self.layout = Layout.of((name, named[name]) for name in select(module, parameters or "all"))
        self.loaded = self.theta = self.layout.ravel(named)

    def __repr__(self) -> str:
        size, whole = self.layout.size, self.num_parameters
        return (
            f"FunctionalModel({type(self.module).__name__}, {self.info.family},"
            f" {size:,} of {whole:,} parameters Bayesian)"
        )

    @property
    def device(self) -> torch.device:
        return self.theta.device

    @property
    def task(self) -> Task:
        """What the model does."""
        return TASKS[self.info.task]

    @property
    def labels(self) -> Labels | None:
        """What a label is: a token, a class, a real number with Gaussian noise; None where the
        likelihood alone knows."""
        if isinstance(self.likelihood, Gaussian):
            return "number"
        if not isinstance(self.likelihood, Categorical):
            return None
        return "class" if self.task.is_labelled else "token"

    @cached_property
    def sha256(self) -> str:
        """Hash of the checkpoint, or of all weights as they are when it is first asked for."""
        return self.info.sha256 or weights_sha256(self.module)

    @property
    def base(self) -> str:
        """Prefix of the names of what a Hugging Face model is without its head; else empty."""
        prefix = str(getattr(self.module, "base_model_prefix", ""))
        return prefix if prefix and hasattr(self.module, prefix) else ""

    @property
    def elsewhere(self) -> bool:
        """Whether chains start at other weights than the loaded ones."""
        return self.theta is not self.loaded

    @property
    def untrained(self) -> frozenset[str]:
        """Names of the parameters that no training has seen yet where chains start."""
        return self.new - set(self.layout.names) if self.elsewhere else self.new

    @property
    def outside(self) -> frozenset[str]:
        """Names in θ that pretraining does not settle: those outside the base model, and of the
        pooler, which only some tasks train."""
        if not self.base:
            return frozenset()
        inner = f"{self.base}."
        return frozenset(
            name
            for name in self.layout.names
            if not name.startswith(inner) or name.startswith(f"{inner}{POOLER}")
        )

    @property
    def num_parameters(self) -> int:
        """All parameters of the module, Bayesian or frozen; a tied weight counts once."""
        return sum(p.numel() for p in self.module.parameters())

    def select(self, parameters: Subset) -> FunctionalModel:
        """The same network with other Bayesian parameters; both share it.

        Raises:
            UserError: `parameters` select nothing (see `bayesgen.parameters.select`).
        """
        chosen = copy.copy(self)
        named = dict(self.module.named_parameters())
        chosen.parameters = parameters
        chosen.layout = Layout.of((n, named[n]) for n in select(self.module, parameters))
        chosen.loaded = chosen.theta = chosen.layout.ravel(named).to(self.device)
        return chosen

    def __call__(self, theta: Tensor, batch: Batch) -> Tensor:
        """Logits of `batch` under `theta` [P]; pure, differentiable, and fit for vmap over θ."""
        return self.call(self.applied(theta), batch)

    def applied(self, theta: Tensor) -> Callable[..., Any]:
        """The module as a function, its Bayesian parameters taken from `theta` [P]."""
        views = self.layout.views(theta)

        def apply(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.module, views, args, kwargs)

        return apply

    def bind(self, dtype: torch.dtype | None = None, checkpointing: bool = False) -> FlatModule:
        """A private copy of the module with its parameters laid into one vector (the hot loop).

        Args:
            dtype: what all parameters are rounded to.
            checkpointing: compute activations again in the backward pass.

        Raises:
            UserError: `checkpointing`, and the module has no stack of blocks.
        """
        module = copy.deepcopy(self.module)
        if checkpointing:
            checkpoint_blocks(module)
        return FlatModule(module, self.layout.names, dtype)

    def to(self, device: torch.device | str) -> FunctionalModel:
        """Move the module and θ to `device`, in place."""
        self.module.to(device)
        theta = self.theta.to(device) if self.elsewhere else None
        self.loaded = self.loaded.to(device)
        self.theta = self.loaded if theta is None else theta
        return self

    def start_at(self, theta: Tensor) -> None:
        """Let chains start at `theta` [P], such as the mode that another run found.

        The module gets these weights; `loaded` stays.
        """
        self.theta = theta.to(self.loaded, copy=True)
        named = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, view in self.layout.views(self.theta).items():
                named[name].copy_(view)


def weights_sha256(module: nn.Module) -> str:
    """Hash of all weights, frozen ones too: what a model is, wherever it was loaded from."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _only_input(apply: Callable[..., Any], batch: Batch) -> Tensor:
    """The outputs for a batch with one tensor beside its labels."""
    names = [name for name in batch if name != "labels"]
    if len(names) != 1:
        raise UserError(
            f"`call`: a batch holds {', '.join(names) or 'nothing'} beside its labels; say how"
            " these go through the network: call=lambda apply, batch: apply(batch[...], ...)"
        )
    outputs: Tensor = apply(batch[names[0]])
    return outputs
