"""Detection against brute force, torchmetrics, Mann-Whitney's U and DeLong's variance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_roc

from bayesgen.data.windows import Windows
from bayesgen.draws import Draws
from bayesgen.evaluation import ood, run_passes
from bayesgen.evaluation.metrics import Interval, Passes
from bayesgen.evaluation.ood import window_scores
from bayesgen.evaluation.walk import Split
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Predictive
from tests.evaluation.test_texts import numbers

FEW = 5
"""Resamples where only the estimate is looked at."""

documents = st.lists(st.integers(0, 16), min_size=2, max_size=45).map(lambda x: np.array(x) / 16)


def normal(seed: int, n: int, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, size=n)


def placements(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each document's own share of the AUROC, inside and outside (DeLong et al. 1988)."""
    above = (outside[:, None] > inside) + 0.5 * (outside[:, None] == inside)
    return above.mean(0), above.mean(1)


def detection(inside: Any, outside: Any, **options: int) -> Any:
    """Of one score, its intervals as such."""
    found = ood.detection({"score": inside}, {"score": outside}, **options)["scores"]["score"]
    return SimpleNamespace(
        **{k: Interval(**v) if isinstance(v, dict) else v for k, v in found.items()}
    )


def auroc_difference(first: Any, second: Any, **options: int) -> Interval:
    near, far = ({"a": first[i], "b": second[i]} for i in (0, 1))
    return Interval(**ood.detection(near, far, **options)["epistemic_minus"]["b"])


# -- estimates -----------------------------------------------------------------------------------


def test_six_documents_by_hand() -> None:
    found = detection(np.array([1, 2, 3, 4]), np.array([3, 5]), resamples=FEW)
    assert (found.num_inside, found.num_outside) == (4, 2)
    assert found.auroc.estimate == pytest.approx((2.5 + 4) / 8)
    assert found.fpr95.estimate == 0.5  # both outside are found from 3 on, as are 3 and 4 inside
    assert found.ratio is not None
    assert found.ratio.estimate == pytest.approx(4 / 2.5)
    assert found.ratio_undefined is None


def test_one_in_twenty_may_be_missed_and_no_more() -> None:
    inside = np.array([0, 1])
    assert detection(inside, np.append([0], [2] * 19), resamples=FEW).fpr95.estimate == 0
    assert detection(inside, np.append([0], [2] * 18), resamples=FEW).fpr95.estimate == 1
    assert detection(inside, np.append([1, 0], [2] * 37), resamples=FEW).fpr95.estimate == 0.5


@settings(max_examples=60, deadline=None)
@given(documents, documents)
def test_auroc_equals_torchmetrics_and_mann_whitney(
    inside: np.ndarray, outside: np.ndarray
) -> None:
    auroc = detection(inside, outside, resamples=FEW).auroc.estimate
    target = torch.tensor([0] * len(inside) + [1] * len(outside))
    expected = binary_auroc(torch.tensor(np.append(inside, outside)), target)
    assert auroc == pytest.approx(float(expected), abs=1e-6)
    u = mannwhitneyu(outside, inside, method="asymptotic").statistic
    assert auroc == pytest.approx(u / (len(inside) * len(outside)))


@settings(max_examples=60, deadline=None)
@given(documents, documents)
def test_fpr95_is_the_smallest_over_all_thresholds_and_that_of_torchmetrics(
    inside: np.ndarray, outside: np.ndarray
) -> None:
    fpr95 = detection(inside, outside, resamples=FEW).fpr95.estimate
    rates = [((inside >= t).mean(), (outside >= t).sum()) for t in np.append(inside, outside)]
    assert fpr95 == min(fpr for fpr, found in rates if 100 * found >= 95 * len(outside))
    target = torch.tensor([0] * len(inside) + [1] * len(outside))
    fpr, tpr, _ = binary_roc(torch.tensor(np.append(inside, outside)), target)
    assert fpr95 == pytest.approx(float(fpr[tpr >= 0.95 - 1e-6].min()), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(documents, documents)
def test_only_the_ranks_matter_and_sides_are_mirrored(
    inside: np.ndarray, outside: np.ndarray
) -> None:
    found = detection(inside, outside, resamples=FEW)
    stretched = detection(np.exp(9 * inside), np.exp(9 * outside), resamples=FEW)
    assert (stretched.auroc, stretched.fpr95) == (found.auroc, found.fpr95)
    mirrored = detection(outside, inside, resamples=FEW).auroc.estimate
    assert mirrored == pytest.approx(1 - found.auroc.estimate)


def test_high_scores_far_apart_are_told_apart() -> None:
    found = detection(normal(0, 50) + 100, normal(1, 50) + 200, resamples=FEW)
    assert found.auroc.estimate == 1


def test_separable_scores_are_detected_without_an_error() -> None:
    found = detection(normal(0, 40), normal(1, 60) + 100)
    assert found.auroc == Interval(1, 1, 1)
    assert found.fpr95 == Interval(0, 0, 0)


def test_the_same_distribution_is_detected_by_chance() -> None:
    found = detection(normal(0, 500) + 3, normal(1, 500) + 3)
    assert found.auroc.low < 0.5 < found.auroc.high
    assert found.fpr95.low < 0.95 < found.fpr95.high
    assert found.ratio is not None
    assert found.ratio.low < 1 < found.ratio.high


def test_one_score_for_all_detects_nothing() -> None:
    found = detection(np.ones(10), np.ones(10))
    assert found.auroc == Interval(0.5, 0.5, 0.5)
    assert found.fpr95 == found.ratio == Interval(1, 1, 1)


def test_infinite_scores_are_ranked_but_have_no_ratio() -> None:
    found = detection(np.array([0, 1, np.inf]), np.array([np.inf, np.inf]), resamples=FEW)
    assert found.auroc.estimate == pytest.approx(5 / 6)
    assert found.ratio is None
    assert found.ratio_undefined == "some scores are infinite"


@pytest.mark.parametrize(
    ("inside", "reason"),
    [([0.0, 0.0], "inside is 0$"), ([-1.0, 1.0], "inside is 0$"), ([0.0, 1.0], "some resamples")],
)
def test_a_ratio_to_nothing_is_undefined_with_its_reason(inside: list[float], reason: str) -> None:
    found = detection(np.array(inside), np.array([1.0, 2.0]))
    assert found.ratio is None
    assert found.ratio_undefined is not None
    assert found.ratio_undefined.endswith(reason.removesuffix("$"))


def test_tensors_and_arrays_give_the_same_and_json_holds_it() -> None:
    inside, outside = normal(0, 20, 5), normal(1, 20, 5)
    found = detection(inside, outside, resamples=20)
    assert detection(torch.tensor(inside), torch.tensor(outside), resamples=20) == found
    content = ood.detection({"score": inside}, {"score": outside}, resamples=20)
    assert json.loads(json.dumps(content, allow_nan=False)) == content


# -- intervals -----------------------------------------------------------------------------------


def test_auroc_interval_has_the_width_of_delongs_variance() -> None:
    inside, outside = normal(0, 400), normal(1, 600, 1)
    found = detection(inside, outside).auroc
    of_inside, of_outside = placements(inside, outside)
    sd = math.sqrt(of_inside.var(ddof=1) / 400 + of_outside.var(ddof=1) / 600)
    assert found.estimate == pytest.approx(of_inside.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * sd, rel=0.1)


def test_ratio_interval_has_the_width_of_the_delta_method() -> None:
    inside, outside = normal(0, 400, 5), normal(1, 600, 6)
    ratio = detection(inside, outside).ratio
    assert ratio is not None
    relative = inside.var() / 400 / inside.mean() ** 2 + outside.var() / 600 / outside.mean() ** 2
    sd = ratio.estimate * math.sqrt(relative)
    assert ratio.high - ratio.low == pytest.approx(2 * 1.96 * sd, rel=0.1)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # Of N(0, 1) against N(1, 1): Φ(1/√2), and 1 − Φ(1 + Φ⁻¹(0.05)).
    auroc, fpr95 = 0.7602, 0.7405
    covered = np.zeros(2)
    for seed in range(100):
        found = detection(normal(seed, 150), normal(1000 + seed, 150, 1), resamples=200)
        covered += [
            found.auroc.low <= auroc <= found.auroc.high,
            found.fpr95.low <= fpr95 <= found.fpr95.high,
        ]
    assert (covered >= 87).all()


def test_difference_to_itself_is_exactly_nothing() -> None:
    score = normal(0, 30), normal(1, 40)
    assert auroc_difference(score, score, resamples=100) == Interval(0, 0, 0)


def test_difference_has_the_width_of_delongs_variance() -> None:
    first = normal(0, 400), normal(1, 600, 1)
    second = first[0] + normal(2, 400), first[1] + normal(3, 600)
    d = auroc_difference(first, second)
    one, other = placements(*first), placements(*second)
    of_inside, of_outside = one[0] - other[0], one[1] - other[1]
    sd = math.sqrt(of_inside.var(ddof=1) / 400 + of_outside.var(ddof=1) / 600)
    assert d.estimate == pytest.approx(of_inside.mean())
    assert d.high - d.low == pytest.approx(2 * 1.96 * sd, rel=0.1)
    assert 0 < d.low < d.estimate < d.high


def test_difference_changes_sign_with_the_order_of_the_scores() -> None:
    first, second = (normal(0, 30), normal(1, 40)), (normal(2, 30), normal(3, 40, 1))
    d, reverse = auroc_difference(first, second), auroc_difference(second, first)
    assert (reverse.low, reverse.high) == pytest.approx((-d.high, -d.low))


def test_a_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    inside, outside = normal(0, 30, 5), normal(1, 40, 6)
    one, other = detection(inside, outside, seed=1), detection(inside, outside, seed=2)
    assert detection(inside, outside, seed=1) == one
    assert other.auroc.estimate == one.auroc.estimate
    assert other.auroc != one.auroc
    assert other.ratio != one.ratio
    scores = (inside, outside), (inside**2, outside)
    assert auroc_difference(*scores, seed=1) == auroc_difference(*scores, seed=1)
    assert auroc_difference(*scores, seed=1) != auroc_difference(*scores, seed=2)


# -- refusals ------------------------------------------------------------------------------------

THREE = np.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detection(THREE[:0], THREE), "two documents or more inside, not 0"),
        (lambda: detection(THREE, THREE[:1]), "two documents or more outside, not 1"),
        (lambda: detection(THREE, np.array([1, np.nan])), "1 of 2 scores outside are NaN"),
        (lambda: auroc_difference((THREE, THREE), (THREE, THREE * np.nan)), "3 of 3 scores"),
    ],
)
def test_what_cannot_be_computed_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def detect_shift(*both: Any) -> Any:
    return numbers(ood.detect_shift(*both))


NAMES = ["bma_epistemic", "bma_total", "deterministic_entropy", "deterministic_max_probability"]
RNG = np.random.default_rng(0)
NEAR = RNG.integers(0, 11, 62).astype(np.uint16)
"""7 whole windows of 8 targets, and one of 5."""
FAR = np.tile(np.arange(3, dtype=np.uint16), 15)
"""5 whole windows, and one of 4."""

Both = tuple[tuple[Passes, Split], tuple[Passes, Split]]


@pytest.fixture(scope="module")
def predictive() -> Predictive:
    from bayesgen.models.nanogpt import GPT, GPTConfig

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = GPT(GPTConfig(8, 11, n_layer=1, n_head=2, n_embd=16, bias=False))
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model = FunctionalModel(module, block_size=8)
    noise = 0.3 * torch.randn(3, model.layout.size, generator=torch.Generator().manual_seed(2))
    return Predictive(model, Draws.from_draws(model.theta + noise, model.layout))


@pytest.fixture(scope="module")
def both(predictive: Predictive) -> Both:
    near, far = (Windows.tiled(tokens, 8) for tokens in (NEAR, FAR))
    return run_passes(predictive, near, near), run_passes(predictive, far, near)


def dense(predictive: Predictive, tokens: np.ndarray) -> dict[str, list[float]]:
    """The mean of each uncertainty over the targets of each window."""
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    model = predictive.model

    def entropy(probs: Tensor) -> Tensor:
        return -(probs * probs.log()).sum(-1)

    for start in range(0, len(tokens) - 1, 8):
        inputs = tokens[start : start + 8][: len(tokens) - 1 - start]
        batch = {"input_ids": torch.tensor(inputs.astype(np.int64))[None]}
        each = [model(theta, batch)[0].double().softmax(-1) for theta in predictive.posterior]
        total = entropy(torch.stack(each).mean(0))
        own = model(model.theta, batch)[0].double().softmax(-1)
        values = {
            "bma_epistemic": total - torch.stack([entropy(p) for p in each]).mean(0),
            "bma_total": total,
            "deterministic_entropy": entropy(own),
            "deterministic_max_probability": 1 - own.max(-1).values,
        }
        for name in NAMES:
            found[name].append(float(values[name].mean()))
    return found


def test_a_window_scores_the_mean_over_its_own_tokens(predictive: Predictive, both: Both) -> None:
    for (passes, split), tokens in zip(both, (NEAR, FAR), strict=True):
        scores = window_scores(passes, split)
        assert list(scores) == NAMES
        for name, expected in dense(predictive, tokens).items():
            np.testing.assert_allclose(scores[name].numpy(), expected, rtol=0, atol=1e-6)


def auroc(inside: list[float], outside: list[float]) -> float:
    """The share of pairs in which the far window scores higher."""
    pairs = [(x > y) + 0.5 * (x == y) for x in outside for y in inside]
    return sum(pairs) / len(pairs)


def test_detection_equals_brute_force_over_all_pairs(predictive: Predictive, both: Both) -> None:
    found_shift = detect_shift(*both)
    inside, outside = dense(predictive, NEAR), dense(predictive, FAR)
    expected = {name: auroc(inside[name], outside[name]) for name in NAMES}
    assert len({round(value, 6) for value in expected.values()}) > 2
    for name, found in found_shift.scores.items():
        assert (found.num_inside, found.num_outside) == (8, 6)
        assert found.auroc.estimate == pytest.approx(expected[name])
        assert found.auroc.low <= expected[name] <= found.auroc.high
        # all of 6 must be found, so that at least 95 % are
        missed = np.mean([x >= min(outside[name]) for x in inside[name]])
        assert found.fpr95.estimate == pytest.approx(missed)
        assert found.ratio is not None
        ratio = np.mean(outside[name]) / np.mean(inside[name])
        assert found.ratio.estimate == pytest.approx(ratio, rel=1e-4)
    assert list(found_shift.epistemic_minus) == NAMES[1:]
    for name, minus in found_shift.epistemic_minus.items():
        gain = expected["bma_epistemic"] - expected[name]
        assert minus.estimate == pytest.approx(gain)
        assert minus.low <= gain <= minus.high


def test_a_text_is_not_told_from_itself_and_sides_are_mirrored(both: Both) -> None:
    near, far = both
    same = detect_shift(near, near)
    for found in same.scores.values():
        assert found.auroc.estimate == 0.5
        assert found.ratio is not None
        assert found.ratio.estimate == 1
    assert all(minus.estimate == 0 for minus in same.epistemic_minus.values())
    there, back = detect_shift(near, far), detect_shift(far, near)
    for name in NAMES:
        mirrored = 1 - back.scores[name].auroc.estimate
        assert there.scores[name].auroc.estimate == pytest.approx(mirrored)


def test_identical_draws_detect_nothing_by_their_disagreement(predictive: Predictive) -> None:
    model = predictive.model
    same = Predictive(model, Draws.from_draws(model.theta.expand(3, -1), model.layout))
    windows = Windows.tiled(NEAR, 8)
    scores = window_scores(*run_passes(same, windows, windows))
    assert float(scores["bma_epistemic"].abs().max()) < 1e-6
    torch.testing.assert_close(
        scores["bma_total"], scores["deterministic_entropy"], rtol=0, atol=1e-6
    )


def test_the_result_is_plain_json(both: Both) -> None:
    content = ood.detect_shift(*both)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["scores"]["bma_total"]["auroc"].keys() == vars(Interval(0, 0, 0)).keys()


def test_one_window_is_too_few(predictive: Predictive, both: Both) -> None:
    windows = Windows.tiled(FAR[:9], 8)
    one = run_passes(predictive, windows, windows)
    with pytest.raises(ValueError, match="two documents or more outside, not 1"):
        detect_shift(both[0], one)
    with pytest.raises(ValueError, match="two documents or more inside, not 1"):
        detect_shift(one, both[1])
