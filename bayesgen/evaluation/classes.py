"""Tokens and classes: what sets of weights, and the mixture over the draws, say of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation import walk
from bayesgen.evaluation.metrics import Passes, averaged, measured
from bayesgen.evaluation.walk import STEPS, Advance, Split, Weights
from bayesgen.likelihoods import IGNORED
from bayesgen.predictive import Forward
from bayesgen.predictive.mixture import RunningMixture, entropy

MAX_ELEMENTS = 2**26  # mixture probabilities that are held at once (256 MiB of float32)
ECE_BINS = 15
MAX_WINDOWS = 512
"""That τ is fitted on; of labelled examples, of one observation each, `walk.MAX_EXAMPLES`."""
MAX_TOKENS = 2**16  # tokens that are read while τ is fitted
KEPT_ELEMENTS = 2**26  # log-probabilities that are kept while τ is fitted (256 MiB of float32)


@dataclass(frozen=True)
class TokenScores:
    """What one predictor said of each of n target tokens; all [n], on the CPU.

    Numbers are float64 where they are to be summed, and float32 where they are only kept.
    """

    log_likelihood: Tensor  # log p(target), nats
    confidence: Tensor  # the largest probability
    correct: Tensor  # whether the most probable token was the target, bool
    brier: Tensor  # Σ_v (p_v − 1[v is the target])²
    entropy: Tensor  # of the distribution, nats
    guess: Tensor  # the most probable token, int32

    @classmethod
    def of(cls, log_probs: Tensor, targets: Tensor) -> TokenScores:
        """Score `log_probs` [n, V] on `targets` [n]."""
        probs = log_probs.exp()
        log_likelihood = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        confidence, guess = probs.max(-1)
        brier = probs.square().sum(-1) - 2 * log_likelihood.exp() + 1
        correct, guess = guess == targets, guess.int()
        found = cls(log_likelihood, confidence, correct, brier, entropy(probs), guess)
        # sums are taken in float64, which not every accelerator has
        return found.map(lambda v: v.cpu().double() if v.is_floating_point() else v.cpu())

    @classmethod
    def cat(cls, parts: Sequence[TokenScores]) -> TokenScores:
        return cls(*map(torch.cat, zip(*(vars(part).values() for part in parts), strict=True)))

    def map(self, of: Callable[[Tensor], Tensor]) -> TokenScores:
        return TokenScores(*map(of, vars(self).values()))


def _bins() -> Tensor:
    return torch.zeros(ECE_BINS, dtype=torch.float64)


@dataclass
class Tally:
    """Running sums of token scores, among them the reliability diagram's bins: 15 equal intervals
    (lower, upper] of the largest probability."""

    tokens: int = 0
    log_likelihood: float = 0.0
    brier: float = 0.0
    entropy: float = 0.0
    bin_tokens: Tensor = field(default_factory=_bins)
    bin_correct: Tensor = field(default_factory=_bins)
    bin_confidence: Tensor = field(default_factory=_bins)

    def add(self, scores: TokenScores) -> None:
        self.tokens += len(scores.correct)
        self.log_likelihood += float(scores.log_likelihood.sum())
        self.brier += float(scores.brier.sum())
        self.entropy += float(scores.entropy.sum())
        edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64)[1:-1]
        bins = torch.bucketize(scores.confidence, edges)
        self.bin_tokens += torch.bincount(bins, minlength=ECE_BINS)
        self.bin_correct += torch.bincount(bins, scores.correct.double(), ECE_BINS)
        self.bin_confidence += torch.bincount(bins, scores.confidence, ECE_BINS)

    def reliability(self) -> dict[str, list[float | None]]:
        """The reliability diagram: of each bin its tokens, their accuracy and mean confidence."""
        tokens = self.bin_tokens.tolist()

        def mean(sums: Tensor) -> list[float | None]:
            return [s / n if n else None for s, n in zip(sums.tolist(), tokens, strict=True)]

        return {
            "upper": [(i + 1) / ECE_BINS for i in range(ECE_BINS)],
            "tokens": tokens,
            "accuracy": mean(self.bin_correct),
            "confidence": mean(self.bin_confidence),
        }

    @property
    def mean_entropy(self) -> float:
        return self.entropy / self.tokens

    @property
    def nll(self) -> float:
        return -self.log_likelihood / self.tokens

    @property
    def accuracy(self) -> float:
        return float(self.bin_correct.sum()) / self.tokens

    @property
    def ece(self) -> float:
        return float((self.bin_correct - self.bin_confidence).abs().sum()) / self.tokens


Each = Callable[[int, int, TokenScores], Any]
"""Takes a draw, the place of the first of some observations as they are read, and its scores of
these."""


@dataclass(frozen=True)
class Scored:
    """What one predictor said of the tokens or classes of one split, in its order."""

    tally: Tally
    tokens: TokenScores
    window_nll: Tensor  # summed NLL of each row [W], float64, in nats


@dataclass
class _Collected:
    """Token scores that come batch by batch."""

    tally: Tally = field(default_factory=Tally)
    tokens: list[TokenScores] = field(default_factory=list)
    window_nll: list[Tensor] = field(default_factory=list)

    def add(self, log_probs: Tensor, labels: Tensor) -> TokenScores:
        """Score `log_probs` [n, V] of those `labels` [B, ...] that are observations."""
        scored = labels != IGNORED
        scores = TokenScores.of(log_probs, labels[scored])
        self.tally.add(scores)
        self.tokens.append(scores.map(lambda v: v.float() if v.is_floating_point() else v))
        nll = torch.zeros(labels.shape, dtype=torch.float64)
        nll[scored.cpu()] = -scores.log_likelihood
        self.window_nll.append(nll.reshape(len(nll), -1).sum(1))
        return scores

    def scored(self, split: Split) -> Scored:
        """All of it, in the order of the split."""
        places = split.tokens_back
        tokens = TokenScores.cat(self.tokens).map(lambda values: values[places])
        return Scored(self.tally, tokens, torch.cat(self.window_nll)[split.windows_back])


def score_weights(
    forward: Forward,
    split: Split,
    weights: Mapping[str, tuple[Tensor, Tensor | None]],
    advance: Advance = lambda rows: None,
) -> dict[str, Scored]:
    """What some sets of weights, each on its own, say of tokens or classes: name -> θ and τ; with
    τ, one number for each row [W], the probabilities are softmax(log p / τ)."""
    collected = {name: _Collected() for name in weights}
    for _, under in walk.blocks(forward, split, forward.target_log_probs):
        for name, (theta, tau) in weights.items():
            for places, labels, log_probs in under(theta):
                if tau is not None:
                    each = tau[places].repeat_interleave(split.tokens[places])
                    log_probs = (log_probs / each[:, None].to(log_probs)).log_softmax(-1)
                collected[name].add(log_probs, labels)
                advance(len(labels))
    return {name: own.scored(split) for name, own in collected.items()}


def score_mixture(
    forward: Forward,
    split: Split,
    draws: Weights,
    order: Sequence[int],
    advance: Advance = lambda rows: None,
    each: Each = lambda draw, first, scores: None,
) -> Passes:
    """The mixture over the draws, taken in `order` [S], on tokens or classes, as `bma`, its growth
    with their number, and the average of the draws; `each` is given every draw's own scores."""
    count = len(order)
    tallies = [Tally() for _ in order]
    steps = {k: Tally() for k in STEPS if k < count}
    draws_nll = torch.zeros(len(split.indices), dtype=torch.float64)
    aleatoric = torch.zeros(len(split.labels), dtype=torch.float64)  # as they are read
    mixed, begin = _Collected(), 0
    classes = forward.log_probs(split.windows.batch(torch.arange(1))).shape[-1]
    most = max(1, MAX_ELEMENTS // (classes * int(split.tokens.max())))
    for rows, under in walk.blocks(forward, split, forward.target_log_probs, most):
        running: list[tuple[RunningMixture, Tensor]] = []
        for taken, s in enumerate(order, start=1):
            own, done = _Collected(tallies[s]), begin
            for i, (_, labels, log_probs) in enumerate(under(draws[s])):
                scores = own.add(log_probs, labels)
                each(s, done, scores)
                done += len(scores.correct)
                if taken == 1:
                    running.append((RunningMixture(), labels))
                running[i][0].add(log_probs)
                if taken in steps:
                    targets = labels[labels != IGNORED]
                    steps[taken].add(TokenScores.of(running[i][0].log_probs, targets))
                advance(len(labels))
            draws_nll[rows] += torch.cat(own.window_nll) / count
            entropies = torch.cat([part.entropy for part in own.tokens])
            aleatoric[begin:done] += entropies.double() / count
        begin = done
        for total, labels in running:
            mixed.add(total.log_probs, labels)
    steps[count] = mixed.tally
    return Passes(
        None,
        {"bma": mixed.scored(split)},
        aleatoric[split.tokens_back],
        averaged([measured(tally, split, sums_only=True) for tally in tallies]),
        draws_nll,
        {k: measured(tally, split, sums_only=True) for k, tally in steps.items()},
    )


def temperatures(forward: Forward, split: Split, held_in: Rows) -> Tensor:
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

    return walk.cross_fitted(count, of_half, torch.float32)


def fit_temperature(forward: Forward, windows: Rows, batch_size: int) -> float:
    """τ that minimises the NLL of softmax(logits/τ) on `windows`, evenly spaced over the text.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2. `forward` must hold the
    checkpoint's weights; `windows` must be data that are not scored afterwards.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    most = walk.MAX_EXAMPLES if windows.row_targets == 1 else MAX_WINDOWS
    count, stride = min(most, len(windows), max(1, MAX_TOKENS // windows.row_targets)), 1
    for part in walk.evenly_spaced(len(windows), count).split(batch_size):
        batch = windows.batch(part)
        scored = batch["labels"] != IGNORED
        log_probs = forward.target_log_probs(batch).cpu()
        if not kept:  # of a large vocabulary every n-th token must do
            most = int(scored.reshape(len(part), -1).sum(1).max())  # targets of a row
            stride = math.ceil(count * most * log_probs.shape[-1] / KEPT_ELEMENTS)
        kept.append((log_probs[::stride].clone(), batch["labels"][scored][::stride]))
    log_probs, labels = map(torch.cat, zip(*kept, strict=True))

    def nll(log_tau: float) -> float:
        return float(F.cross_entropy(log_probs / math.exp(log_tau), labels))

    result = minimize_scalar(nll, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-4})
    return math.exp(float(result.x))
