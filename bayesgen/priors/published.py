"""Priors that others published, with the names of a module.

Flat tensors (Shwartz-Ziv et al. 2022, https://arxiv.org/abs/2205.10279,
https://github.com/hsouri/BayesianTransferLearning) have the parameters of a module in the order of
its `parameters()`. The state dict of a `SWAG` module (Maddox et al. 2019,
https://arxiv.org/abs/1902.02476, https://github.com/wjmaddox/swa_gaussian) has a mean, a mean
square and deviations that are not divided by √(K − 1) for each parameter. Statistics of batch
norms, which both may hold, are no parameters: a prior says nothing of them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesgen.errors import UserError
from bayesgen.parameters import Layout, Subset, base_of, select
from bayesgen.priors.learned import SHIFT, LearnedPrior, listed

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Last parts of the names of what a batch norm keeps beside its parameters."""
SETTING = "`swag_state`"
BASE = "base."
"""What the names of the network inside a SWAG module begin with."""
MEAN, SQUARES, DEVIATIONS = "_mean", "_sq_mean", "_cov_mat_sqrt"
"""What is added to the name of a parameter."""


def read_pt(path: Path, setting: str) -> Any:
    """What a file of `torch.save` holds: tensors and plain data, or it is refused; nothing in it is
    executed."""
    if not path.is_file():
        raise UserError(f"{setting}: no file at '{path}'")
    try:
        # mapped, where the format allows it: a prior is in memory once
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    # a damaged pickle can raise nearly any exception
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{setting}: '{path}' cannot be read, it is damaged or holds more than tensors and"
            f" plain data; copy it anew, or save its tensors alone ({reason[:200]})"
        ) from error


def dense(tensor: Any, setting: str, dims: int | None = None) -> Tensor:
    """`tensor`, if it is a dense one of float numbers, with so many dimensions."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        raise UserError(f"{setting}: it holds no tensor of numbers ({type(tensor).__name__})")
    if not tensor.is_floating_point() or tensor.device.type != "cpu":
        raise UserError(
            f"{setting}: it holds {tensor.dtype} on '{tensor.device}', no float numbers"
        )
    shape = list(tensor.shape)
    if dims is not None and tensor.dim() != dims:
        raise UserError(f"{setting}: its shape is {shape}; it must have {dims} dimensions")
    # a few bytes can claim to be any number of rows
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise UserError(f"{setting}: its shape {shape} is larger than what it holds")
    return tensor.detach()


def import_published(
    mean: Any,
    variance: Any,
    deviations: Any,
    module: nn.Module,
    *,
    divided: bool,
    parameters: Subset = "all",
    order: str | None = None,
    weights: Mapping[str, Tensor] | None = None,
    record: Mapping[str, Any] | None = None,
) -> LearnedPrior:
    """A prior of flat tensors, with the names of a module.

    Args:
        mean, variance: [P], and deviations [K, P].
        module: gives names and shapes.
        divided: whether the deviations are divided by √(K − 1) already.
        parameters: which of the module's parameters the tensors hold.
        order: of the parameters: `module` (that of `module.parameters()`) or `torchvision`; needed
            where the two differ and no `weights` show it (see `torchvision_order`).
        weights: of the network that the prior was learned from, in the order of the tensors.
        record: what the prior keeps of the model and of how it was learned.

    Raises:
        UserError: the tensors are none of float numbers, or do not fit each other or the module.
    """
    mean, variance = dense(mean, "`mean`", 1), dense(variance, "`variance`", 1)
    rows = dense(deviations, "`deviations`", 2)
    named = dict(module.named_parameters())
    names = select(module, parameters)
    size, wanted = len(mean), sum(named[name].numel() for name in names)
    if size != wanted:
        raise UserError(
            f"`model`: the prior has {size:,} numbers, and the model {wanted:,} in the parameters"
            f" that were chosen: it is of another model{_hint(module, size)}"
        )
    for setting, tensor in (("`variance`", variance), ("`deviations`", rows)):
        if tensor.shape[-1] != size:
            raise UserError(
                f"{setting}: its shape is {list(tensor.shape)}, and that of the mean [{size}]; name"
                " files of one prior"
            )
    layout = Layout.of((n, named[n]) for n in _in_order(named, names, order, weights))
    record = dict(record or {})
    if weights is not None:
        start = torch.cat([tensor.flatten().float() for tensor in weights.values()])
        if start.norm() > 0:
            moved = float((mean.float() - start).norm() / start.norm())
            record["upstream"] = {**record.get("upstream", {}), SHIFT: moved}
    prior = LearnedPrior(mean.float(), variance.float(), rows.float(), layout, record)
    return _imported(prior, divided, module)


def torchvision_order(names: Sequence[str]) -> list[str]:
    """`names` of a ResNet of transformers in the order of torchvision's.

    The two are the same network, but a block's projection (`shortcut`, torchvision's `downsample`)
    comes first in one and last in the other, so that flat vectors of one do not fit the other,
    although they have the same length. Names without shortcuts stay as they are.
    """
    block = {name: name.split(".shortcut.")[0].split(".layer.")[0] for name in names}
    blocks = list(block.values())
    return sorted(names, key=lambda name: (blocks.index(block[name]), ".shortcut." in name))


def weights_of(state: Any, setting: str) -> dict[str, Tensor]:
    """The parameters of a state dict, in its order; tied ones once, no batch norms' statistics."""
    items = list(state.items()) if isinstance(state, Mapping) else []
    if not items or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in items):
        raise UserError(f"{setting}: it is no state dict of a module")
    found: dict[Any, tuple[str, Tensor]] = {}
    for name, tensor in items:
        if name.rpartition(".")[2] not in STATISTICS and tensor.is_floating_point():
            weight = dense(tensor, f"{setting} {name!r:.80}")
            place = (weight.data_ptr(), weight.shape) if weight.numel() else name
            found.setdefault(place, (name, weight))
    return dict(found.values())


def spread_ratio(variance: Tensor, deviations: Tensor) -> float | None:
    """tr(QᵀQ) / tr(diag v) of deviations [K, P] as they are in a file; None where nothing varies.

    About 1 where they are divided by √(K − 1), and about K − 1 where they are not, though a path
    that drifts blurs it. The least variance is a floor, below which nothing was resolved.
    """
    moving = variance > variance.min()
    total = float(variance[moving].double().sum())
    spread = sum(float(row[moving].double().square().sum()) for row in deviations)
    return spread / total if total > 0 and spread > 0 else None


def swag_state(found: Any) -> dict[str, Any]:
    """The state dict of a `SWAG` module in what a file holds: itself, or a checkpoint's
    `state_dict`; refused where it has collected less than two models, of which no variance is."""
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{SETTING}: it is no state dict of a SWAG module")
    state = dict(found)
    if not stems(state):
        raise UserError(
            f"{SETTING}: it is no state dict of a SWAG module: no name ends with '{SQUARES}'"
        )
    count = collected(state)
    if count is not None and count < 2:
        raise UserError(f"{SETTING}: it has collected {count} models; a variance needs two")
    return state


def import_swag_state(
    state: Mapping[str, Any],
    module: nn.Module,
    *,
    parameters: Subset = "all",
    record: Mapping[str, Any] | None = None,
) -> LearnedPrior:
    """A prior of a `SWAG` state (see `swag_state`), matched by name to the `module` inside.

    v is its mean square minus the square of its mean (at least 0), Q its deviations divided by
    √(K − 1), with K the number that it keeps. For the others see `import_published`.

    Raises:
        UserError: the state does not fit the module, or is damaged.
    """
    known = stems(state)
    named = dict(module.named_parameters())
    chosen = select(module, parameters)
    if lacking := [name for name in chosen if name not in known]:
        raise UserError(
            f"{SETTING}: it does not know {listed(lacking)}, which the model has: name the model"
            f" that it was learned from, or choose `parameters` (it knows {listed(known)})"
        )
    parts = [_part(state, known[name], name, named[name]) for name in chosen]
    if len({len(rows) for *_, rows in parts}) > 1:
        raise UserError(
            f"{SETTING}: its parameters do not keep equally many deviations; copy it anew"
        )
    mean, squares, rows = (torch.cat(each, dim=-1) for each in zip(*parts, strict=True))
    count = collected(state)
    if count is not None and len(rows) > count:
        raise UserError(
            f"{SETTING}: it keeps {len(rows)} deviations of {count} collected models; copy it anew"
        )
    variance = (squares.double() - mean.double().square()).clamp(min=0)
    layout = Layout.of((name, named[name]) for name in chosen)
    prior = LearnedPrior(mean.float(), variance.float(), rows.float(), layout, record or {})
    return _imported(prior, False, module)


def stems(state: Mapping[str, Any]) -> dict[str, str]:
    """Parameters that a state knows: name in the network -> what its names there begin with."""
    found = (key.removesuffix(SQUARES) for key in state if key.endswith(SQUARES))
    return {stem.removeprefix(BASE): stem for stem in found}


def collected(state: Mapping[str, Any]) -> int | None:
    """How many models a state has collected, where it says so."""
    count = state.get("n_models")
    if count is None or type(count) is int:
        return count
    if isinstance(count, Tensor) and count.dtype in {torch.int32, torch.int64}:
        count = count.double() if count.layout == torch.strided else None
    number = dense(count, f"{SETTING} 'n_models'")
    if number.numel() != 1 or not float(number).is_integer():
        raise UserError(f"{SETTING} 'n_models': it is no number of models; copy it anew")
    return int(number)


def _part(
    state: Mapping[str, Any], stem: str, name: str, parameter: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [n], mean square [n] and deviations [K, n] of one parameter; K is 0 where none are."""
    where = f"{SETTING} '{name}'"
    mean, squares = (
        dense(state.get(stem + end), where, parameter.dim()) for end in (MEAN, SQUARES)
    )
    rows = dense(state.get(stem + DEVIATIONS, torch.zeros(0, parameter.numel())), where, 2)
    shapes = [list(tensor.shape) for tensor in (mean, squares, rows)]
    if shapes != [[*parameter.shape], [*parameter.shape], [len(rows), parameter.numel()]]:
        raise UserError(
            f"{SETTING}: mean, mean square and deviations of '{name}' are {shapes}, and the model's"
            f" is {list(parameter.shape)}: it is of another model"
        )
    return mean.flatten(), squares.flatten(), rows


def _in_order(
    named: Mapping[str, Tensor],
    names: list[str],
    order: str | None,
    weights: Mapping[str, Tensor] | None,
) -> list[str]:
    """`names` in the order of a file: the one that is named, or that fits the `weights`."""
    orders = {"module": names, "torchvision": torchvision_order(names)}
    differ = orders["module"] != orders["torchvision"]
    if order is not None and not differ:
        raise UserError(f"`order={order}`: this model has one order only; leave the setting out")
    if order is None and differ and weights is None:
        raise UserError(
            "`order`: a ResNet's shortcuts come before their blocks in transformers and after them"
            " in torchvision; say which order the files have, torchvision (as those that were"
            " published) or module, or let `model_file` show it"
        )
    candidates = list(orders.values()) if order is None else [orders[order]]
    first = candidates[0]
    if weights is None:
        return first
    shapes = [tensor.shape for tensor in weights.values()]
    for each in candidates:
        if [named[name].shape for name in each] == shapes:
            return each
    for name, (other, tensor) in zip(first, weights.items(), strict=False):
        if (own := named[name].shape) != tensor.shape:
            raise UserError(
                f"`model_file`: '{other}' is {list(tensor.shape)} there and '{name}' {list(own)} in"
                " the model, which should be the same: it is of another model, or in another"
                " `order`"
            )
    raise UserError(
        f"`model_file`: it has {len(weights)} parameters, and the prior is of {len(first)}: it is"
        " of another model"
    )


def _imported(prior: LearnedPrior, divided: bool, module: nn.Module) -> LearnedPrior:
    """`prior`, if its numbers can be, with the prefix of the module's names in its record, and
    divided by √(K − 1) where its deviations are not."""
    if (fault := prior.fault()) is not None:
        raise UserError(f"the prior cannot be imported: {fault}; copy its files anew")
    rows = prior.deviations
    q = rows if divided else rows / float(max(len(rows) - 1, 1) ** 0.5)
    model = {**prior.record.get("model", {}), "base": base_of(module)}
    return replace(prior, deviations=q, record={**prior.record, "model": model})


def _hint(module: nn.Module, size: int) -> str:
    """Which --parameters hold `size` numbers, where the model without its head does."""
    base = base_of(module)
    inner = [p.numel() for name, p in module.named_parameters() if name.startswith(f"{base}.")]
    if base and sum(inner) == size:
        return f", or of the model without its head: `parameters='{base}.*'`"
    return "; name the model that it was learned from, or choose its `parameters`"
