"""The state of a SWAG module, kept as swa_gaussian keeps it, becomes its Gaussian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesgen.errors import UserError
from bayesgen.models.functional import FunctionalModel
from bayesgen.priors import Weights
from bayesgen.priors.published import collected, import_swag_state, stems, swag_state
from tests.priors.files import agree, exact

KEPT = 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


@pytest.fixture
def path() -> list[dict[str, Tensor]]:
    """Seven weights of the network, as an optimizer would leave them."""
    generator = torch.Generator().manual_seed(1)
    start = dict(network().named_parameters())
    return [
        {n: p.detach() + 0.1 * torch.randn(p.shape, generator=generator) for n, p in start.items()}
        for _ in range(7)
    ]


def state_of(path: list[dict[str, Tensor]], kept: int | None = KEPT) -> dict[str, Any]:
    """What `SWAG.state_dict()` holds after `collect_model` of each: running means, and the last
    deviations from the mean at the time, a row each; buffers of the network beside them."""
    state: dict[str, Any] = {"n_models": torch.tensor([len(path)])}
    for name in path[0]:
        every = torch.stack([weights[name] for weights in path])
        means = every.cumsum(0) / torch.arange(1, len(every) + 1).view(-1, *[1] * (every.dim() - 1))
        state[f"base.{name}_mean"] = means[-1]
        state[f"base.{name}_sq_mean"] = every.square().mean(0)
        if kept is not None:
            state[f"base.{name}_cov_mat_sqrt"] = (every - means).flatten(1)[-kept:]
    state |= {f"base.1.{name}": tensor for name, tensor in network()[1].named_buffers()}
    return state


def test_the_density_is_that_of_the_state(path: list[dict[str, Tensor]]) -> None:
    module = network()
    model = FunctionalModel(module)
    state = state_of(path)
    prior = import_swag_state(state, module)
    assert prior.layout == model.layout
    every = torch.stack([model.layout.ravel(weights) for weights in path]).double()
    mean, variance = every.mean(0), every.var(0, correction=0)
    deviations = torch.stack([every[i] - every[: i + 1].mean(0) for i in range(7)])[-KEPT:]
    q = deviations / (KEPT - 1) ** 0.5
    found = prior.match(Weights(model.theta, model.layout))
    density = found.density(2.0, epsilon=1e-4, head_std=0.2)
    agree(density, exact(mean, variance, q, 2.0, 1e-4), model.theta)
    assert collected(state) == 7
    assert set(stems(state)) == set(path[0])  # the buffer running_mean is no parameter


def test_a_checkpoint_that_holds_the_state_is_read(path: list[dict[str, Tensor]]) -> None:
    state = state_of(path)
    assert swag_state({"epoch": 3, "state_dict": state}) == swag_state(state) == state


def test_a_state_without_deviations_is_diagonal(path: list[dict[str, Tensor]]) -> None:
    prior = import_swag_state(state_of(path, kept=None), network())
    assert prior.rank == 0
    assert len(prior.mean) == prior.layout.size


def test_rounding_below_zero_is_no_variance(path: list[dict[str, Tensor]]) -> None:
    state = state_of(path)
    state["base.0.bias_sq_mean"] = state["base.0.bias_mean"].square() - 1e-6
    prior = import_swag_state(state, network())
    assert not prior.layout.views(prior.variance)["0.bias"].any()


def test_a_part_of_the_parameters_leaves_the_others_out(path: list[dict[str, Tensor]]) -> None:
    state = state_of(path)
    prior = import_swag_state(state, network(), parameters="0.*,1.*")
    assert prior.layout.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert set(stems(state)) - set(prior.layout.names) == {"3.weight", "3.bias"}


def test_another_network_is_refused_with_names(path: list[dict[str, Tensor]]) -> None:
    larger = nn.Sequential(*network(), nn.Linear(2, 2))
    with pytest.raises(
        UserError, match=r"does not know '4\.weight', '4.bias', which the model has"
    ):
        import_swag_state(state_of(path), larger)
    wider = network()
    wider[3] = nn.Linear(13, 2)
    with pytest.raises(UserError, match=r"of '3.weight' are .*of another model"):
        import_swag_state(state_of(path), wider)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([1], "no state dict"),
        ({1: 2}, "no state dict"),
        ({}, "no name ends with '_sq_mean'"),
        ({"base.1.running_mean": torch.zeros(3)}, "no name ends with '_sq_mean'"),
        ({"a_sq_mean": torch.zeros(3), "n_models": torch.tensor([1])}, "collected 1 models"),
        ({"a_sq_mean": torch.zeros(3), "n_models": 1}, "collected 1 models"),
        ({"a_sq_mean": torch.zeros(3), "n_models": torch.tensor([1.0])}, "collected 1 models"),
        ({"a_sq_mean": torch.zeros(3), "n_models": torch.tensor([2.5])}, "no number of models"),
        ({"a_sq_mean": torch.zeros(3), "n_models": torch.tensor([2, 3])}, "no number of models"),
        ({"a_sq_mean": torch.zeros(3), "n_models": "3"}, "holds no tensor"),
        ({"a_sq_mean": torch.zeros(3), "n_models": True}, "holds no tensor"),
        (
            {"a_sq_mean": torch.zeros(3), "n_models": torch.tensor([3], device="meta")},
            "on 'meta'",
        ),
    ],
)
def test_what_is_no_state_is_refused(found: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        swag_state(found)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("base.0.bias_mean", None, "'0.bias': it holds no tensor"),
        ("base.0.bias_sq_mean", torch.zeros(4), "'0.bias' are"),
        ("base.0.bias_cov_mat_sqrt", torch.zeros(KEPT, 4), "'0.bias' are"),
        ("base.0.bias_cov_mat_sqrt", torch.zeros(3), "must have 2 dimensions"),
        ("base.0.bias_cov_mat_sqrt", torch.zeros(2, 3), "equally many deviations"),
        ("base.0.bias_sq_mean", torch.full((3,), torch.inf), "not finite"),
        ("base.0.bias_mean", torch.zeros(3, dtype=torch.int32), "holds torch.int32"),
        ("n_models", torch.tensor([KEPT - 1]), f"keeps {KEPT} deviations of {KEPT - 1} collected"),
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused(
    key: str, value: Any, says: str, path: list[dict[str, Tensor]]
) -> None:
    with pytest.raises(UserError, match=says):
        import_swag_state(state_of(path) | {key: value}, network())
