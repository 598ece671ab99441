"""λ by short runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from bayesgen.data.windows import RandomWindows, Windows
from bayesgen.evaluation.walk import nll_of
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.schedules import chain_plan
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward
from bayesgen.workflow import prior_scale
from bayesgen.workflow.job import Job, make_job
from bayesgen.workflow.prior_scale import Curve, Trial, Trials, short_run, tune_scale

TOKENS = np.random.default_rng(0).integers(0, 11, 201).astype(np.uint16)
SHORT = {"warmup_steps": 6, "sampling_steps": 20, "thinning": 10, "preconditioner_batches": 2}


def job(model: FunctionalModel, steps: int | None = None, **settings: Any) -> Job:
    chosen = SAMPLERS["sghmc"].settings(**(SHORT | {"prior": "pretrained"} | settings))
    return make_job(
        "sghmc", chosen, model, lambda chain: RandomWindows(TOKENS, 8, 4, chain), steps=steps
    )


def test_a_tight_prior_stays_and_a_wide_one_leaves(tiny_gpt: FunctionalModel) -> None:
    tight, wide = (short_run(job(tiny_gpt, steps=12, prior_scale=scale)) for scale in (1e-8, 100.0))
    assert float((tight - tiny_gpt.theta).square().mean().sqrt()) < 1e-3
    assert float((wide - tiny_gpt.theta).square().mean().sqrt()) > 1e-2


def test_every_scale_is_scored_by_its_own_mixture(tiny_gpt: FunctionalModel) -> None:
    rows = Windows.tiled(TOKENS[:80], 8)
    grid = (1e-6, 0.1, 10.0)
    curve = tune_scale(lambda s: job(tiny_gpt, steps=12, prior_scale=s), grid, rows)
    assert {trial.scale for trial in curve.trials} >= set(grid)
    count = len(curve.trials)
    assert (curve.rows, curve.to_json()["gradient_evaluations"]) == (len(rows), 12 * count)
    assert {trial.steps for trial in curve.trials} == {12}
    for trial in curve.trials:
        draws = short_run(job(tiny_gpt, steps=12, prior_scale=trial.scale))
        found = nll_of(Forward(tiny_gpt), draws, rows)
        assert (trial.nll, trial.mean_of_draws) == found
    assert curve.best.nll == min(trial.nll for trial in curve.trials)


def test_a_run_that_diverges_is_never_chosen(tiny_gpt: FunctionalModel) -> None:
    rows = Windows.tiled(TOKENS[:80], 8)

    def make(scale: float) -> Job:
        heat = 1e38 if scale > 1 else 0.01
        return job(tiny_gpt, steps=12, prior_std=1e9, temperature=heat, gradient_clip=0.0)

    curve = tune_scale(make, (1.0, 2.0), rows)
    assert [trial.scale for trial in curve.trials if math.isinf(trial.nll)] == [2.0]
    assert curve.best.scale <= 1.0


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (8.0, [1.0, 10.0, 100.0]),
        (1e3, [1.0, 10.0, 100.0, 1e3, 1e4]),
        (1e9, [1.0, 10.0, 100.0, 1e3, 1e4, 1e5]),  # three more, and no further
        (1e-2, [1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]),
    ],
)
def test_it_goes_on_where_the_end_is_best(
    best: float, tried: list[float], tiny_gpt: FunctionalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Windows.tiled(TOKENS[:80], 8)
    scales: list[float] = []

    def make(scale: float) -> Job:
        scales.append(scale)
        return job(tiny_gpt, steps=12)

    def distance(*_: Any) -> tuple[float, float]:
        return abs(math.log10(scales[-1] / best)), 1.0

    monkeypatch.setattr(prior_scale, "nll_of", distance)
    monkeypatch.setattr(prior_scale, "short_run", lambda job: job.model.theta[None])
    curve = tune_scale(make, (1.0, 10.0, 100.0), rows)
    assert [trial.scale for trial in curve.trials] == tried == sorted(scales)
    assert (curve.beyond is not None) is (best == 1e9)
    known = Trials(found={trial.scale: trial for trial in curve.trials})
    again = tune_scale(make, (1.0, 10.0, 100.0), rows, trials=known)
    assert again == curve
    assert len(scales) == len(tried)


@pytest.mark.parametrize(("best", "end"), [(0, True), (1, False), (2, True)])
def test_an_end_of_the_grid_is_said_to_be_one(best: int, end: bool) -> None:
    trials = tuple(Trial(10.0**i, 1, 1.0 - (i == best), 1.0) for i in range(3))
    assert (Curve(trials, 1).beyond is not None) is end
    assert Curve(trials, 1).to_json()["chosen"] == 10.0**best


def test_a_flat_end_leads_nowhere() -> None:
    """Where a prior says nothing any more, it says nothing beyond either."""
    assert Curve((Trial(1.0, 1, 2.0, 2.0), Trial(10.0, 1, 1.9999, 2.0)), 1).beyond is None
    assert Curve((Trial(1.0, 1, 2.0, 2.0), Trial(10.0, 1, 1.99, 2.0)), 1).beyond is not None
    assert (
        Curve((Trial(1.0, 1, 2.0, 2.0), Trial(10.0, 1, math.inf, math.inf)), 1).beyond is not None
    )


def test_a_plan_is_shortened_in_proportion(tiny_gpt: FunctionalModel) -> None:
    whole, short = job(tiny_gpt).plan, job(tiny_gpt, steps=13).plan
    assert (whole.steps, short.steps) == (26, 13)
    assert short.collect.nonzero()[:, 0].tolist() == [7, 12]  # after steps 16 and 26 of the whole
    assert float(short.learning_rate.max()) == float(whole.learning_rate.max())
    assert float(short.learning_rate[-1]) == float(whole.learning_rate[-1])
    same = job(tiny_gpt, steps=1000).plan
    assert torch.equal(same.collect, whole.collect)
    assert torch.equal(same.learning_rate, whole.learning_rate)


@pytest.mark.parametrize("steps", [4, 5, 7, 9, 15])
def test_a_short_plan_collects_nothing_that_the_whole_would_not(steps: int) -> None:
    """Of a cyclical one no step without noise, however few there are."""
    settings: Any = SAMPLERS["sghmc"].settings(
        warmup_steps=10, sampling_steps=110, thinning=5, schedule="cyclical", cycles=4,
        cycle_exploration=0.8, temperature=0.5,
    )  # fmt: skip
    whole = chain_plan(settings)
    short = whole.shortened(steps)
    assert short.steps == steps
    assert short.num_draws >= 1
    draws = {(float(lr), 0.5) for lr in whole.learning_rate[whole.collect]}
    there = zip(short.learning_rate[short.collect], short.temperature[short.collect], strict=True)
    assert {(float(lr), float(heat)) for lr, heat in there} <= draws
