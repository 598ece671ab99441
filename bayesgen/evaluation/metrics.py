"""Metrics: one function each, from what a predictor said of a split to a number; and intervals.

A metric of your own is registered before an evaluation, or named by the entry point of a package
(group `bayesgen.metrics`), and is then in every evaluation file, table and summary (see the page
"Add a metric"). What a predictor said is a `classes.Scored` where the labels are classes or tokens,
and a `numbers.Predicted` where they are real numbers; `split` is a `walk.Split`, with the labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import bootstrap
from torch import Tensor

from bayesgen.evaluation.walk import LabelKind, Split
from bayesgen.registry import Registry

Values = dict[str, Any]
"""Metric -> number, or None; and under a key of its own the reason why there is none."""
RESAMPLES = 2000
AT_ONCE = 100_000  # elements of resamples that are no burden: so many make a batch
ONE_WINDOW = "an interval needs two windows or more"


class Undefined(Exception):
    """There is no such number; the message says why."""


@dataclass(frozen=True)
class Metric:
    """A number that says how well a predictor predicts a split.

    Attributes:
        name: key in evaluation files.
        of: what a predictor said, and the split -> the number; raises `Undefined`.
        labels: kinds of labels that it is for.
        direction: which numbers are better.
        digits: after the point, in tables.
        heading: in tables (default: the name).
        of_sums: it needs a `classes.Tally` alone of classes or tokens, and is given that: only such
            numbers are known of every single draw, and so of `mean_of_draws` and of the mixture of
            the first few draws. Of real-valued labels every draw's predictions are at hand.
        reason: key of the reason why there is no number, always there (default: `no_` and the name,
            where there is none).
    """

    name: str
    of: Callable[[Any, Split], float]
    labels: Sequence[LabelKind] = ("class", "token", "number")
    direction: Literal["lower", "higher"] = "lower"
    digits: int = 4
    heading: str = ""
    of_sums: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Passes:
    """What the predictors said of one split."""

    temperature: float | None  # of `temperature_scaled`; None where nothing can be scaled
    # predictor -> what it said of every observation (`classes.Scored`, `numbers.Predicted` or
    # `numbers.Densities`); without `mean_of_draws`
    said: dict[str, Any]
    # mean over the draws of the entropy of each observation's distribution [n], in nats; None of
    # real numbers
    aleatoric: Tensor | None
    draws: Values  # the average of the draws' own numbers
    draws_window_nll: Tensor  # the average of their summed NLL of each row [W]
    by_draws: dict[int, Values]  # the mixture of the first so many, in `walk.draw_order`


def measured(said: Any, split: Split, sums_only: bool = False) -> Values:
    """Every metric of what a predictor said; with `sums_only` that is a `classes.Tally`, and only
    what needs no more is measured."""
    found: Values = {}
    for metric in list(METRICS.values()):
        if split.kind not in metric.labels or (sums_only and not metric.of_sums):
            continue
        found[metric.name], why = None, None
        try:
            seen = getattr(said, "tally", said) if metric.of_sums else said
            found[metric.name] = metric.of(seen, split)
        except Undefined as undefined:
            why = str(undefined)
        if metric.reason or why is not None:
            found[metric.reason or f"no_{metric.name}"] = why
    return found


def averaged(
    each: Sequence[Values], mean: Callable[[list[float]], Any] = lambda own: sum(own) / len(own)
) -> Values:
    """The average of the draws' own numbers; what one draw lacks is None, for its reason.
    Perplexity is exp of the mean NLL."""
    found: Values = {}
    for key in dict.fromkeys(key for own in each for key in own):
        there = [own[key] for own in each if own.get(key) is not None]
        if key in METRICS:
            found[key] = float(mean(there)) if len(there) == len(each) else None
        else:
            found[key] = there[0] if there else None
    if "perplexity" in found:
        found["perplexity"] = exp(found["nll"])
    return found


def exp(nll: float) -> float:
    """exp(nll); infinite where that overflows."""
    return math.exp(nll) if nll < 700 else math.inf


def _macro_f1(said: Any, split: Split) -> float:
    """Mean over the classes of F1."""
    from torchmetrics.functional.classification import multiclass_f1_score

    classes: Any = split.windows.num_classes
    return float(multiclass_f1_score(said.tokens.guess, split.labels, classes, average="macro"))


_CLASSES: tuple[LabelKind, ...] = ("class", "token")
_NUMBER: tuple[LabelKind, ...] = ("number",)
_BUILT_IN = (
    # nats per observation
    Metric("nll", lambda said, _: said.nll, (*_CLASSES, "number", "own"), heading="NLL",
           of_sums=True),
    Metric("perplexity", lambda said, _: exp(said.nll), _CLASSES, digits=3, of_sums=True),
    Metric("accuracy", lambda said, _: said.accuracy, _CLASSES, "higher", of_sums=True),
    # of the predictive mean, in units of the labels, and its correlations with them
    Metric("rmse", lambda said, _: said.rmse, _NUMBER, heading="RMSE"),
    Metric("spearman", lambda said, _: said.correlations["spearman"], _NUMBER, "higher",
           heading="Spearman", reason="no_correlation"),
    Metric("pearson", lambda said, _: said.correlations["pearson"], _NUMBER, "higher",
           heading="Pearson", reason="no_correlation"),
    # of classes, confidence against accuracy in 15 bins (Guo et al. 2017,
    # https://arxiv.org/abs/1706.04599, eq. 3); of real numbers, see `numbers.Predicted`
    Metric("ece", lambda said, _: said.ece, (*_CLASSES, "number"), heading="ECE", of_sums=True),
    # summed over the classes or the vocabulary (Brier 1950)
    Metric("brier", lambda said, _: said.brier / said.tokens, _CLASSES, heading="Brier",
           of_sums=True),
    Metric("macro_f1", _macro_f1, ("class",), "higher", heading="macro-F1"),
)  # fmt: skip
METRICS = Registry[Metric]("metric", {metric.name: metric for metric in _BUILT_IN})


# -- bootstrap intervals -------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    estimate: float
    low: float
    high: float


def percentile_intervals(
    statistic: Callable[..., np.ndarray],
    samples: tuple[np.ndarray, ...],
    *,
    resamples: int = RESAMPLES,
    batch: int = 100,
    seed: int = 0,
    paired: bool = False,
) -> list[Interval]:
    """Numbers `statistic(*samples, axis=-1)` [k] with their 95 % percentile bootstrap intervals.

    `statistic` takes [..., n_i] for each sample and returns [k, ...], of a `batch` (or `AT_ONCE`)
    at once. `samples`, of 2 or more, are resampled independently or, if `paired`, together.
    """
    if paired or len(samples) == 1:  # else the random numbers depend on the batches
        batch = max(batch, AT_ONCE // len(samples[0]))
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
    each = zip(statistic(*samples, axis=-1), interval.low, interval.high, strict=True)
    return [Interval(*map(float, numbers)) for numbers in each]


def paired_difference(first: Tensor, second: Tensor, tokens: Tensor, seed: int = 0) -> Interval:
    """Mean NLL per token of `first` minus that of `second`, which are summed over each window of so
    many `tokens`, [windows] each.

    Tokens of one window share their context, so whole windows are resampled.
    """
    samples = (first - second).double().numpy(), tokens.double().numpy()

    def per_token(d: np.ndarray, n: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(d.sum(axis=axis) / n.sum(axis=axis))[None]

    if len(tokens) < 2:
        return Interval(float(per_token(*samples)[0]), math.nan, math.nan)
    return percentile_intervals(per_token, samples, seed=seed, paired=True)[0]
