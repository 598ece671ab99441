"""A model as a pure function f(θ, batch) -> logits."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesgen.data.tokenizers import Tokenizer
from bayesgen.errors import UserError
from bayesgen.likelihoods import Categorical, Gaussian, Likelihood
from bayesgen.models.checkpointing import checkpoint_blocks
from bayesgen.parameters import FlatModule, Layout, Subset, base_of, select
from bayesgen.tasks import TASKS, Labels, Task

POOLER = "pooler."
"""What some encoders have behind their last block, for the tasks that need it."""
Batch = Mapping[str, Tensor]
Call = Callable[[Callable[..., Any], Batch], Tensor]
"""How a batch goes through a network: something that is called like the module, and a batch, give
the logits."""


class Piece(NamedTuple):
    """What is read in one step, of texts that stand side by side in columns ("slots"); the first
    piece is padded on the right.

    Attributes:
        input_ids, positions: [B, T], of the piece's tokens, and where they are in their texts.
        mask: [B, slots filled up to and with this piece], whether a slot holds a token.
    """

    input_ids: Tensor
    positions: Tensor
    mask: Tensor


class Reader(Protocol):
    """How a model family reads texts in pieces and keeps keys and values, to read each token once.

    Attributes:
        stackable: whether the cache is a tree of tensors, so that `read` can be vmapped over draws.
    """

    stackable: bool

    def cache(self, texts: int, slots: int, device: torch.device) -> Any:
        """An empty cache."""

    def read(self, apply: Callable[..., Any], piece: Piece, cache: Any) -> Tensor:
        """Logits [B, T, V] of `piece`, which is added to `cache` in place; `apply` is called like
        the module."""


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
        for method in ("total", "per_sequence", "count"):
            if isinstance(likelihood, type) or not callable(getattr(likelihood, method, None)):
                raise UserError(
                    f"`likelihood`: {likelihood!r} is no object with total, per_sequence"
                    " and count (see bayesgen.likelihoods.Likelihood)"
                )
        self.module = module.eval().requires_grad_(False)
        self.call: Call = call or _only_input
        self.tokenizer = tokenizer
        self.block_size = block_size
        self.info = info or ModelInfo()
        self.reader = reader
        self.likelihood = likelihood
        self.new = frozenset(new)
        self._choose(parameters)

    def _choose(self, parameters: Subset | None) -> None:
        named = dict(self.module.named_parameters())
        chosen = select(self.module, parameters or "all")
        self.parameters = parameters
        self.layout = Layout.of((name, named[name]) for name in chosen)
        self.loaded = self.theta = self.layout.ravel(named)

    def __repr__(self) -> str:
        share = f"{self.layout.size:,} of {self.num_parameters:,} parameters Bayesian"
        return f"FunctionalModel({type(self.module).__name__}, {self.info.family}, {share})"

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.theta.device

    @cached_property
    def task(self) -> Task:
        """What the model does."""
        return TASKS[self.info.task]

    @property
    def labels(self) -> Labels | None:
        """What a label is (a number has Gaussian noise); None where the likelihood alone knows."""
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
        return base_of(self.module)

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
        """Names that pretraining does not settle: outside the base model, or of its pooler."""
        inner, pooler = f"{self.base}.", f"{self.base}.{POOLER}"
        names = self.layout.names if self.base else ()
        return frozenset(n for n in names if not n.startswith(inner) or n.startswith(pooler))

    @property
    def num_parameters(self) -> int:
        """All parameters of the module, Bayesian or frozen; a tied weight counts once."""
        return sum(p.numel() for p in self.module.parameters())

    def select(self, parameters: Subset) -> FunctionalModel:
        """The same network, shared, with other Bayesian parameters (see `parameters.select`)."""
        chosen = copy.copy(self)
        chosen._choose(parameters)
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
        """A private copy of the module, its parameters rounded to `dtype` and laid into one vector;
        with `checkpointing` activations are computed again in the backward pass."""
        module = copy.deepcopy(self.module)
        if checkpointing:
            checkpoint_blocks(module)
        return FlatModule(module, self.layout.names, dtype)

    def to(self, device: torch.device | str) -> FunctionalModel:
        """The same, moved in place."""
        self.module.to(device)
        elsewhere, self.loaded = self.elsewhere, self.loaded.to(device)
        self.theta = self.theta.to(device) if elsewhere else self.loaded
        return self

    def start_at(self, theta: Tensor) -> None:
        """Let chains start at `theta` [P], such as the mode that another run found; the module gets
        these weights, and `loaded` stays."""
        self.theta = theta.to(self.loaded, copy=True)
        with torch.no_grad():
            for name, view in self.layout.views(self.theta).items():
                self.module.get_parameter(name).copy_(view)


def weights_sha256(module: nn.Module) -> str:
    """Hash of all weights, frozen ones too: what a model is, wherever it was loaded from."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _only_input(apply: Callable[..., Any], batch: Batch) -> Tensor:
    names = [name for name in batch if name != "labels"]
    if len(names) != 1:
        raise UserError(
            f"`call`: a batch holds {', '.join(names) or 'nothing'} beside its labels; say how"
            " these go through the network: call=lambda apply, batch: apply(batch[...], ...)"
        )
    outputs: Tensor = apply(batch[names[0]])
    return outputs
