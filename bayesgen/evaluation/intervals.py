"""Bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap
from torch import Tensor

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    estimate: float
    low: float
    high: float


def percentile_interval(
    statistic: Callable[..., np.ndarray],
    samples: tuple[np.ndarray, ...],
    *,
    resamples: int,
    batch: int,
    seed: int,
) -> Interval:
    """`statistic(*samples, axis=-1)` with its 95 % percentile bootstrap interval.

    Args:
        statistic: takes [..., n_i] for each sample and returns [...].
        samples: resampled independently of each other, [n_i] each, n_i of 2 or more.
        batch: resamples that are handed to `statistic` at once.
    """
    interval = bootstrap(
        samples,
        statistic,
        vectorized=True,
        n_resamples=resamples,
        method="percentile",
        batch=batch,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(statistic(*samples, axis=-1)), float(interval.low), float(interval.high))


def paired_difference(first: Tensor, second: Tensor, tokens: Tensor, seed: int = 0) -> Interval:
    """Mean NLL of `first` minus that of `second`, per token.

    Tokens of one window share their context, so whole windows are resampled (paired percentile
    bootstrap, 2,000 resamples).

    Args:
        first, second: summed NLL of each window, [windows].
        tokens: how many targets each window has, [windows].
    """
    difference, tokens_per_window = (first - second).double().numpy(), tokens.double().numpy()

    def per_token(d: np.ndarray, n: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(d.sum(axis=axis) / n.sum(axis=axis))

    estimate = float(per_token(difference, tokens_per_window))
    if len(tokens) < 2:
        return Interval(estimate, float("nan"), float("nan"))
    interval = bootstrap(
        (difference, tokens_per_window),
        per_token,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        batch=100,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(estimate, float(interval.low), float(interval.high))
