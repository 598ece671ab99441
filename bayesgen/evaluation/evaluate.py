"""Score a split: every target token once, five predictors side by side on the same tokens.

- `deterministic`: the weights that the chain started from;
- `temperature_scaled`: the same with one temperature, fitted on training text or validation rows;
- `posterior_mean`: the mean of the draws' weights;
- `mean_of_draws`: the average of the draws' own scores (perplexity: exp of the mean NLL);
- `bma`: the mixture over the draws, the Bayesian model average.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from bayesgen.data.windows import Rows
from bayesgen.evaluation.cache import Passes, TokenCache
from bayesgen.evaluation.intervals import Interval, paired_difference
from bayesgen.evaluation.passes import (
    Advance,
    Scored,
    Split,
    max_batch,
    mixture,
    progress_bar,
    single,
    singles,
)
from bayesgen.evaluation.scaling import fit_temperature
from bayesgen.evaluation.selective import (
    RiskCoverage,
    accuracy_difference,
    accuracy_interval,
    aurc_difference,
    aurc_interval,
    risk_coverage,
)
from bayesgen.evaluation.tokens import Scores
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward, Predictive

PREDICTORS = ("deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma")
CURVE_POINTS = 21
COVERAGE = 0.8
"""Share of labelled rows, the most certain ones, whose accuracy is told."""
ONE_WINDOW = "an interval needs two windows or more"


@dataclass(frozen=True)
class Entropy:
    """Mean over tokens, in nats: H[p̄], mean_s H[p_s], and their difference, the mutual
    information of token and weights (Depeweg et al. 2018, https://arxiv.org/abs/1710.07283)."""

    total: float
    aleatoric: float
    epistemic: float


@dataclass(frozen=True)
class Selective:
    """Token errors of a predictor, ranked by one of its uncertainties.

    Attributes:
        predictor: whose errors.
        curve: risk against coverage.
        aurc: with its interval over windows.
        minus_deterministic: AURC minus that of the deterministic predictor by its entropy.
        accuracy_at_80: accuracy among the 80 % most certain rows, of labelled examples; None of
            text.
        accuracy_at_80_minus_max_probability: that minus the deterministic predictor's by its
            largest probability.
        no_interval: why there is none, or None.
    """

    predictor: str
    curve: RiskCoverage
    aurc: Interval | None
    minus_deterministic: Interval | None
    accuracy_at_80: Interval | None
    accuracy_at_80_minus_max_probability: Interval | None
    no_interval: str | None

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Selective:
        """From what `asdict` makes of it."""
        intervals = {
            f.name: Interval(**content[f.name]) if content[f.name] else None
            for f in fields(cls)
            if f.name not in {"predictor", "curve", "no_interval"}
        }
        curve = RiskCoverage(**content["curve"])
        return cls(**content | {"curve": curve, **intervals})


@dataclass(frozen=True)
class SplitReport:
    """The scores of one split.

    Attributes:
        temperature: τ of `temperature_scaled`; the mean of two where it was cross-fitted.
        reliability: predictor -> the bins of its reliability diagram.
        by_draws: number of draws -> scores of their mixture.
        selective: uncertainty -> how well it ranks the token errors.
        window_nll: predictor -> summed NLL of each window [windows], float64, in nats.
        window_tokens: targets of each window [windows].
        differences: predictor -> the mixture's NLL minus the predictor's.
        macro_f1: predictor -> mean over the classes of F1, of labelled examples; None of text.
        key: of the passes in the cache.
    """

    num_tokens: int
    num_draws: int
    temperature: float
    predictors: dict[str, Scores]
    reliability: dict[str, dict[str, list[float | None]]]
    entropy: Entropy
    by_draws: dict[int, Scores]
    selective: dict[str, Selective]
    window_nll: dict[str, Tensor]
    window_tokens: Tensor
    differences: dict[str, Interval]
    macro_f1: dict[str, float] | None = None
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        no_interval = ONE_WINDOW if len(self.window_tokens) < 2 else None
        return {
            "num_tokens": self.num_tokens,
            "num_draws": self.num_draws,
            "num_windows": len(self.window_tokens),
            "fitted_temperature": self.temperature,
            "predictors": {name: vars(s) for name, s in self.predictors.items()},
            "reliability": self.reliability,
            "entropy": vars(self.entropy),
            "by_num_draws": [{"draws": k, **vars(s)} for k, s in sorted(self.by_draws.items())],
            **({} if self.macro_f1 is None else {"macro_f1": self.macro_f1}),
            "selective": {name: asdict(s) for name, s in self.selective.items()},
            "bma_minus": {
                name: {**vars(d), "no_interval": no_interval}
                for name, d in self.differences.items()
            },
        }


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
    """Score all five predictors on `windows`.

    Args:
        held_in: training text or validation rows, to fit a temperature on.
        max_windows: score this many windows, evenly spaced, instead of all.
        cache: where what the networks said is kept and looked for.
        progress: title of a progress bar, or None for none.
    """
    passes, split = run_passes(
        predictive, windows, held_in,
        batch_size=batch_size, max_windows=max_windows, cache=cache, progress=progress,
    )  # fmt: skip
    mixed, singles = passes.mixed, passes.singles
    scored = {**singles, "bma": mixed.bma}
    scores = {name: s.scores for name, s in scored.items()} | {"mean_of_draws": mixed.draws}
    window_nll = {name: s.window_nll for name, s in scored.items()}
    window_nll["mean_of_draws"] = mixed.draws_window_nll
    ranked = partial(_selective, passes, split, progress)
    key = "" if cache is None else passes_key(cache, predictive, split, held_in)
    selective = ranked() if cache is None else cache.plain(f"{key}.selective", ranked)
    total = mixed.bma.tally.mean_entropy
    aleatoric = float(mixed.aleatoric.mean())
    return SplitReport(
        num_tokens=mixed.bma.tally.tokens,
        num_draws=len(predictive.posterior),
        temperature=passes.temperature,
        predictors={name: scores[name] for name in PREDICTORS},
        reliability={name: s.tally.reliability() for name, s in scored.items()},
        entropy=Entropy(total, aleatoric, total - aleatoric),
        by_draws=mixed.by_draws,
        selective={name: Selective.from_json(s) for name, s in selective.items()},
        window_nll={name: window_nll[name] for name in PREDICTORS},
        window_tokens=split.tokens,
        differences={
            name: paired_difference(window_nll["bma"], window_nll[name], split.tokens)
            for name in PREDICTORS
            if name != "bma"
        },
        macro_f1=_macro_f1(scored, split),
        key=key,
    )


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
    """What the checkpoint and all draws say of `windows`; see `evaluate_split`."""
    posterior, forward = predictive.posterior, predictive.forward
    split = Split.of(windows, batch_size, max_windows, forward.device)
    key = ""
    if cache is not None:
        key = passes_key(cache, predictive, split, held_in)
        kept = cache.read(key)
        if kept is not None:
            return kept, split
    forward.load(predictive.model.theta)
    split = replace(split, batch_size=min(batch_size, max_batch(forward, split)))
    try:
        with progress_bar(progress, (len(posterior) + 3) * len(split.indices)) as advance:
            passes = _passes(predictive, split, held_in, cache, advance)
        if cache is not None:
            cache.write(key, passes)
    finally:
        if cache is not None:
            cache.drop_unfinished()
    return passes, split


def passes_key(cache: TokenCache, predictive: Predictive, split: Split, held_in: Rows) -> str:
    """Name of these passes in the cache."""
    return cache.key(split, held_in, predictive)


def score_checkpoint(model: FunctionalModel, windows: Rows, *, batch_size: int = 64) -> Scored:
    """A model's own weights on `windows`: what `deterministic` is for a chain that starts there."""
    forward = Forward(model)
    forward.load(model.theta)
    split = Split.of(windows, batch_size, None, model.device)
    split = replace(split, batch_size=min(batch_size, max_batch(forward, split)))
    return single(forward, split, model.theta, lambda _: None)


def _passes(
    predictive: Predictive,
    split: Split,
    held_in: Rows,
    cache: TokenCache | None,
    advance: Advance,
) -> Passes:
    model, posterior, forward = predictive.model, predictive.posterior, predictive.forward
    forward.load(model.theta)
    taus = _temperatures(forward, split, held_in)
    tau = float(taus.mean())
    weights: dict[str, tuple[Tensor, Tensor | None]] = {
        "deterministic": (model.theta, None),
        "temperature_scaled": (model.theta, taus),
        "posterior_mean": (posterior.mean().to(model.device), None),
    }
    alone = singles(forward, split, weights, advance)
    if cache is None:
        return Passes(tau, alone, mixture(forward, split, posterior, advance))
    with cache.log_likelihoods(len(posterior), split.tokens_back) as keep:
        return Passes(tau, alone, mixture(forward, split, posterior, advance, keep))


def _temperatures(forward: Forward, split: Split, held_in: Rows) -> Tensor:
    """τ for each scored window [W], fitted on held-in data that is not scored with it.

    Where the held-in data themselves are scored, each half of the windows has the temperature of
    the other half (cross-fitting); a window that is alone there has 1.
    """
    count = len(split.indices)
    if not split.windows.overlaps(held_in):
        return torch.full((count,), fit_temperature(forward, held_in, split.batch_size))
    taus = torch.ones(count)
    for half in (0, 1) if count > 1 else ():
        other = split.windows.take(split.indices[1 - half :: 2])
        taus[half::2] = fit_temperature(forward, other, split.batch_size)
    return taus


def _macro_f1(scored: dict[str, Scored], split: Split) -> dict[str, float] | None:
    classes = split.windows.num_classes
    if classes is None:
        return None
    parts = split.indices.split(1024)
    labels = torch.cat([split.windows.batch(part.numpy())["labels"] for part in parts])
    return {
        name: float(multiclass_f1_score(s.tokens.guess, labels, classes, average="macro"))
        for name, s in scored.items()
    }


def _selective(passes: Passes, split: Split, progress: str | None) -> dict[str, Any]:
    """How well each uncertainty ranks the errors of its predictor's tokens."""
    windows = torch.arange(len(split.tokens)).repeat_interleave(split.tokens)
    deterministic, bma = passes.singles["deterministic"].tokens, passes.mixed.bma.tokens
    total = bma.entropy.double()
    reference = (~deterministic.correct, deterministic.entropy.double())
    best_known = (~deterministic.correct, -deterministic.confidence.double())
    ranked = {
        "deterministic_entropy": ("deterministic", *reference),
        "deterministic_max_probability": ("deterministic", *best_known),
        "bma_total": ("bma", ~bma.correct, total),
        "bma_epistemic": ("bma", ~bma.correct, total - passes.mixed.aleatoric),
        "bma_max_probability": ("bma", ~bma.correct, -bma.confidence.double()),
    }
    several, labelled = len(split.tokens) > 1, split.windows.num_classes is not None
    found = {}
    title = progress and f"{progress}: intervals"
    with progress_bar(title, len(ranked), "uncertainty") as advance:
        for name, (predictor, *own) in ranked.items():
            errors, uncertainty = own
            aurc = minus = accuracy = accuracy_minus = None
            if several:
                aurc = aurc_interval(errors, uncertainty, windows)
                minus = aurc_difference((errors, uncertainty), reference, windows)
            if several and labelled:
                accuracy = accuracy_interval(errors, uncertainty, windows, COVERAGE)
                accuracy_minus = accuracy_difference(
                    (errors, uncertainty), best_known, windows, COVERAGE
                )
            found[name] = asdict(
                Selective(
                    predictor,
                    risk_coverage(errors, uncertainty, CURVE_POINTS),
                    aurc,
                    minus,
                    accuracy,
                    accuracy_minus,
                    None if several else ONE_WINDOW,
                )
            )
            advance(1)
    return found
