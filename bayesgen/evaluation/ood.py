"""How well an uncertainty detects out-of-distribution documents."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from bayesgen.evaluation.metrics import Interval, Passes, percentile_interval
from bayesgen.evaluation.selective import Array, uncertainties
from bayesgen.evaluation.walk import Split

RESAMPLES = 1000
BATCH = 10
"""Resamples that are ranked at once: more is no faster, and takes memory."""


@dataclass(frozen=True)
class Detection:
    """Detection of out-of-distribution documents, the positive class, by one score.

    AUROC: Hendrycks & Gimpel 2017, https://arxiv.org/abs/1610.02136; the false-positive rate with
    these as the positive class: Hendrycks et al. 2019, https://arxiv.org/abs/1812.04606.

    Attributes:
        auroc: chance that a document from outside scores higher than one from inside; ties count
            half.
        fpr95: share of the documents inside that are taken for out-of-distribution where 95 % of
            those outside are: the smallest of any threshold with TPR >= 0.95, a score at the
            threshold counting as positive.
        ratio: mean score outside over that inside; None where it is undefined.
        ratio_undefined: why, or None.
    """

    num_inside: int
    num_outside: int
    auroc: Interval
    fpr95: Interval
    ratio: Interval | None
    ratio_undefined: str | None


def detection(
    inside: Array, outside: Array, *, resamples: int = RESAMPLES, seed: int = 0
) -> Detection:
    """Detection of `outside` against `inside`, with 95 % percentile bootstrap intervals.

    Documents inside and outside are resampled independently.

    Args:
        inside: score of each document like the training data, [n_in]; higher means more
            out-of-distribution. May be infinite, not NaN.
        outside: the same of each out-of-distribution document, [n_out].

    Raises:
        ValueError: a side has fewer than two documents, is not [n], or holds a NaN.
    """
    samples = _scores(inside, "inside"), _scores(outside, "outside")
    auroc, fpr95 = (
        percentile_interval(statistic, samples, resamples=resamples, batch=BATCH, seed=seed)
        for statistic in (_auroc, _fpr95)
    )
    ratio, ratio_undefined = _ratio(*samples, resamples, seed)
    return Detection(len(inside), len(outside), auroc, fpr95, ratio, ratio_undefined)


def auroc_difference(
    first: tuple[Array, Array],
    second: tuple[Array, Array],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """AUROC of the score `first` minus that of `second`, with its 95 % interval.

    Paired: both are taken on the same resampled documents.

    Args:
        first, second: two scores of the same documents, (inside [n_in], outside [n_out]), as in
            `detection`.

    Raises:
        ValueError: as in `detection`, or the scores are not of the same documents.
    """
    (one_in, one_out), (other_in, other_out) = (
        (_scores(inside, "inside"), _scores(outside, "outside"))
        for inside, outside in (first, second)
    )
    if one_in.shape != other_in.shape or one_out.shape != other_out.shape:
        raise ValueError(
            f"{len(one_in)} + {len(one_out)} documents (inside + outside) cannot be paired with"
            f" {len(other_in)} + {len(other_out)}"
        )

    def of_documents(inside: np.ndarray, outside: np.ndarray, axis: int = -1) -> np.ndarray:
        one = _auroc(one_in[inside], one_out[outside], axis)
        other = _auroc(other_in[inside], other_out[outside], axis)
        return np.asarray(one - other)

    documents = np.arange(len(one_in)), np.arange(len(one_out))
    return percentile_interval(of_documents, documents, resamples=resamples, batch=BATCH, seed=seed)


def _auroc(inside: np.ndarray, outside: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mann-Whitney's U of `outside` over its largest value; ties share their mean rank."""
    # torchmetrics passes scores beyond [0, 1] through a sigmoid, after which high ones tie.
    n, m = inside.shape[axis], outside.shape[axis]
    ranks = rankdata(np.concatenate([inside, outside], axis), axis=axis)
    of_outside = ranks.take(np.arange(n, n + m), axis)
    return np.asarray((of_outside.sum(axis) - m * (m + 1) / 2) / (n * m))


def _fpr95(inside: np.ndarray, outside: np.ndarray, axis: int = -1) -> np.ndarray:
    # The highest threshold that 95 % of the scores outside reach is one of them.
    below = outside.shape[axis] * 5 // 100
    threshold = np.partition(outside, below, axis).take([below], axis)
    return np.asarray((inside >= threshold).mean(axis))


def _ratio(
    inside: np.ndarray, outside: np.ndarray, resamples: int, seed: int
) -> tuple[Interval | None, str | None]:
    """The ratio of the mean scores, or why there is none."""
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        return None, "some scores are infinite"
    estimate = inside.mean()
    if estimate == 0:
        return None, "the mean score inside is 0"
    rng = np.random.default_rng(seed)
    means_inside, means_outside = (
        np.array([rng.choice(scores, len(scores)).mean() for _ in range(resamples)])
        for scores in (inside, outside)
    )
    if (np.sign(means_inside) != np.sign(estimate)).any():
        return None, "the mean score inside is 0, or of the other sign, in some resamples"
    low, high = np.percentile(means_outside / means_inside, [2.5, 97.5])
    return Interval(float(outside.mean() / estimate), float(low), float(high)), None


def _scores(scores: Array, side: str) -> np.ndarray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"scores {side} must be [n], not {list(array.shape)}")
    if len(array) < 2:
        raise ValueError(f"an interval needs two documents or more {side}, not {len(array)}")
    if np.isnan(array).any():
        raise ValueError(f"{int(np.isnan(array).sum())} of {len(array)} scores {side} are NaN")
    return array


EPISTEMIC = "bma_epistemic"
SCORES = (EPISTEMIC, "bma_total", "deterministic_entropy", "deterministic_max_probability")


def detect_shift(
    inside: tuple[Passes, Split], outside: tuple[Passes, Split]
) -> dict[str, dict[str, Any]]:
    """Compare the rows of two passes of the same predictors; plain data.

    `scores`: uncertainty -> its `ood.Detection`. `epistemic_minus`: uncertainty -> AUROC of the
    mutual information minus that of the uncertainty, with its interval.

    Raises:
        ValueError: one of the two has fewer than two rows.
    """
    one, other = window_scores(*inside), window_scores(*outside)
    scores = {name: (one[name], other[name]) for name in SCORES}
    return {
        "scores": {name: asdict(detection(*pair)) for name, pair in scores.items()},
        "epistemic_minus": {
            name: asdict(auroc_difference(scores[EPISTEMIC], pair))
            for name, pair in scores.items()
            if name != EPISTEMIC
        },
    }


def window_scores(passes: Passes, split: Split) -> dict[str, Tensor]:
    """Mean of each uncertainty over each window's tokens: [W], higher is less sure."""
    window = torch.arange(len(split.tokens)).repeat_interleave(split.tokens)
    each = uncertainties(passes)
    return {
        name: torch.zeros(len(split.tokens), dtype=torch.float64).index_add_(0, window, each[name])
        / split.tokens
        for name in SCORES
    }
