"""Bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap
from torch import Tensor

RESAMPLES = 2000
ONE_WINDOW = "an interval needs two windows or more"


class Undefined(Exception):
    """There is no such number; the message says why."""


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
    resamples: int = RESAMPLES,
    batch: int = 100,
    seed: int = 0,
    paired: bool = False,
) -> Interval:
    """`statistic(*samples, axis=-1)` with its 95 % percentile bootstrap interval.

    Args:
        statistic: takes [..., n_i] for each sample and returns [...].
        samples: [n_i] each, n_i of 2 or more.
        batch: resamples that are handed to `statistic` at once.
        paired: resample all `samples` together, instead of independently of each other.
    """
    interval = bootstrap(
        samples,
        statistic,
        paired=paired,
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
    samples = (first - second).double().numpy(), tokens.double().numpy()

    def per_token(d: np.ndarray, n: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(d.sum(axis=axis) / n.sum(axis=axis))

    if len(tokens) < 2:
        return Interval(float(per_token(*samples)), math.nan, math.nan)
    return percentile_interval(per_token, samples, seed=seed, paired=True)
