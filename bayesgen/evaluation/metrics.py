"""Metrics: one function each, from what a predictor said of a split to a number.

A metric of your own is registered before an evaluation, or named by the entry point of a package
(group `bayesgen.metrics`), and is then in every evaluation file, table and summary:

    METRICS.register(Metric("error_rate", error_rate, labels=("class", "token")))

    def error_rate(said, split):
        return float((said.tokens.guess != split.labels).double().mean())

What a predictor said is a `classes.Scored` where the labels are classes or tokens, and a
`numbers.Predicted` where they are real numbers; `split` is a `walk.Split`, with the labels.
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


@dataclass(frozen=True)
class Passes:
    """What the predictors said of one split.

    Attributes:
        temperature: of `temperature_scaled`; None where nothing can be scaled.
        said: predictor -> what it said of every observation (`classes.Scored`, `numbers.Predicted`
            or `numbers.Densities`); without `mean_of_draws`.
        aleatoric: mean over the draws of the entropy of each observation's distribution [n], in
            nats; None where there are no such distributions.
        draws: the average of the draws' own numbers.
        draws_window_nll: the average of their summed NLL of each row [W].
        by_draws: number of draws -> the mixture of the first so many, in `walk.draw_order`.
    """

    temperature: float | None
    said: dict[str, Any]
    aleatoric: Tensor | None
    draws: Values
    draws_window_nll: Tensor
    by_draws: dict[int, Values]


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


METRICS = Registry[Metric](
    "metric",
    {
        name: f"bayesgen.evaluation.metrics:{name.upper()}"
        for name in (
            "nll", "perplexity", "accuracy", "rmse", "spearman", "pearson", "ece", "brier",
            "macro_f1",
        )
    },
)  # fmt: skip


def measured(said: Any, split: Split, sums_only: bool = False) -> Values:
    """Every metric of what a predictor said.

    Args:
        sums_only: `said` is a `classes.Tally`, and only what needs no more is measured.
    """
    found: Values = {}
    for metric in METRICS.values():
        if split.kind not in metric.labels or (sums_only and not metric.of_sums):
            continue
        sums = getattr(said, "tally", said) if metric.of_sums else said
        value, why = None, None
        try:
            value = metric.of(sums, split)
        except Undefined as undefined:
            why = str(undefined)
        found[metric.name] = value
        if metric.reason or why is not None:
            found[metric.reason or f"no_{metric.name}"] = why
    return found


def averaged(each: Sequence[Values], mean: Callable[[list[float]], float]) -> Values:
    """The average of the draws' own numbers; what one draw lacks is None, for its reason.

    Perplexity is exp of the mean NLL.
    """
    found: Values = {}
    for key in dict.fromkeys(key for own in each for key in own):
        values = [own.get(key) for own in each]
        if key in METRICS:
            numbers = [value for value in values if value is not None]
            found[key] = mean(numbers) if len(numbers) == len(values) else None
        else:
            found[key] = next((why for why in values if why is not None), None)
    if "perplexity" in found:
        found["perplexity"] = exp(found["nll"])
    return found


def exp(nll: float) -> float:
    """exp(nll); infinite where that overflows."""
    return math.exp(nll) if nll < 700 else math.inf


def _macro_f1(said: Any, split: Split) -> float:
    """Mean over the classes of F1."""
    from torchmetrics.functional.classification import multiclass_f1_score

    classes = split.windows.num_classes
    assert classes is not None
    return float(multiclass_f1_score(said.tokens.guess, split.labels, classes, average="macro"))


def _built_in(
    name: str, heading: str, labels: Sequence[LabelKind], what: str = "", **more: Any
) -> Metric:
    """A number that a predictor's scores have as a property, `what`."""
    return Metric(
        name, lambda said, split: getattr(said, what or name), labels, heading=heading, **more
    )


CLASSES: tuple[LabelKind, ...] = ("class", "token")
# nats per observation
NLL = _built_in("nll", "NLL", (*CLASSES, "number", "own"), of_sums=True)
PERPLEXITY = Metric("perplexity", lambda said, _: exp(said.nll), CLASSES, digits=3, of_sums=True)
ACCURACY = _built_in("accuracy", "accuracy", CLASSES, direction="higher", of_sums=True)
# of the predictive mean, in units of the labels, and its correlations with them
RMSE = _built_in("rmse", "RMSE", ("number",))
SPEARMAN = Metric(
    "spearman", lambda said, _: said.correlations["spearman"], ("number",), "higher", 4, "Spearman",
    reason="no_correlation",
)  # fmt: skip
PEARSON = Metric(
    "pearson", lambda said, _: said.correlations["pearson"], ("number",), "higher", 4, "Pearson",
    reason="no_correlation",
)  # fmt: skip
# of classes, confidence against accuracy in 15 bins (Guo et al. 2017,
# https://arxiv.org/abs/1706.04599, eq. 3); of real-valued labels, see `numbers.calibration_error`
ECE = _built_in("ece", "ECE", (*CLASSES, "number"), of_sums=True)
# summed over the classes or the vocabulary (Brier 1950)
BRIER = _built_in("brier", "Brier", CLASSES, "mean_brier", of_sums=True)
MACRO_F1 = Metric("macro_f1", _macro_f1, ("class",), "higher", heading="macro-F1")


RESAMPLES = 2000
AT_ONCE = 100_000
"""Elements of resamples that are no burden: so many make a batch."""
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
        batch: resamples that are handed to `statistic` at once, if they exceed `AT_ONCE`.
        paired: resample all `samples` together, instead of independently of each other.
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
