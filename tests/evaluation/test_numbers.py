"""Scores of real-valued labels against scipy and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bayesgen.evaluation import Undefined
from bayesgen.evaluation.metrics import averaged
from bayesgen.evaluation.numbers import (
    LEVELS,
    Predicted,
    correlations,
    coverage_table,
    covered,
    spearman,
    sureness,
)
from bayesgen.predictive.mixture import GaussianMixture


@pytest.fixture
def said() -> tuple[GaussianMixture, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn(50, generator=generator)
    means = labels + 0.5 * torch.randn(6, 50, generator=generator)
    return GaussianMixture.of(means, 0.7), labels


@pytest.mark.parametrize("elements", [2**22, 60])
def test_headline_numbers(
    said: tuple[GaussianMixture, Tensor], elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bayesgen.predictive.mixture.MAX_ELEMENTS", elements)  # one block, and five
    mixture, labels = said
    predicted = Predicted.of(mixture, labels)
    mean = mixture.means.double().mean(0)
    assert predicted.nll == pytest.approx(-float(mixture.log_prob(labels).mean()))
    assert predicted.rmse == pytest.approx(math.sqrt(float((mean - labels).square().mean())))
    assert predicted.correlations["spearman"] == pytest.approx(
        stats.spearmanr(mean, labels).statistic
    )
    assert predicted.correlations["pearson"] == pytest.approx(
        stats.pearsonr(mean, labels.double()).statistic
    )
    assert predicted.ece == pytest.approx(
        np.mean([abs(covered(predicted.pit, level) - level) for level in LEVELS])
    )
    torch.testing.assert_close(predicted.epistemic, mixture.means.double().var(0, correction=0))
    table = coverage_table(predicted)
    assert [row["level"] for row in table] == [0.5, 0.8, 0.9, 0.95]
    for row in table:
        low, high = mixture.interval(row["level"])
        inside = (labels >= low) & (labels <= high)
        assert row["coverage"] == pytest.approx(float(inside.double().mean()))
        assert row["width"] == pytest.approx(float((high - low).mean()))


def calibration_error(pit: Tensor) -> float:
    nothing: Any = None
    return Predicted(nothing, nothing, nothing, pit, nothing, nothing, nothing).ece


def test_calibration_error_of_known_distributions() -> None:
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert calibration_error(uniform) < 1e-4
    # every label in the middle: coverage is 1 at each level
    assert calibration_error(torch.full((10,), 0.5)) == pytest.approx(1 - np.mean(LEVELS))
    # every label far out: coverage is 0
    assert calibration_error(torch.ones(10)) == pytest.approx(np.mean(LEVELS))


def test_a_predictive_that_is_too_narrow_has_the_error_of_its_width() -> None:
    """Labels from N(0, 2²), predicted as N(0, 1): coverage of level c is 2Φ(z_c / 2) − 1."""
    labels = torch.randn(200_000, generator=torch.Generator().manual_seed(4)) * 2
    predicted = Predicted.of(GaussianMixture.of(torch.zeros(1, len(labels)), 1.0), labels)
    reached = [2 * stats.norm.cdf(stats.norm.ppf((1 + c) / 2) / 2) - 1 for c in LEVELS]
    expected = np.mean([abs(r - c) for r, c in zip(reached, LEVELS, strict=True)])
    assert calibration_error(predicted.pit) == pytest.approx(expected, abs=3e-3)


def test_ranks_are_correlated_along_the_last_axis() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (3, 40)), rng.normal(size=(3, 40))  # ties, too
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman(x, y), expected)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "do not vary"),
        ([1.0, 2.0, 3.0], [0.1, 0.1, 0.1], "do not vary"),
        ([1.0], [2.0], "two rows or more"),
        ([1.0, math.inf, 3.0], [1.0, 2.0, 3.0], "not finite"),
    ],
)
def test_a_correlation_that_is_not_there_has_a_reason(
    first: list[float], second: list[float], why: str
) -> None:
    with pytest.raises(Undefined, match=why):
        correlations(torch.tensor(first), torch.tensor(second))


def test_the_average_of_draws_lacks_what_one_of_them_lacks() -> None:
    whole = {"nll": 1.0, "rmse": 0.5, "spearman": 0.25, "pearson": 0.75, "no_correlation": None}
    why = "the labels do not vary"
    part = {"nll": 2.0, "rmse": 1.5, "spearman": None, "pearson": None, "no_correlation": why}
    assert averaged([whole, part], np.mean) == {
        "nll": 1.5, "rmse": 1.0, "spearman": None, "pearson": None, "no_correlation": why
    }  # fmt: skip
    assert averaged([whole, whole], np.mean) == whole


def test_errors_among_the_rows_that_the_mixture_is_surest_of() -> None:
    """Ten rows whose draws lie ±sd around 0, with errors 1 to 10; the larger the sd, the larger."""
    errors = torch.arange(1.0, 11.0)
    sd = errors / 4
    predicted = Predicted.of(GaussianMixture.of(torch.stack([-sd, sd]), 1.0), errors)
    found = sureness(predicted)
    assert found["coverages"] == [0.5, 0.8, 1.0]
    expected = [math.sqrt(sum(i * i for i in range(1, k + 1)) / k) for k in (5, 8, 10)]
    assert found["rmse"] == pytest.approx(expected)
    assert found["rmse_random"] == pytest.approx(expected[-1])
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(1)


def test_rows_that_are_equally_sure_stand_in_random_order() -> None:
    errors = torch.tensor([1.0, 2.0, 3.0, 4.0])
    sd = torch.tensor([1.0, 2.0, 2.0, 2.0])
    predicted = Predicted.of(GaussianMixture.of(torch.stack([-sd, sd]), 1.0), errors)
    found = sureness(predicted)
    # half: the first, and one of the other three
    assert found["rmse"][0] == pytest.approx(math.sqrt((1 + (4 + 9 + 16) / 3) / 2))
    one = Predicted.of(GaussianMixture.of(torch.zeros(1, 4), 1.0), errors)
    alike = sureness(one)
    assert alike["rmse"] == pytest.approx([alike["rmse_random"]] * 3)
    assert alike["spearman"] is None
    assert alike["no_correlation"] == "the errors or epistemic sds do not vary"
