"""A split with real-valued labels: the report against dense formulas and a known posterior."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from bayesgen.draws import Draws
from bayesgen.evaluation import SplitReport, evaluate_split, numbers, walk
from bayesgen.evaluation.cache import TokenCache
from bayesgen.evaluation.evaluate import PREDICTORS
from bayesgen.evaluation.metrics import Interval
from bayesgen.evaluation.walk import draw_order
from bayesgen.likelihoods import Gaussian
from bayesgen.models import FunctionalModel, ModelInfo
from bayesgen.predictive import Forward, Predictive
from bayesgen.predictive.forward import Trunk
from bayesgen.runs.files import finite
from tests.encoder import save_encoder
from tests.evaluation.reports import by_draws

STD = 0.5


@dataclass(frozen=True, eq=False)
class Points:
    """Rows of inputs [N, 3] and labels [N]."""

    x: Tensor
    y: Tensor
    source: str = "points"
    row_targets = 1
    num_classes = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def num_targets(self) -> int:
        return len(self)

    def batch(self, indices: ArrayLike) -> dict[str, Tensor]:
        rows = torch.as_tensor(np.asarray(indices))
        return {"x": self.x[rows], "labels": self.y[rows]}

    def take(self, indices: ArrayLike) -> Points:
        rows = torch.as_tensor(np.asarray(indices))
        return Points(self.x[rows], self.y[rows], self.source)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.x.numpy().tobytes() + self.y.numpy().tobytes()).hexdigest()

    def overlaps(self, other: Any) -> bool:
        return bool(self.source == other.source)


def points(count: int, seed: int, source: str = "points", noise: float = STD) -> Points:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator)
    truth = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.25
    return Points(x, truth + noise * torch.randn(count, generator=generator), source)


def linear(theta: Tensor | None = None, std: float = STD) -> FunctionalModel:
    module = torch.nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.1)
    model = FunctionalModel(
        module, lambda apply, batch: apply(batch["x"]),
        likelihood=Gaussian(std), info=ModelInfo(task="regression"),
    )  # fmt: skip
    if theta is not None:
        model.theta = theta
    return model


def means(draws: Tensor, x: Tensor) -> Tensor:
    """f_s(x) [S, n], written out."""
    return draws[:, :3].double() @ x.double().T + draws[:, 3:].double()


@pytest.fixture
def predictive() -> Predictive:
    model = linear()
    start = torch.tensor([1.0, -2.0, 0.5, 0.25])
    draws = start + 0.3 * torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    return Predictive(model, Draws.from_draws(draws, model.layout))


def draws_of(predictive: Predictive) -> Tensor:
    return torch.stack(list(predictive.posterior))


@pytest.mark.parametrize("batch_size", [64, 7])
def test_the_report_equals_the_dense_computation(predictive: Predictive, batch_size: int) -> None:
    rows = points(40, 0)
    report = evaluate_split(predictive, rows, points(30, 5, "other"), batch_size=batch_size)
    draws, y = draws_of(predictive), rows.y.double()
    f = means(draws, rows.x)
    each = Normal(f, STD).log_prob(y)
    bma = each.logsumexp(0) - math.log(7)
    start = means(predictive.model.theta[None], rows.x)
    middle = means(draws.double().mean(0)[None].float(), rows.x)
    nll = {
        "deterministic": -Normal(start[0], STD).log_prob(y),
        "posterior_mean": -Normal(middle[0], STD).log_prob(y),
        "mean_of_draws": -each.mean(0),
        "bma": -bma,
    }
    assert tuple(report.content["predictors"]) == PREDICTORS
    for name, rowwise in nll.items():
        assert report.content["predictors"][name]["nll"] == pytest.approx(
            float(rowwise.mean()), rel=1e-5
        )
        torch.testing.assert_close(report.window_nll[name], rowwise, rtol=1e-4, atol=1e-5)
    assert (
        report.content["predictors"]["bma"]["nll"]
        < report.content["predictors"]["mean_of_draws"]["nll"]
    )
    error = f.mean(0) - y
    assert report.content["predictors"]["bma"]["rmse"] == pytest.approx(
        float(error.square().mean().sqrt())
    )
    own = [float((d - y).square().mean().sqrt()) for d in f]
    assert report.content["predictors"]["mean_of_draws"]["rmse"] == pytest.approx(
        np.mean(own), rel=1e-5
    )
    ranks = [stats.spearmanr(d, y).statistic for d in f]
    assert report.content["predictors"]["mean_of_draws"]["spearman"] == pytest.approx(
        np.mean(ranks), abs=1e-3
    )
    epistemic = float(f.var(0, correction=0).mean())
    assert report.content["variance"]["aleatoric"] == pytest.approx(STD**2)
    assert report.content["variance"]["epistemic"] == pytest.approx(epistemic, rel=1e-5)
    assert report.content["variance"]["total"] == pytest.approx(STD**2 + epistemic, rel=1e-5)
    assert (
        report.content["num_tokens"],
        report.content["num_draws"],
        report.content["noise_std"],
    ) == (40, 7, STD)
    difference = report.content["bma_minus"]["deterministic"]
    assert difference["estimate"] == pytest.approx(
        report.content["predictors"]["bma"]["nll"]
        - report.content["predictors"]["deterministic"]["nll"]
    )
    assert difference["high"] < 0


def test_the_mixture_of_the_first_few_draws(predictive: Predictive) -> None:
    rows = points(40, 0)
    report = evaluate_split(predictive, rows, rows)
    assert list(by_draws(report)) == [1, 2, 3, 5, 7]
    f = means(draws_of(predictive), rows.x)
    first = f[list(draw_order(7)[:3])]
    each = Normal(first, STD).log_prob(rows.y.double())
    expected = -float((each.logsumexp(0) - math.log(3)).mean())
    assert by_draws(report)[3]["nll"] == pytest.approx(expected, rel=1e-5)
    assert by_draws(report)[7] == report.content["predictors"]["bma"]


def test_a_variance_is_fitted_on_held_in_rows(predictive: Predictive) -> None:
    """τ σ² is the mean squared residual: the Gaussian of highest likelihood there."""
    rows, held_in = points(40, 0), points(200, 5, "other", noise=1.5)
    report = evaluate_split(predictive, rows, held_in)
    residual = held_in.y.double() - means(predictive.model.theta[None], held_in.x)[0]
    variance = float(residual.square().mean())
    assert report.content["fitted_temperature"] == pytest.approx(variance / STD**2, rel=1e-5)
    start = means(predictive.model.theta[None], rows.x)[0]
    expected = -Normal(start, math.sqrt(variance)).log_prob(rows.y.double())
    torch.testing.assert_close(
        report.window_nll["temperature_scaled"], expected, rtol=1e-5, atol=1e-6
    )
    for other in (0.9, 1.1):
        wider = -Normal(0, math.sqrt(other * variance)).log_prob(residual).mean()
        assert wider > -Normal(0, math.sqrt(variance)).log_prob(residual).mean()


def test_rows_that_are_held_in_themselves_have_the_variance_of_their_other_half(
    predictive: Predictive,
) -> None:
    rows = points(41, 0)
    report = evaluate_split(predictive, rows, rows)
    start = means(predictive.model.theta[None], rows.x)[0]
    squared = (rows.y.double() - start).square()
    expected = torch.empty(41, dtype=torch.float64)
    for half in (0, 1):
        std = math.sqrt(float(squared[1 - half :: 2].mean()))
        expected[half::2] = -Normal(start, std).log_prob(rows.y.double())[half::2]
    found = report.window_nll["temperature_scaled"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    one = evaluate_split(predictive, rows, rows, max_windows=1)
    assert one.content["fitted_temperature"] == 1
    assert one.content["bma_minus"]["deterministic"]["no_interval"] is not None
    assert (
        one.content["predictors"]["bma"]["no_correlation"] == "a correlation needs two rows or more"
    )


def design(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], 1).double()


def test_exact_draws_of_a_conjugate_posterior_predict_as_its_closed_form() -> None:
    """Bayesian linear regression (Bishop 2006, eq. 3.49 - 3.59): prior N(0, 4 I), known noise.

    The truth of every scored row is drawn from the posterior, so that its predictive is calibrated.
    """
    train, x = points(6, 2, "train"), points(1000, 3).x
    phi, variance = design(train.x), STD**2
    covariance = torch.linalg.inv(torch.eye(4).double() / 4 + phi.T @ phi / variance)
    centre = covariance @ phi.T @ train.y.double() / variance
    torch.manual_seed(0)
    exact_posterior = MultivariateNormal(centre, covariance)
    truth = (design(x) * exact_posterior.sample((1000,))).sum(1)
    test = Points(x, (truth + STD * torch.randn(1000)).float(), "test")
    draws = exact_posterior.sample((400,)).float()
    model = linear(centre.float())
    predictive = Predictive(model, Draws.from_draws(draws, model.layout))
    report = evaluate_split(predictive, test, train)

    epistemic = ((design(x) @ covariance) * design(x)).sum(1)
    exact = Normal(design(x) @ centre, (variance + epistemic).sqrt())
    y = test.y.double()
    bma, alone = report.content["predictors"]["bma"], report.content["predictors"]["deterministic"]
    assert bma["nll"] == pytest.approx(-float(exact.log_prob(y).mean()), abs=0.015)
    assert bma["nll"] < alone["nll"] - 0.02
    assert bma["ece"] < 0.02 < alone["ece"]
    assert report.content["variance"]["epistemic"] == pytest.approx(
        float(epistemic.mean()), rel=0.2
    )
    pit = exact.cdf(y)
    for row in report.content["coverage"]["bma"]:
        closed = float(((pit - 0.5).abs() <= row["level"] / 2).double().mean())
        assert row["coverage"] == pytest.approx(closed, abs=0.02)
        assert row["coverage"] == pytest.approx(row["level"], abs=0.05)  # three standard errors
        width = 2 * stats.norm.ppf((1 + row["level"]) / 2) * float(exact.stddev.mean())
        assert row["width"] == pytest.approx(width, rel=0.03)
    # the network alone is too sure: its intervals hold fewer labels
    assert report.content["coverage"]["deterministic"][2]["coverage"] < 0.87
    # and the rows that the draws agree on have the smaller errors
    kept = report.content["selective"]["bma_epistemic"]
    assert kept["rmse"][0] < kept["rmse"][1] < kept["rmse_random"] == pytest.approx(kept["rmse"][2])


@pytest.mark.parametrize("room", [1, 2**28])
def test_what_draws_share_is_read_once_and_long_rows_first(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bayesgen.data.examples import Examples
    from bayesgen.data.labelled import labelled
    from bayesgen.models import huggingface

    model = huggingface.load(str(save_encoder(tmp_path)), "regression", "head")
    noise = torch.randn(4, model.layout.size, generator=torch.Generator().manual_seed(1))
    who = Predictive(model, Draws.from_draws(model.theta + noise, model.layout))
    tokenizer: Any = model.tokenizer
    texts = [" ".join(["the", "old", "fox"][: 1 + i % 3] * (1 + i % 5)) for i in range(20)]
    data = labelled([(text, float(i)) for i, text in enumerate(texts)], task="regression")
    rows = Examples(data, tokenizer.tokenizer, 32)
    split = walk.Split.of(who.forward, rows, 8)
    widths: list[int] = []
    words = who.forward._flat.module.get_submodule("bert.embeddings.word_embeddings")
    words.register_forward_hook(lambda _, given, __: widths.append(given[0].shape[1]))
    monkeypatch.setattr(walk, "TRUNK_BYTES", room)
    shared = numbers.read_numbers(who, split, rows, None)
    looking = 1 + 3 + 1  # a watched pass, plain ones, one that keeps
    assert len(widths) == 2 * (looking + 3)  # the network and the mean weights; all draws
    assert widths[looking : looking + 3] == sorted(widths[-3:], reverse=True) == widths[-3:]
    monkeypatch.setattr(Forward, "trunk", lambda *_: Trunk())
    plain = numbers.read_numbers(who, split, rows, None)
    for name, value in plain.items():
        assert torch.equal(shared[name], value)
    for i in (0, 7, 19):  # in the order of the rows
        who.forward.load(who.posterior[2])
        alone = who.forward.outputs(rows.batch([i]))
        assert float(shared["draws"][2, i]) == pytest.approx(float(alone), abs=1e-5)


def test_a_second_look_runs_no_network(
    predictive: Predictive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, held_in = points(40, 0), points(30, 5, "other")
    cache = TokenCache(tmp_path)
    first = evaluate_split(predictive, rows, held_in, cache=cache)
    (kept,) = tmp_path.glob("*.outputs.safetensors")

    def no_network(*_: Any) -> Tensor:
        raise AssertionError("the network was run")

    monkeypatch.setattr(predictive.forward, "outputs", no_network)
    second = evaluate_split(predictive, rows, held_in, cache=cache)
    assert second.content == first.content
    assert second.key == first.key
    with pytest.raises(AssertionError, match="was run"):
        evaluate_split(predictive, points(40, 9), held_in, cache=cache)
    cache.drop_unfinished()  # what is kept of outputs stays
    assert kept.exists()
    kept.write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="was run"):
        evaluate_split(predictive, rows, held_in, cache=cache)


def test_a_difference_of_rank_correlations_is_paired() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(300, generator=generator)
    good, bad = (y + s * torch.randn(300, generator=generator) for s in (0.2, 1.0))
    found = numbers.spearman_difference(good, bad, y)
    expected = stats.spearmanr(good, y).statistic - stats.spearmanr(bad, y).statistic
    assert found.estimate == pytest.approx(expected)
    assert 0 < found.low < found.estimate < found.high
    assert numbers.spearman_difference(good, good, y) == Interval(0.0, 0.0, 0.0)


def test_what_cannot_be_correlated_is_null_with_its_reason(predictive: Predictive) -> None:
    rows = Points(points(6, 0).x, torch.full((6,), 2.0))
    content = finite(evaluate_split(predictive, rows, rows).content)
    bma = content["predictors"]["bma"]
    assert bma["spearman"] is bma["pearson"] is None
    assert bma["no_correlation"] == "the outputs or labels do not vary"
    difference = content["bma_minus_spearman"]["deterministic"]
    assert difference["estimate"] is None
    assert difference["no_interval"] == numbers.CONSTANT
    assert content["bma_minus"]["deterministic"]["no_interval"] is None
    json.dumps(content, allow_nan=False)


def test_memory_is_that_of_one_number_a_draw_and_row(
    predictive: Predictive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are read in batches of the given size, and every draw is loaded once."""
    sizes, loads = [], []
    outputs, load = predictive.forward.outputs, predictive.forward.load
    monkeypatch.setattr(
        predictive.forward, "outputs", lambda b: sizes.append(len(b["labels"])) or outputs(b)
    )
    monkeypatch.setattr(predictive.forward, "load", lambda t: loads.append(1) or load(t))
    evaluate_split(predictive, points(40, 0), points(30, 5, "other"), batch_size=16)
    assert max(sizes) == 16
    assert sum(sizes) == (7 + 2) * 40 + 30
    assert len(loads) == 7 + 3
    sizes.clear()
    rows = points(40, 0)
    evaluate_split(predictive, rows, rows)
    assert sum(sizes) == (7 + 2) * 40  # what is scored is not read again to fit a variance


def test_labels_must_be_real_numbers(predictive: Predictive, tiny_gpt: FunctionalModel) -> None:
    rows = points(4, 0)
    rows.y[2] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        evaluate_split(predictive, rows, rows)
    classes = Predictive(tiny_gpt, Draws.from_draws(tiny_gpt.theta[None], tiny_gpt.layout))
    with pytest.raises(ValueError, match="no real numbers"):
        classes.distribution(rows.batch([0]))


def test_the_report_as_plain_data(predictive: Predictive) -> None:
    report = evaluate_split(predictive, points(40, 0), points(30, 5, "other"))
    assert isinstance(report, SplitReport)
    content = json.loads(json.dumps(report.content, allow_nan=False))
    assert set(content["predictors"]["bma"]) >= {"nll", "rmse", "spearman", "pearson", "ece"}
    assert set(content["variance"]) == {"total", "aleatoric", "epistemic"}
    assert content["selective"]["bma_epistemic"]["coverages"] == [0.5, 0.8, 1.0]
    assert set(content["coverage"]) == set(PREDICTORS) - {"mean_of_draws"}
    assert set(content["bma_minus_spearman"]) == set(PREDICTORS) - {"bma", "mean_of_draws"}
    assert [row["draws"] for row in content["by_num_draws"]] == [
        k for k in (*walk.STEPS, 7) if k <= 7
    ]
