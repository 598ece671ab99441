"""A network under one set of weights after the other, and what no set changes.

Where only the last part of a network is Bayesian, the rest runs once: modules without Bayesian
parameters that have run when θ is first read give the same outputs under every draw. Their outputs
over a batch are kept in the first draw's pass and handed out in those of the others. The numbers
are, bit for bit, those of plain passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bayesgen.errors import ran_out
from bayesgen.likelihoods import IGNORED, Categorical
from bayesgen.models.functional import Batch, FunctionalModel
from bayesgen.parameters import FlatModule

Precision = Literal["fp32", "bf16"]


class Forward:
    """A model whose weights are set by a vector: the cheap way through many draws in turn.

    `precision` is of the network's arithmetic; outputs and probabilities are always float32.
    """

    def __init__(self, model: FunctionalModel, precision: Precision = "fp32") -> None:
        self.precision = precision
        self.device = model.device
        self.likelihood = model.likelihood
        self._model = model
        # weights are rounded once a draw, not at every product
        self._flat = model.bind(torch.bfloat16 if precision == "bf16" else None)

    def load(self, theta: Tensor) -> None:
        """Make `theta` [P] the weights from here on."""
        self._flat.theta.copy_(theta)

    def trunk(self, batch: Batch) -> Trunk:
        """What the passes of all θ over a batch like this have in common.

        One pass is watched for the first operation on θ. Then passes with kept outputs are compared
        with plain ones under several θ, to find a network that changes what it was given, or keeps
        a state.
        """
        flat, outputs = self._flat, partial(self.outputs, batch)
        if flat.layout.size == sum(p.numel() for p in flat.module.parameters()):
            return Trunk()
        trunk = Trunk(_shared(flat, outputs))
        return trunk if trunk.modules and _exact(trunk, flat, outputs) else Trunk()

    @torch.no_grad()
    def outputs(self, batch: Batch) -> Tensor:
        """What the network puts out, float32, on the model's device: logits [..., V] of classes,
        or means [B, 1] of real-valued labels."""
        inputs = {k: v.to(self.device) for k, v in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._model.call(self._flat.module, inputs).float()

    def log_probs(self, batch: Batch) -> Tensor:
        """log p(class | input) [..., V], float32, on the model's device: of a language model
        [B, T, V], of a classifier [B, V]; ValueError where the labels are no classes."""
        return self._logits(batch).log_softmax(-1)

    def target_log_probs(self, batch: Batch) -> Tensor:
        """The same of the n labels that are observations alone [n, V], in their order: of masked
        tokens a few of all that the network reads."""
        logits = self._logits(batch)
        scored = (batch["labels"] != IGNORED).to(self.device)
        chosen = logits.flatten(0, -2) if bool(scored.all()) else logits[scored]
        return chosen.log_softmax(-1)

    def _logits(self, batch: Batch) -> Tensor:
        if not isinstance(self.likelihood, Categorical):
            raise ValueError(f"a {self._model.info.task} model has no distribution over classes")
        return self.outputs(batch)


def scoring_precision(wanted: Precision, model: FunctionalModel) -> Precision:
    """`wanted`, but float32 where the processor has no bfloat16 of its own and would be slower."""
    native = True
    if model.device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif model.device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return wanted if native else "fp32"


class Trunk:
    """Modules whose outputs are kept: none where draws share nothing."""

    def __init__(self, modules: Sequence[nn.Module] = ()) -> None:
        self.modules = modules
        self.bytes = 0  # that the outputs over the batch take with which it was found
        self._kept: dict[int, dict[nn.Module, Any]] = {}

    @contextmanager
    def over(self, batch: int) -> Iterator[None]:
        """A pass in here is over the batch of this number: the first one computes the outputs of
        the modules and keeps them, the others find them."""
        outputs = self._kept.setdefault(batch, {})
        own = [vars(module).get("forward") for module in self.modules]
        for module in self.modules:
            vars(module)["forward"] = _once(module, outputs)
        try:
            yield
        finally:
            for module, forward in zip(self.modules, own, strict=True):
                if forward is None:
                    del vars(module)["forward"]
                else:
                    vars(module)["forward"] = forward

    def forget(self) -> None:
        self._kept.clear()

    def held(self) -> int:
        """Bytes of what is kept."""
        storages = (tensor.untyped_storage() for tensor in _tensors(self._kept))
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


class _Watch(TorchDispatchMode):
    """Notices the first operation on a vector, or on a view of it."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._place = _place(theta)
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = _tensors((args, kwargs))
        self.seen = self.seen or any(_place(tensor) == self._place for tensor in inputs)
        return func(*args, **(kwargs or {}))


def _shared(flat: FlatModule, outputs: Callable[[], Tensor]) -> list[nn.Module]:
    """The outermost modules that are frozen, called once in a pass, and done before θ is read."""
    calls: Counter[nn.Module] = Counter()
    done: list[nn.Module] = []
    watch = _Watch(flat.theta)

    def enter(module: nn.Module, _: Any) -> None:
        calls[module] += 1

    def leave(module: nn.Module, *_: Any) -> None:
        if not watch.seen:
            done.append(module)

    hooks = [m.register_forward_pre_hook(enter) for m in flat.module.modules()]
    hooks += [m.register_forward_hook(leave) for m in flat.module.modules()]
    try:
        with watch:
            outputs()
    finally:
        for hook in hooks:
            hook.remove()
    bayesian = _place(flat.theta)
    can = [
        module
        for module in done
        if calls[module] == 1 and all(_place(p) != bayesian for p in module.parameters())
    ]
    inner = {part for module in can for part in module.modules() if part is not module}
    return [module for module in can if module not in inner]


def _exact(trunk: Trunk, flat: FlatModule, outputs: Callable[[], Tensor]) -> bool:
    """Whether kept outputs change nothing, under one θ, another, and the first again."""
    start = flat.theta.clone()
    try:
        for theta in (start, 1.01 * start + 0.01, start):
            flat.theta.copy_(theta)
            plain = outputs()
            try:
                with trunk.over(0):
                    kept = outputs()
            except Exception as error:  # a network cannot do without what a module does beside
                if ran_out(error):
                    raise
                return False
            if not torch.equal(kept, plain):
                return False
        trunk.bytes = trunk.held()
        return True
    finally:
        flat.theta.copy_(start)
        trunk.forget()


def _once(module: nn.Module, outputs: dict[nn.Module, Any]) -> Callable[..., Any]:
    """The module's forward, computed where `outputs` do not hold it."""
    compute = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if module not in outputs:
            outputs[module] = compute(*args, **kwargs)
        return outputs[module]

    return forward


def _place(tensor: Tensor) -> int:
    """Where its memory begins: the same for a vector and all views of it."""
    return tensor.untyped_storage().data_ptr()


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in dictionaries, lists and tuples, however deep."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
