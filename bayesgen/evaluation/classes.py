"""Tokens and classes: what sets of weights, and the mixture over the draws, say of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bayesgen.evaluation.cache import Passes
from bayesgen.evaluation.metrics import averaged, measured
from bayesgen.evaluation.tokens import Scored, Tally, TokenScores
from bayesgen.evaluation.walk import STEPS, Advance, Split, Weights, walk
from bayesgen.likelihoods import IGNORED
from bayesgen.predictive import Forward
from bayesgen.predictive.mixture import RunningMixture

MAX_ELEMENTS = 2**26
"""Mixture probabilities that are held at once (256 MiB of float32)."""
Each = Callable[[int, int, TokenScores], None]
"""Takes a draw, the place of the first of some observations as they are read, and its scores of
these."""


def score_weights(
    forward: Forward,
    split: Split,
    weights: Mapping[str, tuple[Tensor, Tensor | None]],
    advance: Advance = lambda rows: None,
) -> dict[str, Scored]:
    """What some sets of weights, each on its own, say of tokens or classes.

    Args:
        weights: name -> θ and τ; with τ, one number for each row [W], the probabilities are
            softmax(log p / τ).
    """
    collected = {name: _Collected() for name in weights}
    for block in walk(forward, split, forward.target_log_probs):
        for name, (theta, tau) in weights.items():
            for places, labels, log_probs in block.under(theta):
                if tau is not None:
                    each = tau[places].repeat_interleave(split.tokens[places])
                    log_probs = (log_probs / each[:, None].to(log_probs)).log_softmax(-1)
                collected[name].add(TokenScores.of(log_probs, labels[labels != IGNORED]), labels)
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
    """The mixture over the draws on tokens or classes, as `bma`, its growth with their number, and
    the average of the draws.

    Args:
        draws: S of them.
        order: in which they are taken [S].
        each: is given every draw's own scores, in float64.
    """
    count = len(order)
    tallies = [Tally() for _ in order]
    steps = {k: Tally() for k in STEPS if k < count}
    mixed, draws_nll, aleatoric = _Collected(), [], []
    begin = 0
    classes = forward.log_probs(split.windows.batch(torch.arange(1))).shape[-1]
    most = max(1, MAX_ELEMENTS // (classes * int(split.tokens.max())))
    for block in walk(forward, split, forward.target_log_probs, most):
        running: list[tuple[RunningMixture, Tensor]] = []
        window_nll = torch.zeros(len(block.places), dtype=torch.float64)
        entropy = torch.zeros(int(split.tokens[block.places].sum()), dtype=torch.float64)
        for taken, s in enumerate(order, start=1):
            own, done = _Collected(tallies[s]), begin
            for i, (_, labels, log_probs) in enumerate(block.under(draws[s])):
                targets = labels[labels != IGNORED]
                scores = TokenScores.of(log_probs, targets)
                own.add(scores, labels)
                each(s, done, scores)
                done += len(targets)
                if taken == 1:
                    running.append((RunningMixture(), labels))
                running[i][0].add(log_probs)
                if taken in steps:
                    steps[taken].add(TokenScores.of(running[i][0].log_probs, targets))
                advance(len(labels))
            scored = own.scored()
            window_nll += scored.window_nll / count
            entropy += scored.tokens.entropy.double() / count
        begin = done
        aleatoric.append(entropy)
        draws_nll.append(window_nll)
        for total, labels in running:
            mixed.add(TokenScores.of(total.log_probs, labels[labels != IGNORED]), labels)
    bma = mixed.scored(split)
    sums = {
        k: measured(tally, split, sums_only=True) for k, tally in (steps | {count: bma}).items()
    }
    own_sums = [measured(tally, split, sums_only=True) for tally in tallies]
    return Passes(
        None,
        {"bma": bma},
        torch.cat(aleatoric)[split.tokens_back],
        averaged(own_sums, lambda values: sum(values) / count),
        torch.cat(draws_nll)[split.windows_back],
        sums,
    )


class _Collected:
    """Token scores that come batch by batch."""

    def __init__(self, tally: Tally | None = None) -> None:
        self._tally = tally or Tally()
        self._tokens: list[TokenScores] = []
        self._window_nll: list[Tensor] = []

    def add(self, scores: TokenScores, labels: Tensor) -> None:
        self._tally.add(scores)
        self._tokens.append(scores.compact())
        nll = torch.zeros(labels.shape, dtype=torch.float64)
        nll[labels.cpu() != IGNORED] = -scores.log_likelihood
        self._window_nll.append(nll.reshape(len(nll), -1).sum(1))

    def scored(self, split: Split | None = None) -> Scored:
        """All of it, in the order of the split where `split` was read."""
        tokens, window_nll = TokenScores.cat(self._tokens), torch.cat(self._window_nll)
        if split is not None:
            tokens, window_nll = tokens.take(split.tokens_back), window_nll[split.windows_back]
        return Scored(self._tally, tokens, window_nll)
