"""Passes over a split: every target token once, by one set of weights or by all draws.

Windows are taken in blocks whose mixture [tokens, V] fits in memory, and within a block each draw
is loaded once: memory does not grow with the draws or the split, but for a few numbers a token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation.tokens import Scores, Tally, TokenScores
from bayesgen.likelihoods import IGNORED
from bayesgen.posterior import Posterior
from bayesgen.predictive import Forward

MAX_ELEMENTS = 2**26
"""Mixture probabilities that are held at once (256 MiB of float32)."""
STEPS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000)
"""Numbers of draws at which the mixture is scored on the way to all of them."""
Advance = Callable[[int], Any]
"""Told of every window that was read."""
Keep = Callable[[int, int, Tensor], None]
"""Takes a draw, the first of some tokens, and the draw's log-likelihoods of these [n]."""


@dataclass(frozen=True)
class Split:
    """The windows that are scored, and how they are cut into batches.

    Attributes:
        indices: of the windows [W].
        tokens: targets of each of them [W].
    """

    windows: Rows
    indices: Tensor
    tokens: Tensor
    batch_size: int
    device: torch.device

    @classmethod
    def of(
        cls, windows: Rows, batch_size: int, max_windows: int | None, device: torch.device
    ) -> Split:
        indices = torch.arange(len(windows))
        if max_windows is not None and max_windows < len(windows):
            indices = torch.linspace(0, len(windows) - 1, max_windows).round().long()
        counts = [_targets(windows.batch(part)["labels"]).sum(1) for part in indices.split(1024)]
        return cls(windows, indices, torch.cat(counts), batch_size, device)

    def batches(self, indices: Tensor) -> Iterator[dict[str, Tensor]]:
        for part in indices.split(self.batch_size):
            yield {k: v.to(self.device) for k, v in self.windows.batch(part).items()}


@dataclass(frozen=True)
class Scored:
    """One predictor on one split.

    Attributes:
        tally: its sums, from which the headline numbers come.
        tokens: what it said of every target token, in the order of the text.
        window_nll: summed NLL of each window [W], float64, in nats.
    """

    tally: Tally
    tokens: TokenScores
    window_nll: Tensor

    @property
    def scores(self) -> Scores:
        return self.tally.scores()


@dataclass(frozen=True)
class Mixed:
    """All draws on one split.

    Attributes:
        bma: the mixture.
        aleatoric: mean over the draws of the entropy of each token's distribution [n], in nats.
        draws: the average of the draws' own numbers.
        draws_window_nll: the average of their summed NLL of each window [W].
        by_draws: number of draws -> the mixture of the first so many, in the order of `order`.
    """

    bma: Scored
    aleatoric: Tensor
    draws: Scores
    draws_window_nll: Tensor
    by_draws: dict[int, Scores]


def max_batch(forward: Forward, windows: Rows) -> int:
    """Windows whose log-probabilities, [tokens, V] each, may be held at once: at least one."""
    one_window = forward.log_probs(windows.batch(torch.arange(1))).numel()
    return max(1, MAX_ELEMENTS // one_window)


def single(
    forward: Forward, split: Split, theta: Tensor, advance: Advance, tau: Tensor | None = None
) -> Scored:
    """One set of weights; with `tau`, one number for each window [W], its probabilities are
    softmax(log p / τ)."""
    forward.load(theta)
    collected = _Collected()
    rows = torch.arange(len(split.indices)).split(split.batch_size)
    for part, batch in zip(rows, split.batches(split.indices), strict=True):
        log_probs = forward.log_probs(batch)
        if tau is not None:
            each = tau[part].view(-1, *[1] * (log_probs.dim() - 1)).to(log_probs)
            log_probs = (log_probs / each).log_softmax(-1)
        collected.add(TokenScores.of(log_probs, batch["labels"]), batch["labels"])
        advance(len(batch["labels"]))
    return collected.scored()


def mixture(
    forward: Forward,
    split: Split,
    posterior: Posterior,
    advance: Advance,
    keep: Keep | None = None,
) -> Mixed:
    """The mixture over the draws, its growth with their number, and the average of the draws.

    Args:
        keep: is handed log p(target | θ_s) of every draw and token.
    """
    order = draw_order(len(posterior))
    count = len(order)
    each = [Tally() for _ in order]
    steps = {k: Tally() for k in STEPS if k < count}
    mixed, draws_nll, aleatoric = _Collected(), [], []
    done = 0
    for block in split.indices.split(max_batch(forward, split.windows)):
        sums: list[Tensor] = []
        window_nll = torch.zeros(len(block), dtype=torch.float64)
        entropy: Tensor | float = 0.0
        for taken, s in enumerate(order, start=1):
            forward.load(posterior[s])
            own = _Collected(keep_tally=each[s])
            for i, batch in enumerate(split.batches(block)):
                log_probs = forward.log_probs(batch)
                own.add(TokenScores.of(log_probs, batch["labels"]), batch["labels"])
                if taken == 1:
                    sums.append(log_probs)
                else:
                    torch.logaddexp(sums[i], log_probs, out=sums[i])
                if taken in steps:
                    so_far = sums[i] - math.log(taken)
                    steps[taken].add(TokenScores.of(so_far, batch["labels"]))
                advance(len(batch["labels"]))
            scored = own.scored()
            window_nll += scored.window_nll / count
            entropy = entropy + scored.tokens.entropy.double() / count
            if keep is not None:
                keep(s, done, scored.tokens.log_likelihood)
        assert isinstance(entropy, Tensor)
        done += len(entropy)
        aleatoric.append(entropy)
        draws_nll.append(window_nll)
        for total, batch in zip(sums, split.batches(block), strict=True):
            scores = TokenScores.of(total - math.log(count), batch["labels"])
            mixed.add(scores, batch["labels"])
    bma = mixed.scored()
    return Mixed(
        bma,
        torch.cat(aleatoric),
        Scores.mean([tally.scores() for tally in each]),
        torch.cat(draws_nll),
        {k: tally.scores() for k, tally in steps.items()} | {count: bma.scores},
    )


def draw_order(count: int) -> Sequence[int]:
    """A fixed random order: the first k draws are spread over the run, and over its chains."""
    order: list[int] = np.random.default_rng(0).permutation(count).tolist()
    return order


def _targets(labels: Tensor) -> Tensor:
    """Which labels of each row are observations, [B, n]."""
    return (labels != IGNORED).reshape(len(labels), -1)


class _Collected:
    """Token scores that come batch by batch."""

    def __init__(self, keep_tally: Tally | None = None) -> None:
        self._tally = keep_tally or Tally()
        self._tokens: list[TokenScores] = []
        self._window_nll: list[Tensor] = []

    def add(self, scores: TokenScores, labels: Tensor) -> None:
        self._tally.add(scores)
        self._tokens.append(scores.compact())
        nll = torch.zeros(labels.shape, dtype=torch.float64)
        nll[labels.cpu() != IGNORED] = -scores.log_likelihood
        self._window_nll.append(nll.reshape(len(nll), -1).sum(1))

    def scored(self) -> Scored:
        return Scored(self._tally, TokenScores.cat(self._tokens), torch.cat(self._window_nll))
