"""Scores of windows against the dense computation, and what is made of them against brute force."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayesgen.data.windows import Windows
from bayesgen.draws import Draws
from bayesgen.evaluation import run_passes, shift
from bayesgen.evaluation.cache import Passes
from bayesgen.evaluation.intervals import Interval
from bayesgen.evaluation.shift import window_scores
from bayesgen.evaluation.walk import Split
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Predictive
from tests.evaluation.test_overlap import numbers


def detect_shift(*both: Any) -> Any:
    return numbers(shift.detect_shift(*both))


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
    content = shift.detect_shift(*both)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["scores"]["bma_total"]["auroc"].keys() == vars(Interval(0, 0, 0)).keys()


def test_one_window_is_too_few(predictive: Predictive, both: Both) -> None:
    windows = Windows.tiled(FAR[:9], 8)
    one = run_passes(predictive, windows, windows)
    with pytest.raises(ValueError, match="two documents or more outside, not 1"):
        detect_shift(both[0], one)
    with pytest.raises(ValueError, match="two documents or more inside, not 1"):
        detect_shift(one, both[1])
