"""A split's report against the dense computation: all draws, all tokens, in one tensor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bayesgen.data.windows import Windows
from bayesgen.evaluation import evaluate_split, passes, score_checkpoint
from bayesgen.evaluation.scaling import fit_temperature
from bayesgen.models import FunctionalModel
from bayesgen.posterior import Posterior
from bayesgen.predictive import Forward, Predictive

TOKENS = np.random.default_rng(0).integers(0, 11, 101).astype(np.uint16)


@pytest.fixture
def predictive(tiny_gpt: FunctionalModel) -> Predictive:
    generator = torch.Generator().manual_seed(2)
    noise = 0.3 * torch.randn(4, tiny_gpt.layout.size, generator=generator)
    return Predictive(tiny_gpt, Posterior.from_draws(tiny_gpt.theta + noise, tiny_gpt.layout))


def dense(model: FunctionalModel, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log p over the vocabulary at each of the 100 targets, in order, and the targets."""
    rows, targets = [], []
    for start in range(0, 100, 8):
        piece = torch.tensor(TOKENS[start : start + 9].astype(np.int64))
        logits = model(theta, {"input_ids": piece[:-1].unsqueeze(0)})[0]
        rows.append(logits.log_softmax(-1))
        targets.append(piece[1:])
    return torch.cat(rows).double(), torch.cat(targets)


@pytest.mark.parametrize("max_elements", [2**26, 200])
@pytest.mark.parametrize("batch_size", [64, 3])
def test_report_equals_the_dense_computation(
    predictive: Predictive, batch_size: int, max_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "MAX_ELEMENTS", max_elements)  # several blocks of windows
    windows = Windows.tiled(TOKENS, 8)
    report = evaluate_split(predictive, windows, windows, batch_size=batch_size)
    model = predictive.model
    each = torch.stack([dense(model, theta)[0] for theta in predictive.posterior])
    targets = dense(model, model.theta)[1]
    mixture = each.logsumexp(0) - math.log(4)
    expected = {
        "deterministic": dense(model, model.theta)[0],
        "posterior_mean": dense(model, predictive.posterior.mean())[0],
        "bma": mixture,
    }
    assert report.num_tokens == 100
    assert report.num_draws == 4
    for name, log_probs in expected.items():
        nll = -log_probs[torch.arange(100), targets].mean()
        assert report.predictors[name].nll == pytest.approx(float(nll), abs=1e-5)
        accuracy = (log_probs.argmax(-1) == targets).double().mean()
        assert report.predictors[name].accuracy == pytest.approx(float(accuracy))
    own = -each[:, torch.arange(100), targets].mean(1)
    assert report.predictors["mean_of_draws"].nll == pytest.approx(float(own.mean()), abs=1e-5)
    assert report.predictors["bma"].nll < report.predictors["mean_of_draws"].nll
    total = -(mixture.exp() * mixture).sum(-1).mean()
    aleatoric = -(each.exp() * each).sum(-1).mean()
    assert report.entropy.total == pytest.approx(float(total), abs=1e-5)
    assert report.entropy.aleatoric == pytest.approx(float(aleatoric), abs=1e-5)
    assert report.entropy.epistemic == pytest.approx(float(total - aleatoric), abs=1e-5)
    assert report.entropy.epistemic > 0
    for name in report.predictors:
        summed = report.window_nll[name].sum() / report.window_tokens.sum()
        assert float(summed) == pytest.approx(report.predictors[name].nll, abs=1e-9)
    difference = report.differences["deterministic"]
    assert difference.estimate == pytest.approx(
        report.predictors["bma"].nll - report.predictors["deterministic"].nll
    )


def test_temperature_scaled_is_never_worse_on_the_text_it_was_fitted_on(
    predictive: Predictive,
) -> None:
    windows = Windows.tiled(TOKENS, 8)
    scores = evaluate_split(predictive, windows, windows).predictors
    assert scores["temperature_scaled"].nll < scores["deterministic"].nll


def test_temperature_is_recovered(tiny_gpt: FunctionalModel) -> None:
    """Labels drawn from softmax(logits / τ) give back τ."""
    torch.manual_seed(3)
    forward = Forward(tiny_gpt)
    forward.load(tiny_gpt.theta)
    windows = Windows.tiled(np.random.default_rng(1).integers(0, 11, 8 * 400 + 1), 8)
    batch = windows.batch(torch.arange(400))
    labels = torch.distributions.Categorical(logits=forward.log_probs(batch) / 0.6).sample()

    class Relabelled:
        def __len__(self) -> int:
            return 400

        def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"input_ids": batch["input_ids"][indices], "labels": labels[indices]}

    assert fit_temperature(forward, Relabelled(), 64) == pytest.approx(0.6, rel=0.1)  # type: ignore[arg-type]


def test_max_windows_are_spread_over_the_split(predictive: Predictive) -> None:
    windows = Windows.tiled(TOKENS, 8)
    report = evaluate_split(predictive, windows, windows, max_windows=2)
    assert report.num_tokens == 8 + 4  # the first window and the last, shorter one


def test_a_checkpoint_scores_as_the_deterministic_predictor(predictive: Predictive) -> None:
    windows = Windows.tiled(TOKENS, 8)
    report = evaluate_split(predictive, windows, windows)
    assert score_checkpoint(predictive.model, windows).scores == report.predictors["deterministic"]
