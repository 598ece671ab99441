"""Score a split whose labels are real numbers: every row once, five predictors side by side.

- `deterministic`: the weights that the chain started from, N(f(x, θ₀), σ²);
- `temperature_scaled`: the same with its variance multiplied by one number, fitted on held-in rows;
- `posterior_mean`: the mean of the draws' weights, N(f(x, θ̄), σ²);
- `mean_of_draws`: the average of the draws' own scores;
- `bma`: the mixture over the draws, 1/S Σ_s N(f(x, θ_s), σ²).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.draws import Draws
from bayesgen.evaluation.cache import TokenCache
from bayesgen.evaluation.evaluate import ONE_WINDOW, PREDICTORS, passes_key
from bayesgen.evaluation.intervals import Interval, paired_difference, percentile_interval
from bayesgen.evaluation.passes import (
    STEPS,
    Advance,
    Split,
    draw_order,
    progress_bar,
    readings,
)
from bayesgen.evaluation.scaling import MAX_EXAMPLES
from bayesgen.evaluation.scores import (
    Coverage,
    LabelScores,
    Predicted,
    Sureness,
    coverage_table,
    spearman,
    sureness,
)
from bayesgen.likelihoods import Gaussian
from bayesgen.predictive import Forward, Predictive
from bayesgen.predictive.gaussian import GaussianMixture

RESAMPLES = 1000
"""Of a difference of rank correlations, which is slower than one of means."""
BATCH = 10
"""Resamples that are ranked at once."""
CONSTANT = "the outputs or the labels do not vary in some resample"
LEAST_TAU = 1e-6
"""Of `temperature_scaled`, where the residuals are all zero."""


@dataclass(frozen=True)
class Outputs:
    """What the networks put out for the rows of a split, and the labels; all float32, on the CPU.

    Attributes:
        labels: [n].
        deterministic, posterior_mean: means of the labels [n].
        draws: the same of every draw, in the order of the run, [S, n].
        residuals: label minus the deterministic mean of each held-in row [m]; none where these are
            among the rows that are scored.
    """

    labels: Tensor
    deterministic: Tensor
    posterior_mean: Tensor
    draws: Tensor
    residuals: Tensor


@dataclass(frozen=True)
class Variance:
    """Mean over the rows of the variance of a label, in squared units of the labels: that of the
    mixture, σ² of the noise, and their difference, the variance of the draws' outputs."""

    total: float
    aleatoric: float
    epistemic: float


@dataclass(frozen=True)
class LabelReport:
    """The scores of one split with real-valued labels.

    Attributes:
        num_tokens: labels that were scored, one a row.
        noise_std: σ, in units of the labels.
        temperature: of `temperature_scaled`, multiplies σ²; the mean of two where it was
            cross-fitted.
        by_draws: number of draws -> scores of their mixture.
        coverage: predictor -> its central intervals.
        selective: uncertainty -> how well it ranks the errors.
        window_nll: predictor -> NLL of each row [n], float64, in nats.
        window_tokens: ones [n].
        differences: predictor -> the mixture's NLL minus the predictor's.
        spearman_differences: the same of Spearman's correlation; without `mean_of_draws`.
        key: of the outputs in the cache.
    """

    num_tokens: int
    num_draws: int
    noise_std: float
    temperature: float
    predictors: dict[str, LabelScores]
    variance: Variance
    by_draws: dict[int, LabelScores]
    coverage: dict[str, list[Coverage]]
    selective: dict[str, Sureness]
    window_nll: dict[str, Tensor]
    window_tokens: Tensor
    differences: dict[str, Interval]
    spearman_differences: dict[str, Interval]
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        why = ONE_WINDOW if len(self.window_tokens) < 2 else CONSTANT

        def intervals(found: dict[str, Interval]) -> dict[str, Any]:
            return {
                name: {**vars(d), "no_interval": None if math.isfinite(d.low) else why}
                for name, d in found.items()
            }

        return {
            "num_tokens": self.num_tokens,
            "num_draws": self.num_draws,
            "num_windows": len(self.window_tokens),
            "noise_std": self.noise_std,
            "fitted_temperature": self.temperature,
            "predictors": {name: vars(s) for name, s in self.predictors.items()},
            "variance": vars(self.variance),
            "by_num_draws": [{"draws": k, **vars(s)} for k, s in sorted(self.by_draws.items())],
            "coverage": {name: [vars(c) for c in table] for name, table in self.coverage.items()},
            "selective": {name: asdict(s) for name, s in self.selective.items()},
            "bma_minus": intervals(self.differences),
            "bma_minus_spearman": intervals(self.spearman_differences),
        }


def evaluate_labels(
    predictive: Predictive,
    rows: Rows,
    held_in: Rows,
    *,
    batch_size: int = 64,
    max_windows: int | None = None,
    cache: TokenCache | None = None,
    progress: str | None = None,
) -> LabelReport:
    """Score all five predictors on `rows`, whose labels [n] are real numbers.

    Args:
        held_in: rows that the variance of `temperature_scaled` is fitted on.
        max_windows: score this many rows, evenly spaced, instead of all.
        cache: where the networks' outputs are kept and looked for.
        progress: title of a progress bar, or None for none.

    Raises:
        ValueError: the model's likelihood is no Gaussian, or a label is not finite.
    """
    likelihood = predictive.model.likelihood
    if not isinstance(likelihood, Gaussian):
        raise ValueError(f"the labels of a {predictive.model.info.task} model are no real numbers")
    std = likelihood.std
    split = Split.of(rows, batch_size, max_windows, predictive.forward.device)
    outputs, key = run_outputs(predictive, split, held_in, cache=cache, progress=progress)
    labels, draws = outputs.labels, outputs.draws
    taus = _taus(outputs, std)
    mixtures = {
        "deterministic": GaussianMixture.of(outputs.deterministic[None], std),
        "temperature_scaled": GaussianMixture.of(outputs.deterministic[None], std * taus.sqrt()),
        "posterior_mean": GaussianMixture.of(outputs.posterior_mean[None], std),
        "bma": GaussianMixture.of(draws, std),
    }
    said = {name: Predicted.of(mixture, labels) for name, mixture in mixtures.items()}
    each = [Predicted.of(GaussianMixture.of(draw[None], std), labels) for draw in draws]
    scores = {name: p.scores(labels) for name, p in said.items()}
    scores["mean_of_draws"] = LabelScores.mean_of([p.scores(labels) for p in each])
    window_nll = {name: -p.log_likelihood for name, p in said.items()}
    window_nll["mean_of_draws"] = -torch.stack([p.log_likelihood for p in each]).mean(0)
    bma, ones = said["bma"], torch.ones(len(labels), dtype=torch.int64)
    others = [name for name in PREDICTORS if name != "bma"]
    variances = float(bma.aleatoric.mean()), float(bma.epistemic.mean())
    return LabelReport(
        num_tokens=len(labels),
        num_draws=len(draws),
        noise_std=std,
        temperature=float(taus.mean()),
        predictors={name: scores[name] for name in PREDICTORS},
        variance=Variance(sum(variances), *variances),
        by_draws=_by_draws(draws, std, labels) | {len(draws): scores["bma"]},
        coverage={name: coverage_table(m, said[name].pit) for name, m in mixtures.items()},
        selective={"bma_epistemic": sureness(bma, labels)},
        window_nll={name: window_nll[name] for name in PREDICTORS},
        window_tokens=ones,
        differences={
            name: paired_difference(window_nll["bma"], window_nll[name], ones) for name in others
        },
        spearman_differences={
            name: _spearman_difference(bma.mean, said[name].mean, labels)
            for name in others
            if name in said
        },
        key=key,
    )


def run_outputs(
    predictive: Predictive,
    split: Split,
    held_in: Rows,
    *,
    cache: TokenCache | None = None,
    progress: str | None = None,
) -> tuple[Outputs, str]:
    """What the checkpoint and all draws put out for the rows of `split`, and their name in the
    cache; see `evaluate_labels`."""
    scored = split.windows.overlaps(held_in)
    make = partial(_run, predictive, split, None if scored else held_in, progress)
    if cache is None:
        return Outputs(**make()), ""
    key = passes_key(cache, predictive, split, held_in)
    return Outputs(**cache.tensors(f"{key}.outputs", make)), key


def _run(
    predictive: Predictive, split: Split, held_in: Rows | None, progress: str | None
) -> dict[str, Tensor]:
    model, posterior = predictive.model, predictive.posterior
    # as many as a temperature of classes is fitted on
    near = (
        None if held_in is None else Split.of(held_in, split.batch_size, MAX_EXAMPLES, split.device)
    )
    total = (len(posterior) + 2) * len(split.indices) + (len(near.indices) if near else 0)
    forward = predictive.forward
    with progress_bar(progress, total) as advance:
        alone = [model.theta, posterior.mean().to(model.device)]
        deterministic, mean = _outputs(forward, split, alone, advance)
        residuals = torch.zeros(0)
        if near is not None:
            residuals = _labels(near) - _outputs(forward, near, [model.theta], advance)[0]
        draws = _outputs(forward, split, posterior, advance)
    return {
        "labels": _labels(split),
        "deterministic": deterministic.clone(),
        "posterior_mean": mean.clone(),
        "draws": draws,
        "residuals": residuals,
    }


def _outputs(
    forward: Forward, split: Split, weights: Draws | list[Tensor], advance: Advance
) -> Tensor:
    """What the network puts out for each row under each of `weights` [P]: [weights, n].

    Args:
        weights: are gone through once for each block of rows.
    """
    blocks = []
    for reading in readings(forward, split, len(split.indices), forward.outputs):
        found: list[Tensor] = []
        for theta in weights:
            forward.load(theta)
            parts = []
            for _, labels, outputs in reading:
                parts.append(outputs.flatten().cpu())
                advance(len(labels))
            found.append(torch.cat(parts))
        blocks.append(torch.stack(found))
    return torch.cat(blocks, 1)[:, split.windows_back]


def _labels(split: Split) -> Tensor:
    labels = torch.cat([batch["labels"].cpu() for batch in split.batches(split.indices)]).float()
    if not labels.isfinite().all():
        raise ValueError("a label is not finite")
    return labels


def _taus(outputs: Outputs, std: float) -> Tensor:
    """What the variance σ² of each row [n] is multiplied by, fitted on rows that are not scored
    with it: of highest likelihood is the mean squared residual / σ².

    Where the held-in rows themselves are scored, each half of the rows has the number of the other
    half (cross-fitting); a row that is alone there has 1.
    """
    count = len(outputs.labels)
    if len(outputs.residuals):
        return _tau(outputs.residuals, std).expand(count)
    residuals = outputs.labels - outputs.deterministic
    taus = torch.ones(count, dtype=torch.float64)
    for half in (0, 1) if count > 1 else ():
        taus[half::2] = _tau(residuals[1 - half :: 2], std)
    return taus


def _tau(residuals: Tensor, std: float) -> Tensor:
    return (residuals.double().square().mean() / std**2).clamp(min=LEAST_TAU)


def _by_draws(draws: Tensor, std: float, labels: Tensor) -> dict[int, LabelScores]:
    """The mixture of the first few draws, in the order of `draw_order`."""
    order = list(draw_order(len(draws)))
    return {
        k: Predicted.of(GaussianMixture.of(draws[order[:k]], std), labels).scores(labels)
        for k in STEPS
        if k < len(draws)
    }


def _spearman_difference(first: Tensor, second: Tensor, labels: Tensor) -> Interval:
    """Spearman's correlation of `first` with `labels` minus that of `second`, all [n].

    Rows are resampled (paired percentile bootstrap). Where outputs or labels do not vary there is
    no number, and where they do not in some resample, no interval.
    """
    y, a, b = (values.double().numpy() for values in (labels, first, second))

    def of_rows(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(spearman(a[chosen], y[chosen]) - spearman(b[chosen], y[chosen]))

    rows = np.arange(len(y))
    if len(y) < 2 or not math.isfinite(float(of_rows(rows))):
        return Interval(math.nan, math.nan, math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return percentile_interval(of_rows, (rows,), resamples=RESAMPLES, batch=BATCH, seed=0)
