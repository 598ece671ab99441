"""What the checkpoint and all draws say of a split, for every kind of label.

- `deterministic`: the weights that the chain started from;
- `temperature_scaled`: the same with one temperature, fitted on held-in data: it divides the logits
  of classes and multiplies the variance of real-valued labels;
- `posterior_mean`: the mean of the draws' weights;
- `mean_of_draws`: the average of the draws' own scores (perplexity: exp of the mean NLL);
- `bma`: the mixture over the draws, the Bayesian model average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation import classes
from bayesgen.evaluation.cache import Keep, Passes, TokenCache
from bayesgen.evaluation.classes import score_mixture, score_weights
from bayesgen.evaluation.metrics import averaged, measured
from bayesgen.evaluation.nll import densities
from bayesgen.evaluation.numbers import Predicted
from bayesgen.evaluation.scaling import MAX_EXAMPLES, fit_temperature
from bayesgen.evaluation.tokens import Scored, TokenScores
from bayesgen.evaluation.walk import (
    STEPS,
    Advance,
    Split,
    Weights,
    draw_order,
    each_number,
    progress_bar,
)
from bayesgen.likelihoods import Gaussian
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward, Predictive
from bayesgen.predictive.gaussian import GaussianMixture
from bayesgen.predictive.mixture import log_mean

LEAST_TAU = 1e-6
"""Of the variance of real-valued labels, where the residuals are all zero."""


def run_passes(
    predictive: Predictive,
    windows: Rows,
    held_in: Rows,
    *,
    batch_size: int = 64,
    max_windows: int | None = None,
    cache: TokenCache | None = None,
    progress: str | None = None,
) -> tuple[Passes, Split]:
    """What the checkpoint and all draws say of `windows`; see `evaluate.evaluate_split`.

    Raises:
        ValueError: a real-valued label is not finite.
    """
    model, forward = predictive.model, predictive.forward
    split = Split.of(windows, batch_size, max_windows, forward.device, model.likelihood)
    key = "" if cache is None else cache.key(split, held_in, predictive)
    if split.kind in {"token", "class"}:
        return _of_classes(predictive, split, held_in, cache, key, progress), split
    make = partial(_read, predictive, split, held_in, progress)
    found = make() if cache is None else cache.tensors(f"{key}.outputs", make)
    return _made_of(predictive, split, found), split


def score_checkpoint(model: FunctionalModel, windows: Rows, *, batch_size: int = 64) -> Scored:
    """A model's own weights on `windows` of tokens or classes: what `deterministic` is for a chain
    that starts there."""
    forward = Forward(model)
    forward.load(model.theta)
    split = _fitting(forward, Split.of(windows, batch_size, None, model.device))
    return score_weights(forward, split, {"": (model.theta, None)})[""]


# -- classes and tokens --------------------------------------------------------------------------


def _of_classes(
    predictive: Predictive,
    split: Split,
    held_in: Rows,
    cache: TokenCache | None,
    key: str,
    progress: str | None,
) -> Passes:
    kept = None if cache is None else cache.read(key)
    if kept is not None:
        return kept
    model, posterior, forward = predictive.model, predictive.posterior, predictive.forward
    forward.load(model.theta)
    split = _fitting(forward, split)

    def passes(advance: Advance, keep: Keep | None) -> Passes:
        forward.load(model.theta)
        taus = _temperatures(forward, split, held_in)
        alone = {
            "deterministic": (model.theta, None),
            "temperature_scaled": (model.theta, taus),
            "posterior_mean": (posterior.mean().to(model.device), None),
        }
        said = score_weights(forward, split, alone, advance)

        def each(draw: int, first: int, scores: TokenScores) -> None:
            if keep is not None:
                keep(draw, first, scores.log_likelihood)

        order = draw_order(len(posterior))
        mixed = score_mixture(forward, split, posterior, order, advance, each)
        return replace(mixed, temperature=float(taus.mean()), said=said | mixed.said)

    total = (len(posterior) + 3) * len(split.indices)
    with progress_bar(progress, total, split.unit) as advance:
        if cache is None:
            return passes(advance, None)
        try:
            with cache.log_likelihoods(len(posterior), split.tokens_back) as keep:
                found = passes(advance, keep)
            cache.write(key, found)
        finally:
            cache.drop_unfinished()
    return found


def _fitting(forward: Forward, split: Split) -> Split:
    """`split` in batches of as many rows as may be read at once, by what the network says of all
    its positions, or of those that are asked for: at least one."""
    first = forward.log_probs(split.windows.batch(torch.arange(1)))
    one = max(first.numel(), first.shape[-1] * int(split.tokens.max()))
    return replace(split, batch_size=min(split.batch_size, max(1, classes.MAX_ELEMENTS // one)))


def _temperatures(forward: Forward, split: Split, held_in: Rows) -> Tensor:
    """τ for each scored row [W], fitted on held-in data that is not scored with it.

    Where the held-in data themselves are scored, each half of the rows has the temperature of the
    other half (cross-fitting); a row that is alone there has 1.
    """
    count = len(split.indices)
    if not split.windows.overlaps(held_in):
        return torch.full((count,), fit_temperature(forward, held_in, split.batch_size))

    def of_half(half: int) -> float:
        other = split.windows.take(split.indices[half::2])
        return fit_temperature(forward, other, split.batch_size)

    return _cross_fitted(count, of_half, torch.float32)


def _cross_fitted(
    count: int, of_half: Callable[[int], float | Tensor], dtype: torch.dtype
) -> Tensor:
    """[count] numbers: those of each half are `of_half` of the other; 1 where there is none."""
    found = torch.ones(count, dtype=dtype)
    for half in (0, 1) if count > 1 else ():
        found[half::2] = of_half(1 - half)
    return found


# -- real-valued labels, and likelihoods of the user's own ----------------------------------------


@dataclass(frozen=True)
class Densities:
    """What one predictor said, where a likelihood gives the density of what was seen alone.

    Attributes:
        window_nll: NLL of each row [W], float64, in nats.
        observations: in all rows.
    """

    window_nll: Tensor
    observations: int

    @property
    def nll(self) -> float:
        return float(self.window_nll.sum()) / self.observations


def _read(
    predictive: Predictive, split: Split, held_in: Rows, progress: str | None
) -> dict[str, Tensor]:
    """A number of each row by `deterministic` and `posterior_mean` [W], and by every draw in the
    order of the run, `draws` [S, W]: the mean of its label, or its log-likelihood, in nats.

    Of real-valued labels also the `labels` [W] and the `residuals`, label minus the deterministic
    mean of each held-in row [m]: none where these are among the rows that are scored.
    """
    model, posterior, forward = predictive.model, predictive.posterior, predictive.forward
    numbers, near, labels = split.kind == "number", None, torch.zeros(0)
    if numbers:
        labels = _finite(split)
        if not split.windows.overlaps(held_in):
            # as many as a temperature of classes is fitted on
            near = Split.of(held_in, split.batch_size, MAX_EXAMPLES, split.device, model.likelihood)
    total = (len(posterior) + 2) * len(split.indices) + (len(near.indices) if near else 0)
    with progress_bar(progress, total, split.unit) as advance:

        def read(rows: Split, weights: Weights) -> Tensor:
            if numbers:
                return each_number(forward, rows, weights, lambda out, _: out.flatten(), advance)
            return densities(forward, rows, model.likelihood, weights, advance)

        alone = read(split, [model.theta, posterior.mean().to(model.device)])
        residuals = _finite(near) - read(near, [model.theta])[0] if near else torch.zeros(0)
        draws = read(split, posterior)
    found = {"deterministic": alone[0].clone(), "posterior_mean": alone[1].clone(), "draws": draws}
    return found | ({"labels": labels, "residuals": residuals} if numbers else {})


def _made_of(predictive: Predictive, split: Split, found: Mapping[str, Tensor]) -> Passes:
    """The passes, of what `_read` found."""
    likelihood, draws = predictive.model.likelihood, found["draws"]
    taus, said = None, {}
    if isinstance(likelihood, Gaussian):
        std, taus = likelihood.std, _variances(found, likelihood.std)

        def mixed(means: Tensor, sigma: float | Tensor = std) -> Any:
            return Predicted.of(GaussianMixture.of(means, sigma), found["labels"])

        said["temperature_scaled"] = mixed(found["deterministic"][None], std * taus.sqrt())
    else:

        def mixed(means: Tensor, sigma: float | Tensor = 0.0) -> Any:
            return Densities(-log_mean(means), int(split.tokens.sum()))

    for name in ("deterministic", "posterior_mean"):
        said[name] = mixed(found[name][None])
    said["bma"] = mixed(draws)
    alone = [mixed(draw[None]) for draw in draws]
    order = list(draw_order(len(draws)))
    first = {k: mixed(draws[order[:k]]) for k in STEPS if k < len(draws)}
    return Passes(
        None if taus is None else float(taus.mean()),
        said,
        None,
        averaged([measured(own, split) for own in alone], lambda values: float(np.mean(values))),
        torch.stack([own.window_nll for own in alone]).mean(0),
        {k: measured(own, split) for k, own in (first | {len(draws): said["bma"]}).items()},
    )


def _variances(found: Mapping[str, Tensor], std: float) -> Tensor:
    """What the variance σ² of each row [n] is multiplied by, fitted on rows that are not scored
    with it: of highest likelihood is the mean squared residual / σ². See `_temperatures`."""

    def tau(residuals: Tensor) -> Tensor:
        return (residuals.double().square().mean() / std**2).clamp(min=LEAST_TAU)

    count = len(found["labels"])
    if len(found["residuals"]):
        return tau(found["residuals"]).expand(count)
    residuals = found["labels"] - found["deterministic"]
    return _cross_fitted(count, lambda half: tau(residuals[half::2]), torch.float64)


def _finite(split: Split) -> Tensor:
    labels = split.labels.float()
    if not labels.isfinite().all():
        raise ValueError("a label is not finite")
    return labels
