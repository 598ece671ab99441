"""Score a split: every target token once, five predictors side by side on the same tokens.

- `deterministic`: the checkpoint that the chain started from;
- `temperature_scaled`: the same with one temperature, fitted on training text;
- `posterior_mean`: the mean of the draws' weights;
- `mean_of_draws`: the average of the draws' own scores (perplexity: exp of the mean NLL);
- `bma`: the mixture over the draws, the Bayesian model average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
class SplitReport:
    """The scores of one split."""

    num_tokens: int
    num_draws: int
    num_windows: int
    temperature: float
    predictors: dict[str, Scores]
    entropy: Entropy
    differences: dict[str, Difference]

    def to_json(self) -> dict[str, Any]:
        return {
            "num_tokens": self.num_tokens,
            "num_draws": self.num_draws,
            "num_windows": self.num_windows,
            "fitted_temperature": self.temperature,
            "predictors": {name: s.to_json() for name, s in self.predictors.items()},
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
    """Score all five predictors on `windows`; `held_in` is training text, to fit a temperature on.

    Args:
        max_windows: score this many windows, evenly spaced, instead of all.
        progress: title of a progress bar, or None for none.
    """
    posterior, model = predictive.posterior, predictive.model
    forward = Forward(model)
    indices = torch.arange(len(windows))
    if max_windows is not None and max_windows < len(windows):
        indices = torch.linspace(0, len(windows) - 1, max_windows).round().long()
    passes = len(posterior) + 3
    bar = tqdm(
        total=passes * len(indices),
        desc=progress,
        unit="window",
        unit_scale=True,
        disable=progress is None,
        dynamic_ncols=True,
    )

    per_window: dict[str, list[Tensor]] = {name: [] for name in PREDICTORS}

    def single(name: str, theta: Tensor, tau: float = 1.0) -> Scores:
        forward.load(theta)
        tally = Tally()
        for batch in _batches(windows, indices, batch_size, forward.device):
            log_probs = forward.log_probs(batch)
            if tau != 1.0:
                log_probs = (log_probs / tau).log_softmax(-1)
            scores = TokenScores.of(log_probs, batch["labels"])
            tally.add(scores)
            per_window[name].append(_window_nll(scores, batch["labels"]))
            bar.update(len(batch["labels"]))
        return tally.scores()

    with bar:
        forward.load(model.theta)
        tau = fit_temperature(forward, held_in, batch_size)
        scores = {
            "deterministic": single("deterministic", model.theta),
            "temperature_scaled": single("temperature_scaled", model.theta, tau),
            "posterior_mean": single("posterior_mean", posterior.mean().to(model.device)),
        }
        mixed, draws, per_window["bma"] = _mixture(
            predictive, forward, windows, indices, batch_size, bar
        )
    scores["mean_of_draws"] = Scores.mean([tally.scores() for tally in draws])
    scores["bma"] = mixed.scores()
    aleatoric = sum(tally.mean_entropy for tally in draws) / len(draws)
    counts = torch.cat(
        [_observed(b["labels"]).sum(1) for b in _batches(windows, indices, 1024)]
    ).numpy()
    sums = {name: torch.cat(parts).numpy() for name, parts in per_window.items() if parts}
    return SplitReport(
        num_tokens=mixed.tokens,
        num_draws=len(posterior),
        num_windows=len(indices),
        temperature=tau,
        predictors={name: scores[name] for name in PREDICTORS},
        entropy=Entropy(mixed.mean_entropy, aleatoric, mixed.mean_entropy - aleatoric),
        differences={
            name: paired_difference(sums["bma"], sums[name], counts)
            for name in ("deterministic", "temperature_scaled", "posterior_mean")
        },
    )


def _mixture(
    predictive: Predictive,
    forward: Forward,
    windows: Windows,
    indices: Tensor,
    batch_size: int,
    bar: Any,
) -> tuple[Tally, list[Tally], list[Tensor]]:
    """The mixture's scores, each draw's own, and the mixture's summed NLL of each window.

    Windows are taken in blocks whose mixture fits in memory; within a block each draw is loaded
    once.
    """
    posterior = predictive.posterior
    forward.load(predictive.model.theta)
    one_window = forward.log_probs(windows.batch(indices[:1])).numel()
    mixed, draws = Tally(), [Tally() for _ in range(len(posterior))]
    per_window: list[Tensor] = []
    for block in indices.split(max(1, MAX_ELEMENTS // one_window)):
        sums: list[Tensor] = []
        for s, theta in enumerate(posterior):
            forward.load(theta)
            for i, batch in enumerate(_batches(windows, block, batch_size, forward.device)):
                log_probs = forward.log_probs(batch)
                draws[s].add(TokenScores.of(log_probs, batch["labels"]))
                if s == 0:
                    sums.append(log_probs)
                else:
                    torch.logaddexp(sums[i], log_probs, out=sums[i])
                bar.update(len(batch["labels"]))
        blocks = _batches(windows, block, batch_size, forward.device)
        for summed, batch in zip(sums, blocks, strict=True):
            scores = TokenScores.of(summed - math.log(len(posterior)), batch["labels"])
            mixed.add(scores)
            per_window.append(_window_nll(scores, batch["labels"]))
    return mixed, draws, per_window


def _batches(
    windows: Windows, indices: Tensor, size: int, device: torch.device | str = "cpu"
) -> Iterator[dict[str, Tensor]]:
    for part in indices.split(size):
        yield {name: tensor.to(device) for name, tensor in windows.batch(part).items()}


def _observed(labels: Tensor) -> Tensor:
    return labels != IGNORED


def _window_nll(scores: TokenScores, labels: Tensor) -> Tensor:
    """Summed NLL of each window of a batch: [B], float64, on the CPU."""
    nll = torch.zeros(labels.shape, dtype=torch.float64, device=labels.device)
    nll[_observed(labels)] = -scores.log_likelihood
    return nll.sum(1).cpu()
