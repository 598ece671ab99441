"""Priors from the state dict of a `SWAG` module of Maddox et al. 2019.

https://arxiv.org/abs/1902.02476, https://github.com/wjmaddox/swa_gaussian: for each parameter a
mean, a mean square, and deviations that are not divided by √(K − 1). Buffers of batch norms, which
it keeps too, are no parameters: a prior says nothing of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesgen.errors import UserError
from bayesgen.parameters import Layout, Subset, select
from bayesgen.priors.foreign import dense, named_prior
from bayesgen.priors.learned import LearnedPrior, listed

SETTING = "`swag_state`"
BASE = "base."
"""What the names of the network inside begin with."""
MEAN, SQUARES, DEVIATIONS = "_mean", "_sq_mean", "_cov_mat_sqrt"
"""What is added to the name of a parameter."""


def swag_state(found: Any) -> dict[str, Any]:
    """The state dict in what a file holds: itself, or a checkpoint's `state_dict`.

    Raises:
        UserError: it is none of a `SWAG` module, or of one that has collected less than two models.
    """
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
    """A prior of a `SWAG` state, matched by name.

    v is its mean square minus the square of its mean (at least 0), Q its deviations divided by
    √(K − 1), with K the number that it keeps.

    Args:
        state: see `swag_state`.
        module: gives the names; the same network as the one inside.
        parameters: which of the module's parameters the prior is of.
        record: what the prior keeps of the model and of how it was learned.

    Raises:
        UserError: the state does not fit the module, or is damaged.
    """
    known = stems(state)
    named = dict(module.named_parameters())
    chosen = select(module, parameters)
    lacking = [name for name in chosen if name not in known]
    if lacking:
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
    return named_prior(
        mean,
        (squares.double() - mean.double().square()).clamp(min=0),
        rows,
        Layout.of((name, named[name]) for name in chosen),
        module,
        record,
    )


def stems(state: Mapping[str, Any]) -> dict[str, str]:
    """Parameters that a state knows: name in the network -> what its names there begin with."""
    found = (key.removesuffix(SQUARES) for key in state if key.endswith(SQUARES))
    return {stem.removeprefix(BASE): stem for stem in found}


def left_out(state: Mapping[str, Any], prior: LearnedPrior) -> list[str]:
    """Parameters that a state knows and a prior that was made of it does not."""
    return [name for name in stems(state) if name not in prior.layout.names]


def collected(state: Mapping[str, Any]) -> int | None:
    """How many models a state has collected, where it says so.

    Raises:
        UserError: what it says is no number.
    """
    count = state.get("n_models")
    if count is None:
        return None
    if isinstance(count, int) and not isinstance(count, bool):
        return count
    if isinstance(count, Tensor) and count.dtype in {torch.int32, torch.int64}:
        count = count.to(torch.float64) if count.layout == torch.strided else None
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
