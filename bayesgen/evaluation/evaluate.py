"""Score a split: every target token once, five predictors side by side on the same tokens.

- `deterministic`: the checkpoint that the chain started from;
- `temperature_scaled`: the same with one temperature, fitted on training text;
- `posterior_mean`: the mean of the draws' weights;
- `mean_of_draws`: the average of the draws' own scores (perplexity: exp of the mean NLL);
- `bma`: the mixture over the draws, the Bayesian model average.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bayesgen.data.windows import Windows
from bayesgen.evaluation.intervals import Difference, paired_difference
from bayesgen.evaluation.scaling import fit_temperature
from bayesgen.evaluation.tokens import Scores, Tally, TokenScores
from bayesgen.likelihoods import IGNORED
from bayesgen.models import FunctionalModel
from bayesgen.posterior import Posterior
from bayesgen.predictive import Forward, Predictive

PREDICTORS = ("deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma")
MAX_ELEMENTS = 2**26
"""Mixture probabilities that are held at once (256 MiB of float32): a draw is loaded once for all
the windows whose [tokens, V] fit, so that memory does not grow with the draws or the split."""


@dataclass(frozen=True)
class Entropy:
    """Mean over tokens, in nats: H[p̄], mean_s H[p_s], and their difference, the mutual
    information of token and weights (Depeweg et al. 2018, https://arxiv.org/abs/1710.07283)."""

    total: float
    aleatoric: float
    epistemic: float


@dataclass(frozen=True)
class Scored:
    """One predictor on one split: headline numbers, and the summed NLL of each window [windows]."""

    scores: Scores
    window_nll: Tensor


@dataclass(frozen=True)
class SplitReport:
    """The scores of one split.

    Attributes:
        temperature: τ of `temperature_scaled`.
        window_nll: predictor -> summed NLL of each window [windows], float64, in nats.
        window_tokens: targets of each window [windows].
        differences: predictor -> the mixture's NLL minus the predictor's.
    """

    num_tokens: int
    num_draws: int
    temperature: float
    predictors: dict[str, Scores]
    entropy: Entropy
    window_nll: dict[str, Tensor]
    window_tokens: Tensor
    differences: dict[str, Difference]

    def to_json(self) -> dict[str, Any]:
        return {
            "num_tokens": self.num_tokens,
            "num_draws": self.num_draws,
            "num_windows": len(self.window_tokens),
            "fitted_temperature": self.temperature,
            "predictors": {name: vars(s) for name, s in self.predictors.items()},
            "entropy": vars(self.entropy),
            "bma_minus": {name: vars(d) for name, d in self.differences.items()},
        }


def evaluate_split(
    predictive: Predictive,
    windows: Windows,
    held_in: Windows,
    *,
    batch_size: int = 64,
    max_windows: int | None = None,
    progress: str | None = None,
) -> SplitReport:
    """Score all five predictors on `windows`.

    Args:
        held_in: training text, to fit a temperature on.
        max_windows: score this many windows, evenly spaced, instead of all.
        progress: title of a progress bar, or None for none.
    """
    posterior, model = predictive.posterior, predictive.model
    forward = Forward(model)
    forward.load(model.theta)
    batch_size = min(batch_size, max_batch(forward, windows))
    split = _Split.of(windows, batch_size, max_windows, model.device)
    bar = tqdm(
        total=(len(posterior) + 3) * len(split.indices),
        desc=progress,
        unit="window",
        unit_scale=True,
        disable=progress is None,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 30,
    )
    with bar:
        tau = fit_temperature(forward, held_in, batch_size)
        mean = posterior.mean().to(model.device)
        scored = {
            "deterministic": _single(forward, split, model.theta, 1.0, bar.update),
            "temperature_scaled": _single(forward, split, model.theta, tau, bar.update),
            "posterior_mean": _single(forward, split, mean, 1.0, bar.update),
        }
        mixed = _mixture(forward, split, posterior, bar.update)
    scored |= {"mean_of_draws": mixed.draws, "bma": mixed.bma}
    bma = mixed.bma.window_nll
    return SplitReport(
        num_tokens=mixed.num_tokens,
        num_draws=len(posterior),
        temperature=tau,
        predictors={name: scored[name].scores for name in PREDICTORS},
        entropy=mixed.entropy,
        window_nll={name: scored[name].window_nll for name in PREDICTORS},
        window_tokens=split.tokens,
        differences={
            name: paired_difference(bma, scored[name].window_nll, split.tokens)
            for name in PREDICTORS
            if name != "bma"
        },
    )


def score_checkpoint(model: FunctionalModel, windows: Windows, *, batch_size: int = 64) -> Scored:
    """A model's own weights on `windows`: what `deterministic` is for a chain that starts there."""
    forward = Forward(model)
    forward.load(model.theta)
    batch_size = min(batch_size, max_batch(forward, windows))
    split = _Split.of(windows, batch_size, None, model.device)
    return _single(forward, split, model.theta, 1.0, lambda _: None)


def max_batch(forward: Forward, windows: Windows) -> int:
    """Windows whose log-probabilities, [tokens, V] each, may be held at once: at least one."""
    one_window = forward.log_probs(windows.batch(torch.arange(1))).numel()
    return max(1, MAX_ELEMENTS // one_window)


@dataclass(frozen=True)
class _Split:
    """The windows that are scored, and how they are cut into batches."""

    windows: Windows
    indices: Tensor
    tokens: Tensor
    batch_size: int
    device: torch.device

    @classmethod
    def of(
        cls, windows: Windows, batch_size: int, max_windows: int | None, device: torch.device
    ) -> _Split:
        indices = torch.arange(len(windows))
        if max_windows is not None and max_windows < len(windows):
            indices = torch.linspace(0, len(windows) - 1, max_windows).round().long()
        counts = [(windows.batch(part)["labels"] != IGNORED).sum(1) for part in indices.split(1024)]
        return cls(windows, indices, torch.cat(counts), batch_size, device)

    def batches(self, indices: Tensor) -> Iterator[dict[str, Tensor]]:
        for part in indices.split(self.batch_size):
            yield {k: v.to(self.device) for k, v in self.windows.batch(part).items()}


@dataclass(frozen=True)
class _Mixed:
    num_tokens: int
    bma: Scored
    draws: Scored
    entropy: Entropy


def _single(
    forward: Forward, split: _Split, theta: Tensor, tau: float, advance: Callable[[int], Any]
) -> Scored:
    forward.load(theta)
    tally, window_nll = Tally(), []
    for batch in split.batches(split.indices):
        log_probs = forward.log_probs(batch)
        if tau != 1.0:
            log_probs = (log_probs / tau).log_softmax(-1)
        scores = TokenScores.of(log_probs, batch["labels"])
        tally.add(scores)
        window_nll.append(_by_window(scores, batch["labels"]))
        advance(len(batch["labels"]))
    return Scored(tally.scores(), torch.cat(window_nll))


def _mixture(
    forward: Forward,
    split: _Split,
    posterior: Posterior,
    advance: Callable[[int], Any],
) -> _Mixed:
    """The mixture, and the average of its draws.

    Windows are taken in blocks whose mixture fits in memory; within a block each draw is loaded
    once.
    """
    count = len(posterior)
    mixed, each = Tally(), [Tally() for _ in range(count)]
    mixed_nll: list[Tensor] = []
    draws_nll: list[Tensor] = []
    for block in split.indices.split(max_batch(forward, split.windows)):
        sums: list[Tensor] = []
        nll = torch.zeros(len(block), dtype=torch.float64)
        for s, theta in enumerate(posterior):
            forward.load(theta)
            own = []
            for i, batch in enumerate(split.batches(block)):
                log_probs = forward.log_probs(batch)
                scores = TokenScores.of(log_probs, batch["labels"])
                each[s].add(scores)
                own.append(_by_window(scores, batch["labels"]))
                if s == 0:
                    sums.append(log_probs)
                else:
                    torch.logaddexp(sums[i], log_probs, out=sums[i])
                advance(len(batch["labels"]))
            nll += torch.cat(own) / count
        draws_nll.append(nll)
        for total, batch in zip(sums, split.batches(block), strict=True):
            scores = TokenScores.of(total - math.log(count), batch["labels"])
            mixed.add(scores)
            mixed_nll.append(_by_window(scores, batch["labels"]))
    aleatoric = sum(tally.mean_entropy for tally in each) / count
    return _Mixed(
        mixed.tokens,
        Scored(mixed.scores(), torch.cat(mixed_nll)),
        Scored(Scores.mean([tally.scores() for tally in each]), torch.cat(draws_nll)),
        Entropy(mixed.mean_entropy, aleatoric, mixed.mean_entropy - aleatoric),
    )


def _by_window(scores: TokenScores, labels: Tensor) -> Tensor:
    """Summed NLL of each window of a batch: [B], float64, on the CPU."""
    nll = torch.zeros(labels.shape, dtype=torch.float64)
    nll[labels.cpu() != IGNORED] = -scores.log_likelihood
    return nll.sum(1)
