"""Passes over a split: every target token once, by one set of weights or by all draws.

Windows are taken in blocks whose mixture [tokens, V] fits in memory, and within a block each draw
is loaded once: memory does not grow with the draws or the split, but for a few numbers a token.
Rows of different lengths are read from the longest to the shortest, so that little is padded;
whatever is returned is in the order of the split.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bayesgen.data.windows import Rows
from bayesgen.draws import Draws
from bayesgen.evaluation.tokens import Scores, Tally, TokenScores
from bayesgen.likelihoods import IGNORED
from bayesgen.models.functional import Batch
from bayesgen.predictive import Forward
from bayesgen.predictive.trunk import Trunk

MAX_ELEMENTS = 2**26
"""Mixture probabilities that are held at once (256 MiB of float32)."""
TRUNK_BYTES = 2**28
"""Outputs of modules that are kept from one draw to the next, but for those of a single batch."""
STEPS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000)
"""Numbers of draws at which the mixture is scored on the way to all of them."""
Advance = Callable[[int], Any]
"""Told of every window that was read."""
Read = Callable[[Batch], Tensor]
"""What a network says of a batch, by the weights that are loaded."""
Keep = Callable[[int, int, Tensor], None]
"""Takes a draw, the first of some tokens as they are read, and the draw's log-likelihoods of these
[n]."""


@dataclass(frozen=True)
class Split:
    """The windows that are scored, and how they are cut into batches.

    Attributes:
        indices: of the windows [W], in the order of the text.
        tokens: targets of each of them [W].
        order: places of the windows in `indices` as they are read [W]: the longest first, where the
            rows have `lengths`.
    """

    windows: Rows
    indices: Tensor
    tokens: Tensor
    order: Tensor
    batch_size: int
    device: torch.device

    @classmethod
    def of(
        cls, windows: Rows, batch_size: int, max_windows: int | None, device: torch.device
    ) -> Split:
        indices = evenly_spaced(len(windows), max_windows)
        # what goes through the network at once may be held at once
        parts = indices.split(batch_size)
        counts = [_targets(windows.batch(part)["labels"]).sum(1) for part in parts]
        order = torch.arange(len(indices))
        lengths = getattr(windows, "lengths", None)
        if lengths is not None:
            order = torch.as_tensor(lengths)[indices].argsort(descending=True, stable=True)
        return cls(windows, indices, torch.cat(counts), order, batch_size, device)

    def batches(self, indices: Tensor) -> Iterator[dict[str, Tensor]]:
        for part in indices.split(self.batch_size):
            yield {k: v.to(self.device) for k, v in self.windows.batch(part).items()}

    @property
    def tokens_back(self) -> Tensor:
        """Where the tokens of the text stand among those that are read [n]."""
        return self.order.repeat_interleave(self.tokens[self.order]).argsort(stable=True)

    @property
    def windows_back(self) -> Tensor:
        """The same of the windows [W]."""
        return self.order.argsort()


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


def evenly_spaced(rows: int, most: int | None) -> Tensor:
    """Places of at most `most` of so many rows [W], int64; None takes all."""
    if most is None or most >= rows:
        return torch.arange(rows)
    return torch.linspace(0, rows - 1, most).round().long()


def max_batch(forward: Forward, split: Split) -> int:
    """Windows that may be read at once, by what the network says of all its positions, or of those
    that are asked for: at least one."""
    first = forward.log_probs(split.windows.batch(torch.arange(1)))
    one_window = max(first.numel(), first.shape[-1] * int(split.tokens.max()))
    return max(1, MAX_ELEMENTS // one_window)


def max_block(forward: Forward, split: Split) -> int:
    """Windows whose mixture, [targets, V] each, may be held at once: at least one."""
    classes = forward.log_probs(split.windows.batch(torch.arange(1))).shape[-1]
    return max(1, MAX_ELEMENTS // (classes * int(split.tokens.max())))


def single(
    forward: Forward, split: Split, theta: Tensor, advance: Advance, tau: Tensor | None = None
) -> Scored:
    """One set of weights; `tau` as in `singles`."""
    return singles(forward, split, {"": (theta, tau)}, advance)[""]


def singles(
    forward: Forward,
    split: Split,
    weights: Mapping[str, tuple[Tensor, Tensor | None]],
    advance: Advance,
) -> dict[str, Scored]:
    """Several sets of weights, each on its own.

    Args:
        weights: name -> θ and τ; with τ, one number for each window [W], the probabilities are
            softmax(log p / τ).
    """
    collected = {name: _Collected() for name in weights}
    for reading in readings(forward, split, len(split.indices), forward.target_log_probs):
        for name, (theta, tau) in weights.items():
            forward.load(theta)
            for places, labels, log_probs in reading:
                if tau is not None:
                    each = tau[places].repeat_interleave(split.tokens[places])
                    log_probs = (log_probs / each[:, None].to(log_probs)).log_softmax(-1)
                collected[name].add(TokenScores.of(log_probs, _observed(labels)), labels)
                advance(len(labels))
    return {name: each.scored(split) for name, each in collected.items()}


def mixture(
    forward: Forward,
    split: Split,
    posterior: Draws,
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
    most = max_block(forward, split)
    for reading in readings(forward, split, most, forward.target_log_probs):
        sums: list[Tensor] = []
        every: list[Tensor] = []
        window_nll = torch.zeros(len(reading.block), dtype=torch.float64)
        entropy: Tensor | float = 0.0
        for taken, s in enumerate(order, start=1):
            forward.load(posterior[s])
            own = _Collected(keep_tally=each[s])
            for i, (_, labels, log_probs) in enumerate(reading):
                targets = _observed(labels)
                own.add(TokenScores.of(log_probs, targets), labels)
                if taken == 1:
                    sums.append(log_probs)
                    every.append(labels)
                else:
                    torch.logaddexp(sums[i], log_probs, out=sums[i])
                if taken in steps:
                    so_far = sums[i] - math.log(taken)
                    steps[taken].add(TokenScores.of(so_far, targets))
                advance(len(labels))
            scored = own.scored()
            window_nll += scored.window_nll / count
            entropy = entropy + scored.tokens.entropy.double() / count
            if keep is not None:
                keep(s, done, scored.tokens.log_likelihood)
        assert isinstance(entropy, Tensor)
        done += len(entropy)
        aleatoric.append(entropy)
        draws_nll.append(window_nll)
        for total, labels in zip(sums, every, strict=True):
            mixed.add(TokenScores.of(total - math.log(count), _observed(labels)), labels)
    bma = mixed.scored(split)
    return Mixed(
        bma,
        torch.cat(aleatoric)[split.tokens_back],
        Scores.mean([tally.scores() for tally in each]),
        torch.cat(draws_nll)[split.windows_back],
        {k: tally.scores() for k, tally in steps.items()} | {count: bma.scores},
    )


def readings(forward: Forward, split: Split, most: int, read: Read) -> Iterator[Reading]:
    """The windows as they are read, in blocks that all weights go through in turn.

    Args:
        most: windows of a block; it has fewer where what weights share of it would not fit in
            memory.
        read: a method of `forward`.
    """
    # the longest window comes first: none has larger outputs
    (longest,) = split.batches(split.indices[split.order[:1]])
    trunk = forward.trunk(longest)
    if trunk is not None:
        batches = max(1, TRUNK_BYTES // max(1, trunk.bytes * split.batch_size))
        most = min(most, batches * split.batch_size)
    for block in split.order.split(most):
        yield Reading(split, block, trunk, read)
        if trunk is not None:
            trunk.forget()


@dataclass(frozen=True)
class Reading:
    """A block of windows, read again for each set of weights.

    Attributes:
        block: places of the windows [B].
        trunk: what the weights share.
        read: what is asked of the network.
    """

    split: Split
    block: Tensor
    trunk: Trunk | None
    read: Read

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Places and labels of each batch, and what is read of it by the weights that are
        loaded."""
        places = self.block.split(self.split.batch_size)
        batches = self._batches() if self.trunk is None else self._held
        for number, (part, batch) in enumerate(zip(places, batches, strict=True)):
            with nullcontext() if self.trunk is None else self.trunk.over(number):
                found = self.read(batch)
            yield part, batch["labels"], found

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        return self.split.batches(self.split.indices[self.block])

    @cached_property
    def _held(self) -> list[dict[str, Tensor]]:
        """The batches, held beside what the trunk keeps of them: padding them takes longer than a
        Bayesian head."""
        return list(self._batches())


def draw_order(count: int) -> Sequence[int]:
    """A fixed random order: the first k draws are spread over the run, and over its chains."""
    order: list[int] = np.random.default_rng(0).permutation(count).tolist()
    return order


@contextmanager
def progress_bar(title: str | None, total: int, unit: str = "window") -> Iterator[Advance]:
    """A bar that is told of every `unit`; none without a title."""
    bar = tqdm(
        total=total,
        desc=title,
        unit=unit,
        unit_scale=unit == "window",
        disable=title is None,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 30,
    )
    with bar:
        yield bar.update


def _targets(labels: Tensor) -> Tensor:
    """Which labels of each row are observations, [B, n]."""
    return (labels != IGNORED).reshape(len(labels), -1)


def _observed(labels: Tensor) -> Tensor:
    """Those of `labels` that are observations [n], in their order."""
    return labels[labels != IGNORED]


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

    def scored(self, split: Split | None = None) -> Scored:
        """All of it, in the order of the text where `split` was read."""
        tokens, window_nll = TokenScores.cat(self._tokens), torch.cat(self._window_nll)
        if split is not None:
            tokens, window_nll = tokens.take(split.tokens_back), window_nll[split.windows_back]
        return Scored(self._tally, tokens, window_nll)
