"""Score a split: every observation once, five predictors side by side (see `run_passes`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation import classes
from bayesgen.evaluation.cache import Keep, TokenCache
from bayesgen.evaluation.classes import (
    Scored,
    TokenScores,
    fit_temperature,
    score_mixture,
    score_weights,
)
from bayesgen.evaluation.metrics import (
    ONE_WINDOW,
    Interval,
    Passes,
    Values,
    measured,
    paired_difference,
)
from bayesgen.evaluation.numbers import (
    CONSTANT,
    coverage_table,
    passes_of_numbers,
    read_numbers,
    spearman_difference,
    sureness,
)
from bayesgen.evaluation.selective import selective
from bayesgen.evaluation.walk import (
    Advance,
    Split,
    cross_fitted,
    draw_order,
    progress_bar,
)
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward, Predictive
from bayesgen.predictive.mixture import Uncertainty


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
        return _class_passes(predictive, split, held_in, cache, key, progress), split
    make = partial(read_numbers, predictive, split, held_in, progress)
    found = make() if cache is None else cache.tensors(f"{key}.outputs", make)
    return passes_of_numbers(predictive, split, found), split


def score_checkpoint(model: FunctionalModel, windows: Rows, *, batch_size: int = 64) -> Scored:
    """A model's own weights on `windows` of tokens or classes: what `deterministic` is for a chain
    that starts there."""
    forward = Forward(model)
    forward.load(model.theta)
    split = _fitting(forward, Split.of(windows, batch_size, None, model.device))
    return score_weights(forward, split, {"": (model.theta, None)})[""]


def _class_passes(
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

    return cross_fitted(count, of_half, torch.float32)


PREDICTORS = ("deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma")
NO_TEMPERATURE = "a likelihood of its own has no temperature to fit"


@dataclass(frozen=True)
class SplitReport:
    """The scores of one split; what its kind of labels does not have is None.

    Attributes:
        num_tokens: observations that were scored.
        temperature: of `temperature_scaled`; the mean of two where it was cross-fitted.
        predictors: predictor -> metric -> number, or None with a reason (see `metrics.METRICS`).
        by_draws: number of draws -> metrics of their mixture.
        window_nll: predictor -> summed NLL of each row [rows], float64, in nats.
        window_tokens: observations in each row [rows].
        differences: predictor -> the mixture's NLL minus the predictor's.
        selective: uncertainty -> how well it ranks the errors (`selective.selective`,
            `numbers.sureness`).
        reliability: of classes and tokens, predictor -> the bins of its reliability diagram.
        entropy: of the same: means over the observations.
        noise_std: of real-valued labels, σ in their units.
        variance: of the same: means over the rows.
        coverage: of the same, predictor -> its central intervals.
        spearman_differences: of the same: those of Spearman's correlation; without `mean_of_draws`.
        key: of the passes in the cache.
    """

    num_tokens: int
    num_draws: int
    temperature: float | None
    predictors: dict[str, Values]
    by_draws: dict[int, Values]
    window_nll: dict[str, Tensor]
    window_tokens: Tensor
    differences: dict[str, Interval]
    selective: dict[str, dict[str, Any]] | None = None
    reliability: dict[str, dict[str, list[float | None]]] | None = None
    entropy: Uncertainty | None = None
    noise_std: float | None = None
    variance: Uncertainty | None = None
    coverage: dict[str, list[dict[str, float]]] | None = None
    spearman_differences: dict[str, Interval] | None = None
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        """The split's part of an evaluation file."""
        few = ONE_WINDOW if len(self.window_tokens) < 2 else None
        content: dict[str, Any] = {
            "num_tokens": self.num_tokens,
            "num_draws": self.num_draws,
            "num_windows": len(self.window_tokens),
            "fitted_temperature": self.temperature,
            "predictors": {name: dict(values) for name, values in self.predictors.items()},
            "by_num_draws": [{"draws": k, **own} for k, own in sorted(self.by_draws.items())],
            "bma_minus": {
                name: {**vars(d), "no_interval": few} for name, d in self.differences.items()
            },
        }
        for name in ("selective", "reliability", "entropy", "noise_std", "variance", "coverage"):
            value = getattr(self, name)
            if value is not None:
                content[name] = vars(value) if isinstance(value, Uncertainty) else value
        if self.spearman_differences is not None:
            content["bma_minus_spearman"] = {
                name: {**vars(d), "no_interval": None if math.isfinite(d.low) else few or CONSTANT}
                for name, d in self.spearman_differences.items()
            }
        # macro-F1 has always had a place of its own in the file
        macro_f1 = {
            name: values.pop("macro_f1")
            for name, values in content["predictors"].items()
            if "macro_f1" in values
        }
        return content | ({"macro_f1": macro_f1} if macro_f1 else {})


def evaluate_split(
    predictive: Predictive,
    windows: Rows,
    held_in: Rows,
    *,
    batch_size: int = 64,
    max_windows: int | None = None,
    cache: TokenCache | None = None,
    progress: str | None = None,
) -> SplitReport:
    """Score all five predictors on `windows`, whatever their labels are.

    Under a likelihood of the user's own there is the NLL alone, and no `temperature_scaled`.

    Args:
        held_in: training text or validation rows, to fit a temperature on.
        max_windows: score this many rows, evenly spaced, instead of all.
        cache: where what the networks said is kept and looked for.
        progress: title of a progress bar, or None for none.

    Raises:
        ValueError: a real-valued label is not finite.
    """
    passes, split = run_passes(
        predictive, windows, held_in,
        batch_size=batch_size, max_windows=max_windows, cache=cache, progress=progress,
    )  # fmt: skip
    key = "" if cache is None else cache.key(split, held_in, predictive)
    said = passes.said
    values = {name: measured(own, split) for name, own in said.items()}
    values["mean_of_draws"] = passes.draws
    if "temperature_scaled" not in said:
        values["temperature_scaled"] = {"nll": None, "no_nll": NO_TEMPERATURE}
    nll = {name: own.window_nll for name, own in said.items()}
    nll["mean_of_draws"] = passes.draws_window_nll
    if split.kind in {"class", "token"}:
        more = _of_classes(passes, split, cache, key, progress)
    else:
        more = _of_numbers(predictive, passes) if split.kind == "number" else {}
    return SplitReport(
        num_tokens=int(split.tokens.sum()),
        num_draws=len(predictive.posterior),
        temperature=passes.temperature,
        predictors={name: values[name] for name in PREDICTORS},
        by_draws=passes.by_draws,
        window_nll={name: nll[name] for name in PREDICTORS if name in nll},
        window_tokens=split.tokens,
        differences={
            name: paired_difference(nll["bma"], nll[name], split.tokens)
            for name in PREDICTORS
            if name in nll and name != "bma"
        },
        key=key,
        **more,
    )


def _of_classes(
    passes: Passes, split: Split, cache: TokenCache | None, key: str, progress: str | None
) -> dict[str, Any]:
    """What a report has of classes and tokens alone."""
    assert passes.aleatoric is not None
    ranked = partial(selective, passes, split, progress)
    total, aleatoric = passes.said["bma"].tally.mean_entropy, float(passes.aleatoric.mean())
    return {
        "selective": ranked() if cache is None else cache.plain(f"{key}.selective", ranked),
        "reliability": {name: own.tally.reliability() for name, own in passes.said.items()},
        "entropy": Uncertainty(total, aleatoric, total - aleatoric),
    }


def _of_numbers(predictive: Predictive, passes: Passes) -> dict[str, Any]:
    """The same of real-valued labels."""
    likelihood: Any = predictive.model.likelihood
    said = passes.said
    bma = said["bma"]
    aleatoric, epistemic = float(bma.aleatoric.mean()), float(bma.epistemic.mean())
    return {
        "noise_std": likelihood.std,
        "variance": Uncertainty(aleatoric + epistemic, aleatoric, epistemic),
        "coverage": {name: coverage_table(own) for name, own in said.items()},
        "selective": {"bma_epistemic": sureness(bma)},
        "spearman_differences": {
            name: spearman_difference(bma.mean, own.mean, bma.labels)
            for name, own in said.items()
            if name != "bma"
        },
    }
