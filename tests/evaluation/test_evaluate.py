"""A split's report against the dense computation: all draws, all tokens, in one tensor."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bayesgen.data.windows import Windows
from bayesgen.draws import Draws
from bayesgen.evaluation import (
    SplitReport,
    classes,
    evaluate_split,
    run_passes,
    score_checkpoint,
)
from bayesgen.evaluation.cache import TokenCache
from bayesgen.evaluation.classes import fit_temperature
from bayesgen.evaluation.walk import draw_order
from bayesgen.likelihoods import Categorical
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward, Predictive
from tests.evaluation.reports import by_draws

TOKENS = np.random.default_rng(0).integers(0, 11, 101).astype(np.uint16)


@pytest.fixture
def predictive(tiny_gpt: FunctionalModel) -> Predictive:
    generator = torch.Generator().manual_seed(2)
    noise = 0.3 * torch.randn(4, tiny_gpt.layout.size, generator=generator)
    return Predictive(tiny_gpt, Draws.from_draws(tiny_gpt.theta + noise, tiny_gpt.layout))


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
    monkeypatch.setattr(classes, "MAX_ELEMENTS", max_elements)  # several blocks of windows
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
    assert report.content["num_tokens"] == 100
    assert report.content["num_draws"] == 4
    for name, log_probs in expected.items():
        nll = -log_probs[torch.arange(100), targets].mean()
        assert report.content["predictors"][name]["nll"] == pytest.approx(float(nll), abs=1e-5)
        accuracy = (log_probs.argmax(-1) == targets).double().mean()
        assert report.content["predictors"][name]["accuracy"] == pytest.approx(float(accuracy))
    own = -each[:, torch.arange(100), targets].mean(1)
    assert report.content["predictors"]["mean_of_draws"]["nll"] == pytest.approx(
        float(own.mean()), abs=1e-5
    )
    assert (
        report.content["predictors"]["bma"]["nll"]
        < report.content["predictors"]["mean_of_draws"]["nll"]
    )
    total = -(mixture.exp() * mixture).sum(-1).mean()
    aleatoric = -(each.exp() * each).sum(-1).mean()
    assert report.content["entropy"]["total"] == pytest.approx(float(total), abs=1e-5)
    assert report.content["entropy"]["aleatoric"] == pytest.approx(float(aleatoric), abs=1e-5)
    assert report.content["entropy"]["epistemic"] == pytest.approx(
        float(total - aleatoric), abs=1e-5
    )
    assert report.content["entropy"]["epistemic"] > 0
    for name in report.content["predictors"]:
        summed = report.window_nll[name].sum() / report.window_tokens.sum()
        assert float(summed) == pytest.approx(report.content["predictors"][name]["nll"], abs=1e-9)
    difference = report.content["bma_minus"]["deterministic"]
    assert difference["estimate"] == pytest.approx(
        report.content["predictors"]["bma"]["nll"]
        - report.content["predictors"]["deterministic"]["nll"]
    )


def test_the_training_text_is_scored_with_the_temperature_of_its_other_half(
    predictive: Predictive,
) -> None:
    windows = Windows.tiled(TOKENS, 8)
    report = evaluate_split(predictive, windows, windows)
    forward = Forward(predictive.model)
    forward.load(predictive.model.theta)
    halves = [replace(windows, starts=windows.starts[first::2]) for first in (0, 1)]
    taus = [fit_temperature(forward, half, 64) for half in halves]
    assert taus[0] != pytest.approx(taus[1], rel=1e-3)
    for half, tau in zip(halves, reversed(taus), strict=True):
        batch = windows.batch(np.flatnonzero(np.isin(windows.starts, half.starts)))
        log_probs = (forward.log_probs(batch) / tau).log_softmax(-1)
        nll = -Categorical().per_sequence(log_probs, batch["labels"]).double()
        mine = torch.from_numpy(np.isin(windows.starts, half.starts))
        found = report.window_nll["temperature_scaled"][mine]
        torch.testing.assert_close(found, nll, rtol=1e-5, atol=1e-5)
    shares = [len(half) / len(windows) for half in halves]
    mean = shares[0] * taus[1] + shares[1] * taus[0]
    assert report.content["fitted_temperature"] == pytest.approx(mean, rel=1e-5)


def test_temperature_scaled_wins_on_text_like_the_one_it_was_fitted_on(
    predictive: Predictive,
) -> None:
    scores = evaluate_split(
        predictive, Windows.tiled(TOKENS, 8), Windows.tiled(TOKENS.copy(), 8)
    ).content["predictors"]
    assert scores["temperature_scaled"]["nll"] < scores["deterministic"]["nll"]


@pytest.mark.parametrize("max_elements", [2**26, 9000])
def test_temperature_is_recovered(
    max_elements: int, tiny_gpt: FunctionalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels drawn from softmax(logits / τ) give back τ, also from every fourth token."""
    monkeypatch.setattr(classes, "KEPT_ELEMENTS", max_elements)
    torch.manual_seed(3)
    forward = Forward(tiny_gpt)
    forward.load(tiny_gpt.theta)
    windows = Windows.tiled(np.random.default_rng(1).integers(0, 11, 8 * 400 + 1), 8)
    batch = windows.batch(torch.arange(400))
    labels = torch.distributions.Categorical(logits=forward.log_probs(batch) / 0.6).sample()

    class Relabelled:
        row_targets = 8

        def __len__(self) -> int:
            return 400

        def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"input_ids": batch["input_ids"][indices], "labels": labels[indices]}

    assert fit_temperature(forward, Relabelled(), 64) == pytest.approx(0.6, rel=0.1)  # type: ignore[arg-type]


def test_max_windows_are_spread_over_the_split(predictive: Predictive) -> None:
    windows = Windows.tiled(TOKENS, 8)
    report = evaluate_split(predictive, windows, windows, max_windows=2)
    assert report.content["num_tokens"] == 8 + 4  # the first window and the last, shorter one


def test_a_checkpoint_scores_as_the_deterministic_predictor(predictive: Predictive) -> None:
    windows = Windows.tiled(TOKENS, 8)
    report = evaluate_split(predictive, windows, windows)
    tally = score_checkpoint(predictive.model, windows).tally
    found = {"nll": tally.nll, "accuracy": tally.accuracy, "ece": tally.ece}
    assert found.items() <= report.content["predictors"]["deterministic"].items()


# -- the mixture on its way to all draws ---------------------------------------------------------


def several(model: FunctionalModel, draws: int) -> Predictive:
    generator = torch.Generator().manual_seed(5)
    noise = 0.3 * torch.randn(draws, model.layout.size, generator=generator)
    return Predictive(model, Draws.from_draws(model.theta + noise, model.layout))


@pytest.mark.parametrize("max_elements", [2**26, 200])
def test_by_draws_is_the_mixture_of_the_first_so_many_in_the_fixed_order(
    max_elements: int, tiny_gpt: FunctionalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "MAX_ELEMENTS", max_elements)
    predictive = several(tiny_gpt, 7)
    windows = Windows.tiled(TOKENS, 8)
    report = evaluate_split(predictive, windows, windows)
    assert list(by_draws(report)) == [1, 2, 3, 5, 7]
    order = draw_order(7)
    assert order != sorted(order)
    each = torch.stack([dense(tiny_gpt, theta)[0].exp() for theta in predictive.posterior])
    targets = dense(tiny_gpt, tiny_gpt.theta)[1]
    one_hot = torch.nn.functional.one_hot(targets, 11)
    for count, scores in by_draws(report).items():
        probs = each[list(order[:count])].mean(0)
        nll = -probs[torch.arange(100), targets].log().mean()
        assert scores["nll"] == pytest.approx(float(nll), abs=1e-5)
        assert scores["perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
        accuracy = (probs.argmax(-1) == targets).double().mean()
        assert scores["accuracy"] == pytest.approx(float(accuracy))
        brier = (probs - one_hot).square().sum(-1).mean()
        assert scores["brier"] == pytest.approx(float(brier), abs=1e-5)
    assert by_draws(report)[7] == report.content["predictors"]["bma"]
    rows = report.content["by_num_draws"]
    assert [row["draws"] for row in rows] == [1, 2, 3, 5, 7]
    assert rows[2]["nll"] == by_draws(report)[3]["nll"]


@pytest.mark.parametrize("count", [1, 2, 10, 97])
def test_the_order_holds_every_draw_once_and_is_always_the_same(count: int) -> None:
    assert sorted(draw_order(count)) == list(range(count))
    assert draw_order(count) == draw_order(count)


# -- uncertainty and calibration -----------------------------------------------------------------


def test_identical_draws_have_no_epistemic_uncertainty(tiny_gpt: FunctionalModel) -> None:
    posterior = Draws.from_draws(tiny_gpt.theta.expand(6, -1), tiny_gpt.layout)
    windows = Windows.tiled(TOKENS, 8)
    found, _ = run_passes(Predictive(tiny_gpt, posterior), windows, windows)
    epistemic = found.said["bma"].tokens.entropy.double() - found.aleatoric
    assert float(epistemic.abs().max()) < 1e-6
    report = evaluate_split(Predictive(tiny_gpt, posterior), windows, windows)
    assert abs(report.content["entropy"]["epistemic"]) < 1e-6
    assert report.content["predictors"]["bma"]["nll"] == pytest.approx(
        report.content["predictors"]["deterministic"]["nll"]
    )


def test_total_is_aleatoric_and_epistemic_at_every_token(predictive: Predictive) -> None:
    windows = Windows.tiled(TOKENS, 8)
    found, _ = run_passes(predictive, windows, windows)
    model = predictive.model
    each = torch.stack([dense(model, theta)[0] for theta in predictive.posterior])
    mixture = each.logsumexp(0) - math.log(4)
    # the mutual information as the mean divergence of the draws from their mixture
    divergence = (each.exp() * (each - mixture)).sum(-1).mean(0)
    aleatoric, total = found.aleatoric, found.said["bma"].tokens.entropy.double()
    torch.testing.assert_close(aleatoric, -(each.exp() * each).sum(-1).mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(aleatoric + divergence, total, rtol=0, atol=1e-5)
    assert float((total - aleatoric).min()) > 0
    entropy = evaluate_split(predictive, windows, windows).content["entropy"]
    parts = entropy["aleatoric"] + entropy["epistemic"]
    assert entropy["total"] == pytest.approx(parts, abs=1e-12)
    assert entropy["total"] == pytest.approx(float(total.mean()), abs=1e-6)


def test_the_reliability_diagram_adds_up_to_the_ece(predictive: Predictive) -> None:
    windows = Windows.tiled(TOKENS, 8)
    report = evaluate_split(predictive, windows, windows)
    assert set(report.content["reliability"]) == set(report.content["predictors"]) - {
        "mean_of_draws"
    }
    for name, bins in report.content["reliability"].items():
        scores = report.content["predictors"][name]
        rows = list(zip(*(bins[k] for k in ("tokens", "accuracy", "confidence")), strict=True))
        assert len(rows) == 15
        filled = [(n, a, c) for n, a, c in rows if n]
        assert len(filled) > 2 or name == "temperature_scaled"
        assert all(a is None and c is None for n, a, c in rows if not n)
        assert sum(n for n, _, _ in filled) == 100
        assert sum(n * abs(a - c) for n, a, c in filled) / 100 == pytest.approx(scores["ece"])
        assert sum(n * a for n, a, _ in filled) / 100 == pytest.approx(scores["accuracy"])
    log_probs, targets = dense(predictive.model, predictive.model.theta)
    confidence, guess = (t.numpy() for t in log_probs.exp().max(-1))
    bins = report.content["reliability"]["deterministic"]
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        assert bins["tokens"][i] == inside.sum()
        assert bins["upper"][i] == pytest.approx((i + 1) / 15)
        if inside.any():
            assert bins["confidence"][i] == pytest.approx(confidence[inside].mean(), abs=1e-5)
            right = (guess == targets.numpy())[inside].mean()
            assert bins["accuracy"][i] == pytest.approx(right)


def test_selective_ranks_each_predictors_own_errors(predictive: Predictive) -> None:
    windows = Windows.tiled(TOKENS, 8)
    report = evaluate_split(predictive, windows, windows)
    model = predictive.model
    each = torch.stack([dense(model, theta)[0] for theta in predictive.posterior])
    mixture = each.logsumexp(0) - math.log(4)
    own, targets = dense(model, model.theta)
    total = -(mixture.exp() * mixture).sum(-1)
    ranked = {
        "deterministic_entropy": (own, -(own.exp() * own).sum(-1)),
        "deterministic_max_probability": (own, -own.max(-1).values),
        "bma_total": (mixture, total),
        "bma_epistemic": (mixture, total + (each.exp() * each).sum(-1).mean(0)),
        "bma_max_probability": (mixture, -mixture.max(-1).values),
    }
    assert list(report.content["selective"]) == list(ranked)
    areas = {}
    for name, (log_probs, unsure) in ranked.items():
        wrong = (log_probs.argmax(-1) != targets)[unsure.argsort()].double()
        areas[name] = float((wrong.cumsum(0) / torch.arange(1, 101)).mean())
        found = report.content["selective"][name]
        assert found["curve"]["aurc"] == pytest.approx(
            areas[name], abs=1.5e-3
        )  # a near-tie turns round
        assert found["curve"]["risks"][-1] == pytest.approx(
            1 - report.content["predictors"][found["predictor"]]["accuracy"]
        )
        assert found["aurc"] is not None
        assert found["aurc"]["estimate"] == found["curve"]["aurc"]
        assert found["minus_deterministic"] is not None
        gain = (
            found["curve"]["aurc"]
            - report.content["selective"]["deterministic_entropy"]["curve"]["aurc"]
        )
        assert found["minus_deterministic"]["estimate"] == pytest.approx(gain)
    assert np.diff(sorted(areas.values())).min() > 1.5e-3  # none is taken for another


# -- a second look -------------------------------------------------------------------------------


def equal(one: SplitReport, other: SplitReport) -> bool:
    nll = all(torch.equal(v, other.window_nll[k]) for k, v in one.window_nll.items())
    tokens = torch.equal(one.window_tokens, other.window_tokens)
    return nll and tokens and one.content == other.content


@pytest.mark.parametrize("max_windows", [None, 5])
def test_a_second_look_runs_no_network_and_says_the_same(
    max_windows: int | None,
    predictive: Predictive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windows = Windows.tiled(TOKENS, 8)
    options: dict[str, Any] = {"max_windows": max_windows}
    without = evaluate_split(predictive, windows, windows, **options)
    first = evaluate_split(predictive, windows, windows, cache=TokenCache(tmp_path), **options)

    def refuse(*_: Any) -> None:
        raise AssertionError("a network was run")

    monkeypatch.setattr(Forward, "outputs", refuse)
    second = evaluate_split(
        predictive, windows, windows, cache=TokenCache(tmp_path), batch_size=7, **options
    )
    assert equal(first, without)
    assert equal(second, first)
    with pytest.raises(AssertionError, match="a network was run"):
        evaluate_split(
            predictive,
            Windows.tiled(TOKENS[:-1], 8),
            windows,
            cache=TokenCache(tmp_path),
            **options,
        )


def test_each_look_keeps_files_of_its_own(predictive: Predictive, tmp_path: Path) -> None:
    windows, other = Windows.tiled(TOKENS, 8), Windows.tiled(TOKENS[:60], 8)
    cache = TokenCache(tmp_path)
    fewer = Predictive(predictive.model, predictive.posterior.thin(2))
    coarse = Predictive(predictive.model, predictive.posterior, "bf16")
    looks: list[tuple[Predictive, Windows, Windows]] = [
        (predictive, windows, windows),
        (predictive, other, windows),
        (predictive, windows, other),
        (fewer, windows, windows),
        (coarse, windows, windows),
    ]
    for count, (who, scored, held_in) in enumerate(looks, start=1):
        report = evaluate_split(who, scored, held_in, cache=cache)
        assert equal(report, evaluate_split(who, scored, held_in))
        assert len(list(tmp_path.glob("*.npy"))) == count
        assert len(list(tmp_path.iterdir())) == 3 * count
    for who, scored, held_in in looks:  # and each finds its own again
        again = evaluate_split(who, scored, held_in, cache=cache)
        assert equal(again, evaluate_split(who, scored, held_in))
    assert len(list(tmp_path.iterdir())) == 15


def test_kept_log_likelihoods_give_the_reported_nll(predictive: Predictive, tmp_path: Path) -> None:
    windows = Windows.tiled(TOKENS, 8)
    report = evaluate_split(predictive, windows, windows, cache=TokenCache(tmp_path))
    (path,) = tmp_path.glob("*.npy")
    each = np.load(path).astype(np.float64)
    assert each.shape == (4, 100)
    for row, theta in zip(each, predictive.posterior, strict=True):
        log_probs, targets = dense(predictive.model, theta)
        expected = log_probs[torch.arange(100), targets].numpy()
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-5)
    nll = -np.log(np.exp(each).mean(0)).mean()
    assert report.content["predictors"]["bma"]["nll"] == pytest.approx(nll, abs=1e-6)
    for count, scores in by_draws(report).items():
        first = each[list(draw_order(4)[:count])]
        assert scores["nll"] == pytest.approx(-np.log(np.exp(first).mean(0)).mean(), abs=1e-6)


def test_bf16_changes_the_numbers_a_little(predictive: Predictive) -> None:
    windows = Windows.tiled(TOKENS, 8)
    coarse = Predictive(predictive.model, predictive.posterior, "bf16")
    one, other = (evaluate_split(who, windows, windows) for who in (predictive, coarse))
    gap = abs(one.content["predictors"]["bma"]["nll"] - other.content["predictors"]["bma"]["nll"])
    assert 0 < gap < 0.02


def test_a_single_window_has_no_intervals(predictive: Predictive) -> None:
    windows = Windows.tiled(TOKENS[:9], 8)
    content = evaluate_split(predictive, windows, windows).content
    assert all(ranked["aurc"] is None for ranked in content["selective"].values())
    assert math.isnan(content["bma_minus"]["deterministic"]["low"])
