"""The paired bootstrap: centred, as wide as theory says, and covering."""

from __future__ import annotations

import math

import pytest
import torch

from bayesgen.evaluation.metrics import paired_difference


def test_estimate_is_the_difference_per_token() -> None:
    tokens = torch.tensor([4, 4, 2])
    d = paired_difference(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 4.0]), tokens)
    assert d.estimate == pytest.approx(-0.2)


def test_interval_has_the_width_of_the_normal_theory() -> None:
    torch.manual_seed(0)
    shared = 50 * torch.randn(2000)
    first = shared + torch.randn(2000)
    d = paired_difference(first, shared, torch.full((2000,), 64))
    sd = float((first - shared).std()) / 64 / math.sqrt(2000)
    assert d.high - d.low == pytest.approx(2 * 1.96 * sd, rel=0.1)
    assert d.low < d.estimate < d.high


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    torch.manual_seed(1)
    tokens = torch.full((200,), 10)
    covered = 0
    for seed in range(100):
        first = 0.3 * 10 + torch.randn(200)
        d = paired_difference(first, torch.zeros(200), tokens, seed)
        covered += d.low <= 0.3 <= d.high
    assert 88 <= covered <= 100


def test_identical_predictors_differ_by_nothing() -> None:
    nll = torch.rand(50)
    d = paired_difference(nll, nll, torch.full((50,), 8))
    assert (d.estimate, d.low, d.high) == (0, 0, 0)


def test_one_window_has_no_interval() -> None:
    d = paired_difference(torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([2]))
    assert d.estimate == -0.5
    assert math.isnan(d.low)
