"""Scores of predicted tokens or classes: of each one, and as sums, which take no memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from bayesgen.likelihoods import IGNORED
from bayesgen.predictive.mixture import entropy

ECE_BINS = 15


@dataclass(frozen=True)
class TokenScores:
    """What one predictor said of each of n target tokens; all [n], on the CPU.

    Numbers are float64 where they are to be summed, and float32 where they are only kept.

    Attributes:
        log_likelihood: log p(target), nats.
        confidence: the largest probability.
        correct: whether the most probable token was the target, bool.
        brier: Σ_v (p_v − 1[v is the target])².
        entropy: of the distribution, nats.
        guess: the most probable token, int32.
    """

    log_likelihood: Tensor
    confidence: Tensor
    correct: Tensor
    brier: Tensor
    entropy: Tensor
    guess: Tensor

    @classmethod
    def of(cls, log_probs: Tensor, labels: Tensor) -> TokenScores:
        """Score `log_probs` [..., V] on `labels` [...]; ignored labels are left out."""
        scored = labels != IGNORED
        chosen, targets = log_probs[scored], labels[scored]
        probs = chosen.exp()
        log_likelihood = chosen.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        confidence, guess = probs.max(-1)
        brier = probs.square().sum(-1) - 2 * log_likelihood.exp() + 1
        # sums are taken in float64, which not every accelerator has
        per_token = (
            log_likelihood, confidence, guess == targets, brier, entropy(probs), guess.int(),
        )  # fmt: skip
        return cls(*(t.cpu().double() if t.is_floating_point() else t.cpu() for t in per_token))

    @classmethod
    def cat(cls, parts: Sequence[TokenScores]) -> TokenScores:
        """The scores of one text after the other."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def take(self, places: Tensor) -> TokenScores:
        """Those at `places` [m], in their order."""
        return TokenScores(*(getattr(self, f.name)[places] for f in fields(self)))

    def compact(self) -> TokenScores:
        """The same in float32."""
        values = (getattr(self, f.name) for f in fields(self))
        return TokenScores(*(v.float() if v.is_floating_point() else v for v in values))


@dataclass
class Tally:
    """Running sums of token scores, among them the reliability diagram's bins.

    Bins are 15 equal intervals (lower, upper] of the largest probability.
    """

    tokens: int = 0
    log_likelihood: float = 0.0
    brier: float = 0.0
    entropy: float = 0.0
    bin_tokens: Tensor = field(default_factory=lambda: torch.zeros(ECE_BINS, dtype=torch.float64))
    bin_correct: Tensor = field(default_factory=lambda: torch.zeros(ECE_BINS, dtype=torch.float64))
    bin_confidence: Tensor = field(
        default_factory=lambda: torch.zeros(ECE_BINS, dtype=torch.float64)
    )

    def add(self, scores: TokenScores) -> None:
        self.tokens += len(scores.correct)
        self.log_likelihood += float(scores.log_likelihood.sum())
        self.brier += float(scores.brier.sum())
        self.entropy += float(scores.entropy.sum())
        confidence = scores.confidence
        edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64)[1:-1]
        bins = torch.bucketize(confidence, edges)
        self.bin_tokens += torch.bincount(bins, minlength=ECE_BINS)
        self.bin_correct += torch.bincount(bins, scores.correct.double(), ECE_BINS)
        self.bin_confidence += torch.bincount(bins, confidence, ECE_BINS)

    @property
    def mean_entropy(self) -> float:
        return self.entropy / self.tokens

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
    def nll(self) -> float:
        return -self.log_likelihood / self.tokens

    @property
    def accuracy(self) -> float:
        return float(self.bin_correct.sum()) / self.tokens

    @property
    def ece(self) -> float:
        return float((self.bin_correct - self.bin_confidence).abs().sum()) / self.tokens

    @property
    def mean_brier(self) -> float:
        return self.brier / self.tokens


@dataclass(frozen=True)
class Scored:
    """What one predictor said of the tokens or classes of one split.

    Attributes:
        tally: its sums, from which the headline numbers come.
        tokens: what it said of every observation, in the order of the split.
        window_nll: summed NLL of each row [W], float64, in nats.
    """

    tally: Tally
    tokens: TokenScores
    window_nll: Tensor
