"""Detection of out-of-distribution text or rows by the uncertainty about them.

Documents are windows or rows; the score of one is the mean over its tokens. The posterior's mutual
information and total entropy stand against what the deterministic model has: its entropy, and one
minus its largest probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from bayesgen.evaluation.metrics import Interval, Passes, percentile_intervals
from bayesgen.evaluation.selective import uncertainties
from bayesgen.evaluation.walk import Split

SCORES = ("bma_epistemic", "bma_total", "deterministic_entropy", "deterministic_max_probability")
"""The first is compared with the others."""
RESAMPLES = 1000
BATCH = 10  # resamples that are ranked at once: more is no faster, and takes memory


def detect_shift(inside: tuple[Passes, Split], outside: tuple[Passes, Split]) -> dict[str, Any]:
    """Compare the rows of two passes of the same predictors; see `detection`."""
    return detection(window_scores(*inside), window_scores(*outside))


def window_scores(passes: Passes, split: Split) -> dict[str, Tensor]:
    """Mean of each uncertainty over each window's tokens: [W], higher is less sure."""
    count, each = len(split.tokens), uncertainties(passes)
    window = torch.arange(count).repeat_interleave(split.tokens)
    none = torch.zeros(count, dtype=torch.float64)
    return {name: none.index_add(0, window, each[name]) / split.tokens for name in SCORES}


def detection(
    inside: Mapping[str, Any], outside: Mapping[str, Any], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Detection of out-of-distribution documents, the positive class, by scores; plain data.

    `scores`: of each score `auroc`, the chance that a document from outside scores higher than one
    from inside, where ties count half (Hendrycks & Gimpel 2017, https://arxiv.org/abs/1610.02136);
    `fpr95`, the share of the documents inside that are taken for out-of-distribution where 95 % of
    those outside are: the smallest of any threshold with TPR >= 0.95, a score at the threshold
    counting as positive (with these as the positive class: Hendrycks et al. 2019,
    https://arxiv.org/abs/1812.04606); `ratio`, the mean score outside over that inside, or None
    with the reason `ratio_undefined`. `epistemic_minus`: the first score's AUROC minus that of each
    other. Intervals are 95 % percentile bootstraps: documents inside and outside are resampled
    independently, for all scores the same ones.

    Both sides hold by name the score of each document, [n_in] and [n_out]: higher means more
    out-of-distribution, and infinite is possible. ValueError for NaN, or fewer than two documents.
    """
    near, far = (
        np.stack([np.asarray(side[name], dtype=np.float64) for name in inside])
        for side in (inside, outside)
    )
    for side, scores in (("inside", near), ("outside", far)):
        count, nans = scores.shape[1], int(np.isnan(scores).any(0).sum())
        if count < 2:
            raise ValueError(f"an interval needs two documents or more {side}, not {count}")
        if nans:
            raise ValueError(f"{nans} of {count} scores {side} are NaN")

    def scored(i: np.ndarray, o: np.ndarray, axis: int = -1) -> np.ndarray:
        one, other = near[:, i], far[:, o]
        aurocs = _auroc(one, other)
        return np.concatenate([aurocs, _fpr95(one, other), aurocs[:1] - aurocs[1:]])

    documents = np.arange(near.shape[1]), np.arange(far.shape[1])
    found = percentile_intervals(scored, documents, resamples=resamples, batch=BATCH, seed=seed)
    intervals = [vars(interval) for interval in found]
    count = len(near)
    return {
        "scores": {
            name: {
                "num_inside": near.shape[1],
                "num_outside": far.shape[1],
                "auroc": intervals[k],
                "fpr95": intervals[count + k],
                **_ratio(near[k], far[k], resamples, seed),
            }
            for k, name in enumerate(inside)
        },
        "epistemic_minus": dict(zip(list(inside)[1:], intervals[2 * count :], strict=True)),
    }


def _auroc(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Mann-Whitney's U of `outside` over its largest value; ties share their mean rank."""
    # torchmetrics passes scores beyond [0, 1] through a sigmoid, after which high ones tie.
    n, m = inside.shape[-1], outside.shape[-1]
    ranks = rankdata(np.concatenate([inside, outside], -1), axis=-1)
    return np.asarray((ranks[..., n:].sum(-1) - m * (m + 1) / 2) / (n * m))


def _fpr95(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    # The highest threshold that 95 % of the scores outside reach is one of them.
    below = outside.shape[-1] * 5 // 100
    threshold = np.partition(outside, below, -1)[..., below, None]
    return np.asarray((inside >= threshold).mean(-1))


def _ratio(inside: np.ndarray, outside: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """The ratio of the mean scores, or why there is none."""
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        return {"ratio": None, "ratio_undefined": "some scores are infinite"}
    estimate = inside.mean()
    if estimate == 0:
        return {"ratio": None, "ratio_undefined": "the mean score inside is 0"}
    rng = np.random.default_rng(seed)
    near, far = (
        np.array([rng.choice(scores, len(scores)).mean() for _ in range(resamples)])
        for scores in (inside, outside)
    )
    if (np.sign(near) != np.sign(estimate)).any():
        why = "the mean score inside is 0, or of the other sign, in some resamples"
        return {"ratio": None, "ratio_undefined": why}
    numbers = outside.mean() / estimate, *np.percentile(far / near, [2.5, 97.5])
    return {"ratio": vars(Interval(*map(float, numbers))), "ratio_undefined": None}
