"""Risk and coverage against hand-made curves, every order of the ties, and a naive bootstrap."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from bayesgen.evaluation.metrics import Interval
from bayesgen.evaluation.selective import Ranking, window_intervals

Tokens = tuple[np.ndarray, np.ndarray]


def risk_coverage(errors: Any, uncertainty: Any, points: int = 101) -> SimpleNamespace:
    ranking = Ranking.of(errors, uncertainty, np.arange(len(errors)) // 3)
    return SimpleNamespace(**ranking.curve(points))


def aurc_interval(errors: Any, uncertainty: Any, groups: Any, **options: int) -> Interval:
    ranking = Ranking.of(errors, uncertainty, groups)
    (found,) = window_intervals(lambda counts: [ranking.aurcs(counts)], ranking, **options)
    return found


def aurc_difference(first: Any, second: Any, groups: Any, **options: int) -> Interval:
    one, other = Ranking.of(*first, groups), Ranking.of(*second, groups)
    (found,) = window_intervals(
        lambda counts: [one.aurcs(counts) - other.aurcs(counts)], one, **options
    )
    return found


def accuracy_interval(
    errors: Any, uncertainty: Any, groups: Any, coverage: float, **options: int
) -> Interval:
    one = Ranking.of(errors, uncertainty, groups)
    (found,) = window_intervals(lambda counts: [one.accuracies(coverage, counts)], one, **options)
    return found


def accuracy_difference(
    first: Any, second: Any, groups: Any, coverage: float, **options: int
) -> Interval:
    one, other = Ranking.of(*first, groups), Ranking.of(*second, groups)
    (found,) = window_intervals(
        lambda counts: [one.accuracies(coverage, counts) - other.accuracies(coverage, counts)],
        one,
        **options,
    )
    return found


def tokens(max_size: int, levels: int) -> st.SearchStrategy[Tokens]:
    """Errors and uncertainty of a few tokens, with many ties."""
    token = st.tuples(st.booleans(), st.integers(0, levels - 1))
    return st.lists(token, min_size=1, max_size=max_size).map(
        lambda each: (np.array([e for e, _ in each]), np.array([float(u) for _, u in each]))
    )


def risks_in_order(errors: np.ndarray) -> np.ndarray:
    return np.array([errors[:k].mean() for k in range(1, len(errors) + 1)])


def risks_over_orders(errors: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """Risk at k = 1..n, averaged over all orders of the tokens, each sorted stably."""
    orders = [list(order) for order in permutations(range(len(errors)))]
    return np.mean(
        [risks_in_order(errors[o][np.argsort(uncertainty[o], kind="stable")]) for o in orders], 0
    )


def simulated(
    seed: int, windows: int, length: int = 16
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows whose tokens are wrong together: errors, uncertainty, groups."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(windows), length)
    shared = rng.normal(size=windows)[groups]
    uncertainty = shared + rng.normal(size=len(groups))
    errors = rng.random(len(groups)) < 1 / (1 + np.exp(1 - uncertainty))
    return errors, uncertainty, groups


# -- the curve -----------------------------------------------------------------------------------


def test_curve_and_areas_of_four_tokens() -> None:
    curve = risk_coverage(np.array([False, True, False, True]), np.array([1, 2, 3, 4]), points=5)
    assert curve.num_tokens == 4
    assert curve.coverages == [0, 0.25, 0.5, 0.75, 1]
    assert curve.risks == pytest.approx([0, 0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert curve.excess_aurc == pytest.approx(curve.aurc - (0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert curve.aurc_random == 0.5


def test_a_token_on_the_edge_counts_with_its_covered_part() -> None:
    curve = risk_coverage(np.array([False, True]), np.array([1, 2]), points=5)
    assert curve.risks == pytest.approx([0, 0, 0, 0.5 / 1.5, 1 / 2])


def test_a_tie_is_taken_in_random_order() -> None:
    curve = risk_coverage(np.array([True, False, False]), np.array([7, 7, 8]), points=4)
    assert curve.risks == pytest.approx([1 / 2, 1 / 2, 1 / 2, 1 / 3])
    assert curve.aurc == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)


@settings(max_examples=40, deadline=None)
@given(tokens(max_size=6, levels=3))
def test_risks_and_area_are_the_average_over_all_orders_of_the_ties(each: Tokens) -> None:
    expected = risks_over_orders(*each)
    curve = risk_coverage(*each, points=len(expected) + 1)
    assert curve.risks[1:] == pytest.approx(expected)
    assert curve.risks[0] == pytest.approx(expected[0])
    assert curve.aurc == pytest.approx(expected.mean())
    best = risks_in_order(np.sort(each[0])).mean()
    assert curve.excess_aurc == pytest.approx(expected.mean() - best)


@settings(deadline=None)
@given(tokens(max_size=30, levels=5), st.integers(0, 99))
def test_the_order_of_the_tokens_does_not_matter(each: Tokens, seed: int) -> None:
    errors, uncertainty = each
    order = np.random.default_rng(seed).permutation(len(errors))
    assert risk_coverage(errors[order], uncertainty[order]) == risk_coverage(errors, uncertainty)


@settings(deadline=None)
@given(tokens(max_size=30, levels=5))
def test_only_the_ranks_of_the_uncertainty_matter(each: Tokens) -> None:
    errors, uncertainty = each
    assert risk_coverage(errors, np.exp(uncertainty) - 9) == risk_coverage(errors, uncertainty)


@settings(deadline=None)
@given(tokens(max_size=30, levels=5))
def test_areas_lie_between_the_best_and_the_worst_order(each: Tokens) -> None:
    errors, uncertainty = each
    curve = risk_coverage(errors, uncertainty)
    worst = risks_in_order(np.sort(errors)[::-1]).mean()
    assert curve.excess_aurc >= -1e-12
    assert curve.aurc <= worst + 1e-12
    assert curve.risks[-1] == pytest.approx(curve.aurc_random)


def test_one_uncertainty_for_all_is_no_better_than_chance() -> None:
    errors = np.random.default_rng(0).random(1000) < 0.3
    curve = risk_coverage(errors, np.zeros(1000))
    assert curve.risks == pytest.approx([errors.mean()] * 101)
    assert curve.aurc == pytest.approx(curve.aurc_random)


def test_uncertainty_that_knows_the_errors_has_no_excess() -> None:
    errors = np.random.default_rng(0).random(1000) < 0.3
    curve = risk_coverage(errors, errors + np.random.default_rng(1).random(1000))
    assert curve.excess_aurc == pytest.approx(0, abs=1e-12)
    r = curve.aurc_random
    # Geifman et al. 2019: the limit of many tokens.
    assert curve.aurc == pytest.approx(r + (1 - r) * np.log(1 - r), abs=1e-3)


def test_infinite_uncertainty_ranks_last() -> None:
    errors = np.array([True, False, True])
    assert risk_coverage(errors, np.array([np.inf, 0, np.inf])) == risk_coverage(
        errors, np.array([1, 0, 1])
    )


def test_tensors_and_arrays_give_the_same_and_json_holds_it() -> None:
    errors, uncertainty, groups = simulated(0, windows=20)
    tensors = torch.tensor(errors), torch.tensor(uncertainty), torch.tensor(groups)
    curve = risk_coverage(errors, uncertainty)
    assert risk_coverage(*tensors[:2]) == curve
    interval = aurc_interval(errors, uncertainty, groups, resamples=20)
    assert aurc_interval(*tensors, resamples=20) == interval
    content = [vars(curve), asdict(interval)]
    assert json.loads(json.dumps(content, allow_nan=False)) == content


# -- intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [0, 9])
def test_interval_is_that_of_resampled_windows_written_out(decimals: int) -> None:
    errors, uncertainty, groups = simulated(0, windows=12, length=5)
    uncertainty = uncertainty.round(decimals)
    keep = np.random.default_rng(1).permutation(len(errors))[:50]  # windows of unequal length
    errors, uncertainty, groups = errors[keep], uncertainty[keep], groups[keep]

    def naive(chosen: np.ndarray) -> float:
        rows = np.concatenate([np.flatnonzero(groups == w) for w in chosen])
        return risk_coverage(errors[rows], uncertainty[rows]).aurc

    expected = bootstrap(
        (np.arange(12),),
        naive,
        vectorized=False,
        n_resamples=200,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    interval = aurc_interval(errors, uncertainty, groups, resamples=200, seed=3)
    assert interval.estimate == pytest.approx(risk_coverage(errors, uncertainty).aurc)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = risk_coverage(*simulated(0, windows=50_000)[:2]).aurc
    covered = 0
    for seed in range(1, 101):
        interval = aurc_interval(*simulated(seed, windows=60), resamples=200)
        covered += interval.low <= truth <= interval.high
    assert 87 <= covered <= 100


def test_interval_is_wider_where_tokens_of_a_window_are_wrong_together() -> None:
    errors, uncertainty, groups = simulated(0, windows=200)
    together = aurc_interval(errors, uncertainty, groups)
    alone = aurc_interval(errors, uncertainty, np.arange(len(errors)))
    assert together.estimate == alone.estimate
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = simulated(0, windows=30)
    intervals = []
    for elements in (1, 2000, 10**6):
        monkeypatch.setattr("bayesgen.evaluation.selective.CHUNK_ELEMENTS", elements)
        intervals.append(aurc_interval(*sample, resamples=50))
    assert intervals[0] == intervals[1] == intervals[2]


def test_labels_of_the_windows_may_be_any_integers() -> None:
    errors, uncertainty, groups = simulated(0, windows=30)
    expected = aurc_interval(errors, uncertainty, groups, resamples=50)
    assert aurc_interval(errors, uncertainty, 7 * groups - 100, resamples=50) == expected


def test_difference_to_itself_is_exactly_nothing() -> None:
    errors, uncertainty, groups = simulated(0, windows=30)
    one = errors, uncertainty
    assert aurc_difference(one, one, groups, resamples=100) == Interval(0, 0, 0)


def test_difference_is_of_the_two_areas_and_changes_sign_with_their_order() -> None:
    errors, uncertainty, groups = simulated(0, windows=100)
    blurred = uncertainty + np.random.default_rng(1).normal(size=len(errors))
    better, worse = (errors, uncertainty), (errors, blurred)
    d = aurc_difference(better, worse, groups)
    assert d.estimate == pytest.approx(risk_coverage(*better).aurc - risk_coverage(*worse).aurc)
    assert d.low < d.estimate < d.high < 0
    reverse = aurc_difference(worse, better, groups)
    assert (reverse.low, reverse.high) == pytest.approx((-d.high, -d.low))


def test_pairing_makes_the_difference_sharper_than_its_parts() -> None:
    errors, uncertainty, groups = simulated(0, windows=100)
    blurred = uncertainty + 0.1 * np.random.default_rng(1).normal(size=len(errors))
    d = aurc_difference((errors, uncertainty), (errors, blurred), groups)
    alone = aurc_interval(errors, uncertainty, groups)
    assert d.high - d.low < 0.2 * (alone.high - alone.low)


def test_a_seed_gives_the_same_interval_and_another_seed_another() -> None:
    sample = simulated(0, windows=30)
    one = aurc_interval(*sample, seed=1)
    assert aurc_interval(*sample, seed=1) == one
    other = aurc_interval(*sample, seed=2)
    assert other.estimate == one.estimate
    assert (other.low, other.high) != (one.low, one.high)


# -- accuracy at a coverage ----------------------------------------------------------------------


def test_accuracy_of_five_rows_by_hand() -> None:
    errors = np.array([False, True, False, False, True])
    uncertainty = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    rows = np.arange(5)
    for coverage, expected in ((0.2, 1), (0.4, 1 / 2), (0.8, 3 / 4), (1, 3 / 5), (0.5, 1.5 / 2.5)):
        found = accuracy_interval(errors, uncertainty, rows, coverage, resamples=50)
        assert found.estimate == pytest.approx(expected)
        assert 0 <= found.low <= found.estimate <= found.high <= 1
    tied = accuracy_interval(errors, np.zeros(5), rows, 0.8, resamples=50)
    assert tied.estimate == pytest.approx(3 / 5)


@pytest.mark.parametrize("decimals", [0, 9])
def test_accuracy_is_that_of_resampled_rows_written_out(decimals: int) -> None:
    errors, uncertainty, _ = simulated(0, windows=40, length=1)
    other = (~errors).astype(float) + uncertainty.round(decimals)
    first, second = (errors, uncertainty.round(decimals)), (np.roll(errors, 3), other)

    def accuracy(sample: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> float:
        return 1 - risk_coverage(sample[0][rows], sample[1][rows], 6).risks[4]

    def written_out(statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
        found = bootstrap(
            (np.arange(40),), statistic, vectorized=False, n_resamples=200, method="percentile",
            rng=np.random.default_rng(3),
        ).confidence_interval  # fmt: skip
        return float(found.low), float(found.high)

    rows = np.arange(40)
    one = accuracy_interval(*first, rows, 0.8, resamples=200, seed=3)
    assert one.estimate == pytest.approx(accuracy(first, rows))
    assert (one.low, one.high) == pytest.approx(written_out(lambda r: accuracy(first, r)))
    gain = accuracy_difference(first, second, rows, 0.8, resamples=200, seed=3)
    assert gain.estimate == pytest.approx(accuracy(first, rows) - accuracy(second, rows))
    paired = written_out(lambda r: accuracy(first, r) - accuracy(second, r))
    assert (gain.low, gain.high) == pytest.approx(paired)


def test_accuracy_covers_the_truth_about_as_often_as_it_says() -> None:
    errors, uncertainty, _ = simulated(0, windows=100_000, length=1)
    truth = 1 - risk_coverage(errors, uncertainty, 6).risks[4]
    covered = 0
    for seed in range(1, 101):
        interval = accuracy_interval(
            *simulated(seed, windows=300, length=1)[:2], np.arange(300), 0.8, resamples=200
        )
        covered += interval.low <= truth <= interval.high
    assert 87 <= covered <= 100


# -- refusals ------------------------------------------------------------------------------------


def test_an_uncertainty_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="1 uncertainties are NaN"):
        risk_coverage(np.array([True, False]), np.array([0, np.nan]))


def test_one_window_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two or more"):
        aurc_interval(np.array([True, False]), np.array([1.0, 2.0]), np.zeros(2, dtype=int))
