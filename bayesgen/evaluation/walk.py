"""The walk over a split: its rows in blocks, and the sets of weights in turn over each block.

Within a block each set of weights is loaded once: memory does not grow with the draws or the split,
but for a few numbers an observation. Rows of different lengths are read from the longest to the
shortest, so that little is padded; whatever is returned is in the order of the split.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bayesgen.data.windows import Rows
from bayesgen.draws import Draws
from bayesgen.likelihoods import IGNORED, Categorical, Gaussian
from bayesgen.models.functional import Batch
from bayesgen.predictive import Forward
from bayesgen.predictive.mixture import log_mean

TRUNK_BYTES = 2**28
"""Outputs of modules that are kept from one draw to the next, but for those of a single batch."""
STEPS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000)
"""Numbers of draws at which the mixture is scored on the way to all of them."""
MAX_EXAMPLES = 8192  # labelled examples that one number, such as a temperature, is fitted on
LabelKind = Literal["token", "class", "number", "own"]
"""What is predicted; `own` is whatever a likelihood of the user's own is a density of."""
Advance = Callable[[int], Any]  # takes how many rows were read
Weights = Draws | Sequence[Tensor] | Tensor  # sets of them: θ [P] each


@dataclass(frozen=True)
class Split:
    """The rows that are scored, and how they are cut into batches."""

    windows: Rows
    indices: Tensor  # of the rows [W], in the order of the split
    tokens: Tensor  # observations in each of them [W]
    labels: Tensor  # the observations [n, ...], in the order of the split
    order: Tensor  # places of the rows as they are read [W]: where they have `lengths`, long first
    batch_size: int
    device: torch.device
    kind: LabelKind

    @classmethod
    def of(
        cls, forward: Forward, windows: Rows, batch_size: int, max_windows: int | None = None
    ) -> Split:
        """At most `max_windows` of the rows, evenly spaced, with labels that `forward` predicts."""
        likelihood = forward.likelihood
        indices = evenly_spaced(len(windows), max_windows)
        kind: LabelKind = "own"
        if isinstance(likelihood, Gaussian):
            kind = "number"
        elif isinstance(likelihood, Categorical):
            kind = "token" if windows.num_classes is None else "class"
        # what goes through the network at once may be held at once
        parts = [windows.batch(part)["labels"] for part in indices.split(batch_size)]
        if kind in {"token", "class"}:
            tokens = [(part != IGNORED).reshape(len(part), -1).sum(1) for part in parts]
            parts = [part[part != IGNORED] for part in parts]
        else:
            tokens = [likelihood.count(row).cpu()[None] for part in parts for row in part.split(1)]
        order = torch.arange(len(indices))
        lengths = getattr(windows, "lengths", None)
        if lengths is not None:
            order = torch.as_tensor(lengths)[indices].argsort(descending=True, stable=True)
        observed = torch.cat(tokens), torch.cat(parts)
        return cls(windows, indices, *observed, order, batch_size, forward.device, kind)

    def batches(self, places: Tensor) -> Iterator[dict[str, Tensor]]:
        for part in self.indices[places].split(self.batch_size):
            yield {k: v.to(self.device) for k, v in self.windows.batch(part).items()}

    @property
    def tokens_back(self) -> Tensor:
        """Where the observations of the split stand among those that are read [n]."""
        return self.order.repeat_interleave(self.tokens[self.order]).argsort(stable=True)

    @property
    def windows_back(self) -> Tensor:
        """The same of the rows [W]."""
        return self.order.argsort()

    @property
    def of_classes(self) -> bool:
        return self.kind in {"token", "class"}

    @property
    def unit(self) -> str:
        """What a row is called."""
        return "row" if self.windows.row_targets == 1 else "window"


Block = tuple[Tensor, Callable[[Tensor], Iterator[tuple[Tensor, Tensor, Tensor]]]]
"""Places of some rows [B]; and from θ [P] to the places and labels of each batch of them, and what
is read of it."""


def blocks(
    forward: Forward, split: Split, read: Callable[[Batch], Tensor], most: int | None = None
) -> Iterator[Block]:
    """The rows as they are read, by a method of `forward`, in blocks that all weights go through in
    turn: of at most `most` rows, and fewer where what the weights share would not fit in memory."""
    # the longest row comes first: none has larger outputs
    (longest,) = split.batches(split.order[:1])
    trunk = forward.trunk(longest)
    batches = max(1, TRUNK_BYTES // max(1, trunk.bytes * split.batch_size))
    most = min(most or len(split.indices), batches * split.batch_size)

    def under(
        places: Tensor, held: Sequence[Batch], theta: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        forward.load(theta)
        each = zip(places.split(split.batch_size), held or split.batches(places), strict=True)
        for number, (part, batch) in enumerate(each):
            with trunk.over(number):
                found = read(batch)
            yield part, batch["labels"], found

    for places in split.order.split(most):
        # padding batches takes longer than a Bayesian head
        held = list(split.batches(places)) if trunk.modules else ()
        yield places, partial(under, places, held)
        trunk.forget()


def each_number(
    forward: Forward,
    split: Split,
    weights: Weights,
    of: Callable[[Tensor, Tensor], Tensor],
    advance: Advance = lambda rows: None,
) -> Tensor:
    """Numbers of the rows, or of their observations, under each of `weights`: [weights, n].

    `of` makes them of what the network puts out for a batch, and of its labels. Of classes and
    tokens it is given log p(class | input) [m, V] of the observations alone, and these [m].
    """
    classes = split.of_classes
    found: list[list[Tensor]] = [[] for _ in weights]
    read = forward.target_log_probs if classes else forward.outputs
    for _, under in blocks(forward, split, read):
        for theta, own in zip(weights, found, strict=True):
            for _, labels, said in under(theta):
                own.append(of(said, labels[labels != IGNORED] if classes else labels).cpu())
                advance(len(labels))
    back = split.tokens_back if classes else split.windows_back
    return torch.stack([torch.cat(own) for own in found])[:, back]


def densities(
    forward: Forward, split: Split, weights: Weights, advance: Advance = lambda rows: None
) -> Tensor:
    """log p(label | x, θ) by each of S > 0 `weights`: [S, n], float64, in nats. Of classes and
    tokens n are the labels that are observations, and else the rows: of a real number that is NaN,
    exactly 0."""
    density = forward.likelihood.per_sequence
    if isinstance(forward.likelihood, Categorical):
        density = forward.likelihood.per_observation

    with torch.no_grad():
        return each_number(forward, split, weights, lambda *both: density(*both).double(), advance)


def nll_of(
    forward: Forward, draws: Tensor, rows: Rows, batch_size: int = 64
) -> tuple[float, float]:
    """NLL of the mixture of `draws` [S, P] on `rows`, and the mean of theirs, in nats per
    observation; infinite without a draw. For many short looks: one number is kept of each draw and
    observation, and nothing else."""
    if not len(draws):
        return math.inf, math.inf
    every = densities(forward, Split.of(forward, rows, batch_size), draws)
    count = rows.num_targets
    both = -float(log_mean(every).sum()) / count, -float(every.mean(0).sum()) / count
    return (math.inf, math.inf) if math.isnan(sum(both)) else both


def evenly_spaced(rows: int, most: int | None) -> Tensor:
    """Places of at most `most` of so many rows [W], int64; None takes all."""
    if most is None or most >= rows:
        return torch.arange(rows)
    return torch.linspace(0, rows - 1, most).round().long()


def draw_order(count: int) -> Sequence[int]:
    """A fixed random order: the first k draws are spread over the run, and over its chains."""
    return list(np.random.default_rng(0).permutation(count).tolist())


def cross_fitted(
    count: int, of_half: Callable[[int], float | Tensor], dtype: torch.dtype
) -> Tensor:
    """[count] numbers: those of each half are `of_half` of the other; 1 where there is none."""
    found = torch.ones(count, dtype=dtype)
    for half in (0, 1) if count > 1 else ():
        found[half::2] = of_half(1 - half)
    return found


def new_bar(title: str | None, total: int | None = None, **options: Any) -> Any:
    """tqdm's bar; none without a title. A log file gets two lines a minute."""
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(
        total=total,
        desc=title,
        disable=title is None,
        dynamic_ncols=True,
        mininterval=interval,
        **options,
    )


@contextmanager
def progress_bar(title: str | None, total: int, unit: str = "") -> Iterator[Advance]:
    """A bar that is advanced by so many units at a time, with their rate; none without a title.

    Without a `unit` (`row`, `window`, `text`) there is no rate, for a few steps of some time.
    """
    bare = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
    form = {"unit_scale": True} if unit else {"bar_format": bare}
    with new_bar(title, total, unit=unit, **form) as bar:
        yield bar.update
