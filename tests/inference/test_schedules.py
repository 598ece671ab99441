"""The plan of a run, step by step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesgen.config import ChainSettings
from bayesgen.errors import UserError
from bayesgen.inference.ekf import EKFSettings
from bayesgen.inference.map import MAPSettings
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.sampler import lookup
from bayesgen.inference.schedules import Plan, chain_plan, pass_plan


def plan_of(**changes: Any) -> Plan:
    short = {
        "learning_rate": 2.0, "temperature": 0.5, "warmup_steps": 10, "sampling_steps": 30,
        "thinning": 5, "final_fraction": 0.1, "schedule": "cosine", "ramp_fraction": 0.0,
    }  # fmt: skip
    return chain_plan(ChainSettings(**(short | changes)))


def draws(plan: Plan) -> list[int]:
    """Numbers of the steps, from 1, after which a draw is kept."""
    return (plan.collect.nonzero()[:, 0] + 1).tolist()


# the step size


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [("constant", 2.0, 2.0), ("cosine", 1.1, 0.2), ("linear", 1.1, 0.2)],
)
def test_the_step_size_falls_to_its_final_fraction_while_sampling(
    schedule: str, middle: float, last: float
) -> None:
    rate = plan_of(schedule=schedule, sampling_steps=31).learning_rate
    assert rate[[0, 10, 25, 40]].tolist() == pytest.approx([2.0, 2.0, middle, last])
    assert (rate.diff() <= 0).all()
    assert rate.dtype == torch.float64


def test_a_cosine_is_flat_at_its_ends_and_a_line_is_not() -> None:
    cosine = plan_of(schedule="cosine", warmup_steps=0).learning_rate.diff().abs()
    line = plan_of(schedule="linear", warmup_steps=0).learning_rate.diff().abs()
    assert cosine[0] < 0.1 * line[0] < 0.1 * cosine[15]
    torch.testing.assert_close(line, line[:1].expand_as(line))


def test_a_cycle_starts_again_at_the_first_step_size() -> None:
    rate = plan_of(schedule="cyclical", cycles=4, cycle_exploration=0.5).learning_rate
    assert rate[[0, 10, 20, 30]].tolist() == pytest.approx([2.0] * 4)
    assert rate[[5, 15, 25, 35]].tolist() == pytest.approx([1.1] * 4)
    torch.testing.assert_close(rate[:10], rate[30:])
    assert (rate[:10].diff() < 0).all()
    assert 0.2 < rate[9] < 0.3


def test_the_step_size_rises_over_the_ramp() -> None:
    rate = plan_of(schedule="constant", ramp_fraction=0.4).learning_rate
    assert rate[:5].tolist() == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_one_step_is_a_schedule() -> None:
    for schedule in ("constant", "cosine", "linear"):
        plan = plan_of(schedule=schedule, warmup_steps=0, sampling_steps=1, thinning=1)
        assert plan.learning_rate.tolist() == [2.0]
        assert plan.num_draws == 1


# the temperature


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_temperature_is_constant(schedule: str) -> None:
    assert plan_of(schedule=schedule).temperature.tolist() == [0.5] * 40


def test_a_cycle_explores_without_noise_and_then_samples() -> None:
    plan = plan_of(schedule="cyclical", cycles=4, cycle_exploration=0.4, thinning=1)
    # the warm-up is the first of the cycles
    assert plan.temperature.tolist() == [0.0] * 10 + ([0.0] * 4 + [0.5] * 6) * 3
    assert not plan.collect[plan.temperature == 0].any()


def test_the_temperature_rises_over_its_ramp() -> None:
    plan = plan_of(schedule="constant", temperature_ramp_steps=5)
    assert plan.temperature[:6].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    assert plan.learning_rate.tolist() == [2.0] * 40


def test_zero_temperature_is_honoured() -> None:
    assert not plan_of(temperature=0.0).temperature.any()


# the draws


def test_a_draw_follows_every_thinning_steps_after_the_warm_up() -> None:
    plan = plan_of()
    assert draws(plan) == [15, 20, 25, 30, 35, 40]
    assert (plan.steps, plan.num_draws) == (40, 6)


def test_without_warm_up_the_first_draw_is_still_thinned() -> None:
    assert draws(plan_of(warmup_steps=0)) == [5, 10, 15, 20, 25, 30]


def test_cycles_are_thinned_over_their_sampling_parts() -> None:
    plan = plan_of(schedule="cyclical", cycles=4, cycle_exploration=0.5, thinning=2)
    assert draws(plan) == [17, 19, 27, 29, 37, 39]  # warm-up covers the first cycle


@settings(deadline=None)
@given(
    warmup=st.integers(0, 50),
    sampling=st.integers(1, 200),
    thinning=st.integers(1, 60),
    schedule=st.sampled_from(["constant", "cosine", "linear"]),
)
def test_the_number_of_draws_is_the_sampling_steps_over_the_thinning(
    warmup: int, sampling: int, thinning: int, schedule: str
) -> None:
    counts = {"warmup_steps": warmup, "sampling_steps": sampling, "thinning": thinning}
    if sampling < thinning:
        with pytest.raises(UserError, match="`thinning`"):
            plan_of(schedule=schedule, **counts)
        return
    plan = plan_of(schedule=schedule, **counts)
    assert plan.num_draws == sampling // thinning
    assert draws(plan) == list(range(warmup + thinning, warmup + sampling + 1, thinning))


@settings(deadline=None)
@given(
    warmup=st.integers(0, 60),
    sampling=st.integers(1, 100),
    thinning=st.integers(1, 10),
    cycles=st.integers(1, 9),
    exploration=st.floats(0, 1),
)
def test_a_cyclical_plan_draws_only_from_hot_steps_after_warm_up(
    warmup: int, sampling: int, thinning: int, cycles: int, exploration: float
) -> None:
    try:
        plan = plan_of(
            schedule="cyclical",
            warmup_steps=warmup,
            sampling_steps=sampling,
            thinning=thinning,
            cycles=cycles,
            cycle_exploration=exploration,
        )
    except UserError:
        return
    eligible = int((plan.temperature[warmup:] > 0).sum())
    assert 1 <= plan.num_draws <= eligible // thinning
    # a draw is never taken right after exploration, unless every step is one
    first_hot = (plan.temperature > 0) & (plan.temperature.roll(1) == 0)
    assert thinning == 1 or not (plan.collect & first_hot).any()
    assert not plan.collect[:warmup].any()
    assert (plan.temperature[plan.collect] == 0.5).all()
    assert plan.learning_rate.min() >= 0.2 - 1e-12
    assert plan.learning_rate.max() <= 2.0


@pytest.mark.parametrize(
    "changes",
    [
        {"thinning": 31},
        {"sampling_steps": 4},
        {"schedule": "cyclical", "cycle_exploration": 1.0},
        {"schedule": "cyclical", "cycles": 40},  # cycles of one step, which explores
        {"schedule": "cyclical", "thinning": 20},
    ],
)
def test_a_schedule_that_never_collects_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="`thinning`"):
        plan_of(**changes)


# how the library asks


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_lookup_takes_a_scalar_tensor_and_stays_at_the_end(dtype: torch.dtype) -> None:
    at = lookup(torch.tensor([3.0, 2.0, 1.0]))
    found = [at(torch.tensor(step, dtype=dtype)) for step in (0, 1, 2, 3, 99)]
    assert [float(value) for value in found] == [3.0, 2.0, 1.0, 1.0, 1.0]
    assert all(value.shape == () for value in found)


# passes over the data


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "steps", "passes"),
    [(1.0, 7, 7, 1.0), (2.5, 4, 10, 2.5), (0.5, 8, 4, 0.5), (0.01, 4, 1, 0.25)],
)
def test_a_pass_plan_ends_with_its_only_result(
    epochs: float, per_epoch: int, steps: int, passes: float
) -> None:
    settings = EKFSettings(epochs=epochs, learning_rate=0.3, temperature=0.7)
    plan = pass_plan(settings, per_epoch)
    assert (plan.steps, plan.passes, draws(plan)) == (steps, passes, [steps])
    assert plan.learning_rate.tolist() == pytest.approx([0.3] * steps)
    assert plan.temperature.tolist() == pytest.approx([0.7] * steps)


def test_a_pass_plan_can_decay() -> None:
    settings = MAPSettings(learning_rate=0.3, final_fraction=0.1)
    rate = pass_plan(settings, 21).learning_rate
    assert rate[[0, 10, 20]].tolist() == pytest.approx([0.3, 0.165, 0.03])


def test_optimisers_decay_and_the_filter_does_not() -> None:
    for name, last in (("map", 0.25), ("vi", 0.25), ("ekf", 1.0)):
        changes = {} if name == "ekf" else {"final_fraction": 0.25}
        spec = SAMPLERS[name]
        plan = spec.plan(spec.settings(learning_rate=1.0, epochs=2.0, **changes), 6)
        assert plan.steps == 12
        assert float(plan.learning_rate[-1]) == pytest.approx(last)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_default_settings_make_a_plan(name: str) -> None:
    defaults = SAMPLERS[name].settings()
    plan = SAMPLERS[name].plan(defaults, 50)
    chain = isinstance(defaults, ChainSettings)
    passes = (2000, 40) if name == "swag" else (50, 1)
    assert (plan.steps, plan.num_draws) == ((3000, 30) if chain else passes)
    assert math.isclose(float(plan.learning_rate.max()), defaults.learning_rate, rel_tol=0.05)
    assert (plan.temperature == defaults.temperature).all()
