"""Real-valued labels, and likelihoods of the user's own: what is said of them, and its scores."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation import metrics, walk
from bayesgen.evaluation.metrics import Interval, Passes, Undefined
from bayesgen.evaluation.selective import ranked
from bayesgen.evaluation.walk import MAX_EXAMPLES, STEPS, Split, Weights
from bayesgen.likelihoods import Gaussian, Likelihood
from bayesgen.predictive import Predictive
from bayesgen.predictive.mixture import GaussianMixture, log_mean

LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # whose coverage makes the `ece`
SHOWN_LEVELS = (0.5, 0.8, 0.9, 0.95)
RESAMPLES = 1000  # of a difference of rank correlations, which is slower than one of means
BATCH = 10  # resamples that are ranked at once
CONSTANT = "the outputs or the labels do not vary in some resample"
COVERAGES = (0.5, 0.8, 1.0)  # shares of the rows, the most certain ones, whose error is reported
LEAST_TAU = 1e-6  # of the variance of real-valued labels, where the residuals are all zero


@dataclass(frozen=True)
class Predicted:
    """What one predictor said of each of n labels; all [n], float64, on the CPU.

    `aleatoric` and `epistemic` sum up to the variance of the mixture.
    """

    mixture: GaussianMixture
    labels: Tensor  # of any dtype
    log_likelihood: Tensor  # log p(label), nats
    pit: Tensor  # P(Y <= label), the probability integral transform
    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor

    @classmethod
    def of(cls, mixture: GaussianMixture, labels: Tensor) -> Predicted:
        blocks = list(mixture.blocks())
        each = zip(blocks, labels.split([len(block.std) for block in blocks]), strict=True)
        parts = [(b.log_prob(y), b.cdf(y), b.mean, b.aleatoric, b.epistemic) for b, y in each]
        return cls(mixture, labels, *map(torch.cat, zip(*parts, strict=True)))

    @property
    def window_nll(self) -> Tensor:
        """NLL of each row [n], in nats."""
        return -self.log_likelihood

    @property
    def nll(self) -> float:
        return -float(self.log_likelihood.mean())

    @property
    def rmse(self) -> float:
        return float((self.mean - self.labels.double()).square().mean().sqrt())

    @property
    def ece(self) -> float:
        """Mean over the levels 0.05, 0.10, ... 0.95 of |coverage − level| of central intervals.

        The calibration error of Kuleshov et al. 2018, https://arxiv.org/abs/1807.00263, section
        3.5, with absolute values and even weights, of central intervals in the place of quantiles.
        """
        return float(np.mean([abs(covered(self.pit, level) - level) for level in LEVELS]))

    @cached_property
    def correlations(self) -> dict[str, float]:
        return correlations(self.mean, self.labels)


@dataclass(frozen=True)
class Densities:
    """What one predictor said, where a likelihood gives the density of what was seen alone."""

    window_nll: Tensor  # NLL of each row [W], float64, in nats
    observations: int  # in all rows

    @property
    def nll(self) -> float:
        return float(self.window_nll.sum()) / self.observations


# -- what the networks say -----------------------------------------------------------------------


def read_numbers(
    predictive: Predictive, split: Split, held_in: Rows, progress: str | None
) -> dict[str, Tensor]:
    """A number of each row by `deterministic` and `posterior_mean` [W], and by every draw in the
    order of the run, `draws` [S, W]: the mean of its label, or its log-likelihood, in nats.

    Of real-valued labels also the `labels` [W] and the `residuals`, label minus the deterministic
    mean of each held-in row [m]: none where these are among the rows that are scored. ValueError
    where a label is not finite.
    """
    model, posterior, forward = predictive.model, predictive.posterior, predictive.forward
    numbers, near, more = split.kind == "number", None, {}
    if numbers:
        more = {"labels": _finite(split), "residuals": torch.zeros(0)}
        if not split.windows.overlaps(held_in):
            near = Split.of(forward, held_in, split.batch_size, MAX_EXAMPLES)
    total = (len(posterior) + 2) * len(split.indices) + (len(near.indices) if near else 0)
    with walk.progress_bar(progress, total, split.unit) as advance:

        def read(rows: Split, weights: Weights) -> Tensor:
            if not numbers:
                return walk.densities(forward, rows, weights, advance)
            return walk.each_number(forward, rows, weights, lambda out, _: out.flatten(), advance)

        alone = read(split, [model.theta, posterior.mean().to(model.device)])
        if near:
            more["residuals"] = _finite(near) - read(near, [model.theta])[0]
        draws = read(split, posterior)
    found = {"deterministic": alone[0].clone(), "posterior_mean": alone[1].clone(), "draws": draws}
    return found | more


def _finite(split: Split) -> Tensor:
    labels = split.labels.float()
    if not labels.isfinite().all():
        raise ValueError("a label is not finite")
    return labels


def passes_of_numbers(likelihood: Likelihood, split: Split, found: Mapping[str, Tensor]) -> Passes:
    """The passes, of what `read_numbers` found."""
    draws = found["draws"]
    taus, said = None, {}

    def mixed(each: Tensor, scale: float | Tensor = 1.0) -> Any:
        if isinstance(likelihood, Gaussian):
            mixture = GaussianMixture.of(each, likelihood.std * scale)
            return Predicted.of(mixture, found["labels"])
        return Densities(-log_mean(each), int(split.tokens.sum()))

    if isinstance(likelihood, Gaussian):
        taus = _variances(found, likelihood.std)
        said["temperature_scaled"] = mixed(found["deterministic"][None], taus.sqrt())
    said |= {name: mixed(found[name][None]) for name in ("deterministic", "posterior_mean")}
    said["bma"] = mixed(draws)
    alone = [mixed(draw[None]) for draw in draws]
    order = walk.draw_order(len(draws))
    first = {k: mixed(draws[order[:k]]) for k in STEPS if k < len(draws)}
    first[len(draws)] = said["bma"]
    return Passes(
        None if taus is None else float(taus.mean()),
        said,
        None,
        metrics.averaged([metrics.measured(own, split) for own in alone], np.mean),
        torch.stack([own.window_nll for own in alone]).mean(0),
        {k: metrics.measured(own, split) for k, own in first.items()},
    )


def _variances(found: Mapping[str, Tensor], std: float) -> Tensor:
    """What the variance σ² of each row [n] is multiplied by, fitted on rows that are not scored
    with it: of highest likelihood is the mean squared residual / σ². See `classes.temperatures`."""

    def tau(residuals: Tensor) -> Tensor:
        return (residuals.double().square().mean() / std**2).clamp(min=LEAST_TAU)

    count = len(found["labels"])
    if len(found["residuals"]):
        return tau(found["residuals"]).expand(count)
    residuals = found["labels"] - found["deterministic"]
    return walk.cross_fitted(count, lambda half: tau(residuals[half::2]), torch.float64)


# -- scores --------------------------------------------------------------------------------------


def scores_of_numbers(likelihood: Any, passes: Passes, few: str | None) -> dict[str, Any]:
    """What a report has of real-valued labels alone: σ in their units, and variances, means over
    the rows."""
    bma = passes.said["bma"]
    aleatoric, epistemic = float(bma.aleatoric.mean()), float(bma.epistemic.mean())
    variance = {"total": aleatoric + epistemic, "aleatoric": aleatoric, "epistemic": epistemic}
    others = {name: said.mean for name, said in passes.said.items() if name != "bma"}
    differences = {k: spearman_difference(bma.mean, own, bma.labels) for k, own in others.items()}
    return {
        "selective": {"bma_epistemic": sureness(bma)},
        "noise_std": likelihood.std,
        "variance": variance,
        "coverage": {name: coverage_table(said) for name, said in passes.said.items()},
        "bma_minus_spearman": {
            name: {**vars(d), "no_interval": None if math.isfinite(d.low) else few or CONSTANT}
            for name, d in differences.items()
        },
    }


def correlations(one: Tensor, other: Tensor, names: str = "outputs or labels") -> dict[str, float]:
    """`spearman` and `pearson` of `one` [n] and the `other` [n]; raises `Undefined`, with what they
    are by the `names`, where there are none."""
    x, y = one.double().numpy(), other.double().numpy()
    if len(x) < 2:
        raise Undefined("a correlation needs two rows or more")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise Undefined(f"some {names} are not finite")
    found = {"spearman": float(spearman(x, y)), "pearson": float(_pearson(x, y))}
    if not all(map(math.isfinite, found.values())):
        raise Undefined(f"the {names} do not vary")
    return found


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis: [..., n] twice -> [...]. Ties share their
    mean rank; NaN where one of both does not vary."""
    return _pearson(stats.rankdata(first, axis=-1), stats.rankdata(second, axis=-1))


def _pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():  # what does not vary has no number, which is enough
        constant = (stats.ConstantInputWarning, stats.NearConstantInputWarning)
        warnings.simplefilter("ignore", constant)
        return np.asarray(stats.pearsonr(first, second, axis=-1).statistic)


def spearman_difference(first: Tensor, second: Tensor, labels: Tensor) -> Interval:
    """Spearman's correlation of `first` with `labels` minus that of `second`, all [n].

    Rows are resampled (paired percentile bootstrap). Where outputs or labels do not vary there is
    no number, and where they do not in some resample, no interval.
    """
    y, a, b = (values.double().numpy() for values in (labels, first, second))

    def of_rows(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(spearman(a[chosen], y[chosen]) - spearman(b[chosen], y[chosen]))[None]

    rows = np.arange(len(y))
    if len(y) < 2 or not np.isfinite(of_rows(rows)):
        return Interval(math.nan, math.nan, math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return metrics.percentile_intervals(of_rows, (rows,), resamples=RESAMPLES, batch=BATCH)[0]


def covered(pit: Tensor, level: float) -> float:
    """Share of the labels inside their central interval of probability `level`."""
    return float(((pit - 0.5).abs() <= level / 2).double().mean())


def coverage_table(predicted: Predicted) -> list[dict[str, float]]:
    """The central intervals of `SHOWN_LEVELS`: each `level`, the share of labels that they hold
    (`coverage`), and their mean `width` in units of the labels."""
    table = []
    for level in SHOWN_LEVELS:
        ends = (block.interval(level) for block in predicted.mixture.blocks())
        width = sum(float((high - low).sum()) for low, high in ends) / len(predicted.pit)
        table.append({"level": level, "coverage": covered(predicted.pit, level), "width": width})
    return table


def sureness(predicted: Predicted) -> dict[str, Any]:
    """How well the epistemic sd of the mixture ranks the errors of its mean, plain data.

    `rmse`: at each of `coverages`, the rows with the largest sd left out; `rmse_random`: the same
    of a random order, whatever the coverage. `spearman`, `pearson`: correlations of |error| with
    the sd; `no_correlation`: why there are none, or None. Rows of equal sd are taken in random
    order, and the squared error is its expectation over that order, exactly.
    """
    errors = (predicted.mean - predicted.labels.double()).abs()
    sd = predicted.epistemic.sqrt()
    order, edges = ranked(sd.numpy())
    squared = np.append(0, np.square(errors.numpy()[order]).cumsum())
    kept = np.array(COVERAGES) * len(order)
    # within a tie the expected sum grows along a line, so that interpolation is exact
    sums = np.interp(kept, edges, squared[edges])
    found: dict[str, Any] = {
        "predictor": "bma",
        "coverages": list(COVERAGES),
        "rmse": np.sqrt(sums / kept).tolist(),
        "rmse_random": float(errors.square().mean().sqrt()),
        **dict.fromkeys(("spearman", "pearson", "no_correlation")),
    }
    try:
        return found | correlations(errors, sd, "errors or epistemic sds")
    except Undefined as why:
        return found | {"no_correlation": str(why)}
