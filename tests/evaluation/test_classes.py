"""Token scores against torchmetrics and dense formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_accuracy,
    multiclass_calibration_error,
)

from bayesgen.evaluation.classes import Tally, TokenScores, _Collected
from bayesgen.evaluation.metrics import averaged, exp


def tally_of(log_probs: torch.Tensor, labels: torch.Tensor, parts: int = 1) -> Tally:
    tally = Tally()
    for lp, y in zip(log_probs.tensor_split(parts), labels.tensor_split(parts), strict=True):
        tally.add(TokenScores.of(lp, y))
    return tally


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    log_probs = (3 * torch.randn(500, 7, generator=generator)).log_softmax(-1)
    return log_probs, torch.randint(7, (500,), generator=generator)


@pytest.mark.parametrize("parts", [1, 4])
def test_ece_and_accuracy_equal_torchmetrics(
    predictions: tuple[torch.Tensor, torch.Tensor], parts: int
) -> None:
    log_probs, labels = predictions
    scores = tally_of(log_probs, labels, parts)
    expected = multiclass_calibration_error(log_probs.exp(), labels, num_classes=7, n_bins=15)
    assert scores.ece == pytest.approx(float(expected), abs=1e-6)
    accuracy = multiclass_accuracy(log_probs.exp(), labels, num_classes=7, average="micro")
    assert scores.accuracy == pytest.approx(float(accuracy), abs=1e-6)


def test_ece_of_certain_predictions_equals_torchmetrics() -> None:
    log_probs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]).log()
    labels = torch.tensor([0, 1, 0])
    expected = binary_calibration_error(
        torch.tensor([1.0, 1.0, 0.5]), torch.tensor([1, 0, 1]), n_bins=15
    )
    assert tally_of(log_probs, labels).ece == pytest.approx(float(expected), abs=1e-6)


def test_nll_brier_and_entropy_are_the_dense_formulas(
    predictions: tuple[torch.Tensor, torch.Tensor],
) -> None:
    log_probs, labels = predictions
    tally = tally_of(log_probs, labels)
    probs, one_hot = log_probs.exp().double(), torch.nn.functional.one_hot(labels, 7)
    scores = tally
    assert scores.nll == pytest.approx(
        float(-log_probs[torch.arange(500), labels].mean()), abs=1e-6
    )
    assert scores.brier / scores.tokens == pytest.approx(
        float((probs - one_hot).square().sum(1).mean()), abs=1e-6
    )
    entropy = -(probs * log_probs).sum(1).mean()
    assert tally.mean_entropy == pytest.approx(float(entropy), abs=1e-6)


def test_ignored_labels_are_left_out(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    log_probs, labels = predictions
    padded = labels.clone()
    padded[100:] = -100
    collected = _Collected()
    collected.add(log_probs[:100], padded)
    found, expected = collected.tally, tally_of(log_probs[:100], labels[:100])
    assert found.tokens == 100
    assert (found.nll, found.ece, found.brier) == (expected.nll, expected.ece, expected.brier)
    nll = torch.cat(collected.window_nll)
    assert len(nll) == 500
    assert (nll[100:] == 0).all()


def test_mean_of_scores_reports_exp_of_the_mean_nll() -> None:
    each = [
        {"nll": 1.0, "perplexity": math.e, "accuracy": 0.2},
        {"nll": 3.0, "perplexity": math.exp(3), "accuracy": 0.4},
    ]
    mean = averaged(each, lambda values: sum(values) / 2)
    assert mean["nll"] == 2.0
    assert mean["perplexity"] == pytest.approx(math.exp(2.0))
    assert mean["accuracy"] == pytest.approx(0.3)


def test_perplexity_overflows_to_infinity() -> None:
    assert exp(1e4) == math.inf
