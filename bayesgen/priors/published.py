"""Priors that Shwartz-Ziv et al. 2022 published, with the names that their files lack.

https://arxiv.org/abs/2205.10279, https://github.com/hsouri/BayesianTransferLearning: mean [P],
variance [P] and deviations [K, P] of the parameters of a module, flat, in the order of its
`parameters()`. Statistics of batch norms are no parameters: a prior says nothing of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bayesgen.errors import UserError
from bayesgen.parameters import Layout, Subset, select
from bayesgen.priors.foreign import base_of, dense, named_prior
from bayesgen.priors.learned import SHIFT, LearnedPrior

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Last parts of the names of what a batch norm keeps beside its parameters."""


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
        mean: [P].
        variance: [P].
        deviations: [K, P].
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
    ordered = _in_order(named, names, order, weights)
    record = dict(record or {})
    if weights is not None:
        start = torch.cat([tensor.flatten().float() for tensor in weights.values()])
        if start.norm() > 0:
            moved = float((mean.float() - start).norm() / start.norm())
            record["upstream"] = {**record.get("upstream", {}), SHIFT: moved}
    return named_prior(
        mean,
        variance,
        rows,
        Layout.of((name, named[name]) for name in ordered),
        module,
        record,
        divided=divided,
    )


def torchvision_order(names: Sequence[str]) -> list[str]:
    """`names` of a ResNet of transformers in the order of torchvision's.

    The two are the same network, but a block's projection (`shortcut`, torchvision's `downsample`)
    comes first in one and last in the other, so that flat vectors of one do not fit the other,
    although they have the same length. Names without shortcuts stay as they are.
    """
    blocks = [name.split(".shortcut.")[0].split(".layer.")[0] for name in names]
    first: dict[str, int] = {}
    for i, block in enumerate(blocks):
        first.setdefault(block, i)
    keys = [(first[block], ".shortcut." in n) for block, n in zip(blocks, names, strict=True)]
    return [names[i] for i in sorted(range(len(names)), key=keys.__getitem__)]


def _in_order(
    named: Mapping[str, Tensor],
    names: list[str],
    order: str | None,
    weights: Mapping[str, Tensor] | None,
) -> list[str]:
    """`names` in the order of a file: the one that is named, or that fits the `weights`.

    Raises:
        UserError: neither shows which it is, or none fits.
    """
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
    candidates = [orders[order]] if order is not None else list(orders.values())
    first = candidates[0]
    if weights is None:
        return first
    there = [(name, list(tensor.shape)) for name, tensor in weights.items()]
    for each in candidates:
        if [list(named[name].shape) for name in each] == [shape for _, shape in there]:
            return each
    for name, (other, shape) in zip(first, there, strict=False):
        if (own := list(named[name].shape)) != shape:
            raise UserError(
                f"`model_file`: '{other}' is {shape} there and '{name}' {own} in the model, which"
                " should be the same: it is of another model, or in another `order`"
            )
    raise UserError(
        f"`model_file`: it has {len(there)} parameters, and the prior is of {len(first)}: it is of"
        " another model"
    )


def weights_of(state: Any, setting: str) -> dict[str, Tensor]:
    """The parameters of a state dict, in its order: a tied one once, no statistics of batch norms.

    Raises:
        UserError: it is none.
    """
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{setting}: it is no state dict of a module")
    weights: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(
                f"{setting}: it is no state dict of a module ({name!r:.80} is no tensor)"
            )
        if name.rpartition(".")[2] in STATISTICS or not tensor.is_floating_point():
            continue
        weight = dense(tensor, f"{setting} {name!r:.80}")
        place = (weight.data_ptr(), weight.shape)
        if place not in seen or not weight.numel():
            seen.add(place)
            weights[name] = weight
    return weights


def spread_ratio(variance: Tensor, deviations: Tensor) -> float | None:
    """tr(QᵀQ) / tr(diag v) of deviations as they are in a file, over weights that vary.

    About 1 where they are divided by √(K − 1), and about K − 1 where they are not: by this the
    files can be distinguished, though a path that drifts blurs it. None where nothing varies.

    Args:
        variance: [P]; its least value is taken for a floor, below which nothing was resolved.
        deviations: [K, P].
    """
    moving = variance > variance.min()
    total = float(variance[moving].double().sum())
    spread = sum(float(row[moving].double().square().sum()) for row in deviations)
    return spread / total if total > 0 and spread > 0 else None


def _hint(module: nn.Module, size: int) -> str:
    """Which --parameters hold `size` numbers, where the model without its head does."""
    base = base_of(module)
    inner = [p.numel() for name, p in module.named_parameters() if name.startswith(f"{base}.")]
    if base and sum(inner) == size:
        return f", or of the model without its head: `parameters='{base}.*'`"
    return "; name the model that it was learned from, or choose its `parameters`"
