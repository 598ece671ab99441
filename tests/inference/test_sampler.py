"""What the samplers share: states as tensors, cut batches, and the scales of Langevin dynamics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.inference.laplace import LaplaceSettings
from bayesgen.inference.libraries import posteriors
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.sampler import leaves, own, restore, rows_within

Tiny = Any  # the fixture of conftest.py
CHAINS = [name for name, spec in SAMPLERS.items() if spec.settings.draws_from == "chain"]
MIB = 2**20


# states


def sgld_state() -> Any:
    return posteriors.sgmcmc.sgld.init((torch.zeros(2), torch.ones(3)))


def test_an_owned_state_shares_no_scalar_with_its_class() -> None:
    one, other = own(sgld_state()), own(sgld_state())
    one.step.fill_(7)
    assert int(other.step) == int(sgld_state().step) == 0


def test_a_restored_state_holds_copies_in_the_structure_of_the_old() -> None:
    state = own(sgld_state())
    values = [leaf.clone() + 1 for leaf in leaves(state)]
    back = restore(state, values)
    assert type(back) is type(state)
    assert [p.tolist() for p in back.params] == [[1, 1], [2, 2, 2]]
    values[0].fill_(9)
    assert back.params[0].tolist() == [1, 1]
    assert [p.tolist() for p in state.params] == [[0, 0], [1, 1, 1]]


def test_a_state_of_another_structure_does_not_restore() -> None:
    state = own(sgld_state())
    with pytest.raises(ValueError, match="zip"):
        restore(state, leaves(state)[:-1])


# per-example gradients within a memory


@pytest.mark.parametrize(
    ("rows", "size", "parts"),
    [
        (8, MIB // 64, [8]),  # 4 copies of 4 bytes: 1 MiB holds 4 rows of 16,384 weights
        (8, MIB // 16, [1] * 8),
        (7, MIB // 48, [3, 2, 2]),
        (1, MIB // 16, [1]),
    ],
)
def test_batches_are_cut_into_even_parts_that_fit(rows: int, size: int, parts: list[int]) -> None:
    memory = 2 if rows == 8 and len(parts) == 1 else 1
    cut = rows_within(LaplaceSettings(jacobian_memory=memory), size)
    batch = {"input_ids": torch.arange(rows * 2).view(rows, 2), "labels": torch.arange(rows)}
    pieces = cut(batch)
    assert [len(piece["labels"]) for piece in pieces] == parts
    for name, tensor in batch.items():
        assert torch.equal(torch.cat([piece[name] for piece in pieces]), tensor)


def test_a_memory_that_holds_no_row_is_refused_with_one_that_does() -> None:
    size = 3 * MIB // 16 + 1
    with pytest.raises(UserError, match=r"`jacobian_memory=3` .*at least 4 "):
        rows_within(LaplaceSettings(jacobian_memory=3), size)
    rows_within(LaplaceSettings(jacobian_memory=4), size)


# the scales that a run announces, against what the chains do

DYNAMICS: dict[str, dict[str, float]] = {
    "sgld": {"learning_rate": 0.03},
    "sglrw": {"learning_rate": 0.03},
    "sghmc": {"learning_rate": 0.1, "friction": 2.0, "momentum_std": 0.7},
    "sgnht": {"learning_rate": 0.1, "friction": 2.0, "momentum_std": 0.7},
    "baoa": {"learning_rate": 0.1, "friction": 2.0, "momentum_std": 0.7},
}


def path_of(
    tiny: Tiny, name: str, log_posterior: LogPosterior, steps: int, temperature: float
) -> tuple[Any, Tensor]:
    """What the chain announces, and θ before each step and after the last: [steps + 1, P]."""
    changes = {"temperature": temperature, "sampling_steps": steps} | DYNAMICS[name]
    sampler = tiny.sampler(name, log_posterior, **changes)
    torch.manual_seed(0)
    state, path = sampler.init(), []
    for _ in range(steps):
        path.append(sampler.theta(state))
        state, _ = sampler.update(state, tiny.batches.batch(0))
    announced = sampler.langevin(
        DYNAMICS[name]["learning_rate"], temperature / tiny.batches.num_observations
    )
    return announced, torch.stack([*path, sampler.theta(state)]).double()


@pytest.mark.parametrize("name", CHAINS)
def test_free_diffusion_is_as_announced(
    name: str, tiny: Tiny, no_information: Callable[..., LogPosterior]
) -> None:
    announced, path = path_of(tiny, name, no_information(name), steps=300, temperature=1.0)
    moved = (path[-1] - path[0]).square().mean().sqrt()  # over a thousand free weights
    assert announced.diffusion * 300**0.5 == pytest.approx(float(moved), rel=0.08)


@pytest.mark.parametrize("name", ["sgld", "sglrw"])
def test_the_noise_of_a_step_is_as_announced(
    name: str, tiny: Tiny, no_information: Callable[..., LogPosterior]
) -> None:
    announced, path = path_of(tiny, name, no_information(name), steps=50, temperature=1.0)
    assert announced.noise == pytest.approx(float(path.diff(dim=0).std()), rel=0.02)
    assert announced.friction_steps is None


@pytest.mark.parametrize("name", ["sgld", "sghmc", "sgnht", "baoa"])
def test_the_drift_of_a_step_is_as_announced(
    name: str, tiny: Tiny, no_information: Callable[..., LogPosterior]
) -> None:
    slope = 0.01  # of ℓ itself
    announced, path = path_of(tiny, name, no_information(name, slope), steps=60, temperature=0.0)
    step = float((path[-1] - path[-2]).mean())
    assert announced.drift * slope == pytest.approx(step, rel=0.02)


@pytest.mark.parametrize("name", ["sghmc", "sgnht", "baoa"])
def test_the_velocity_is_forgotten_after_the_announced_steps(
    name: str, tiny: Tiny, no_information: Callable[..., LogPosterior]
) -> None:
    announced, path = path_of(tiny, name, no_information(name), steps=300, temperature=1.0)
    velocity = path.diff(dim=0)
    lag = 5
    kept = float((velocity[lag:] * velocity[:-lag]).mean() / velocity.square().mean())
    assert kept == pytest.approx(2.718 ** (-lag / announced.friction_steps), abs=0.12)


def test_without_friction_the_velocity_is_never_forgotten(tiny: Tiny) -> None:
    for name in ("sghmc", "baoa", "sgnht"):
        announced = tiny.sampler(name, friction=0.0).langevin(0.1, 1e-3)
        assert announced.friction_steps == float("inf")
        assert announced.diffusion == announced.noise == 0
