"""Risk and coverage: how much predicting only the most certain tokens lowers the error rate.

Geifman & El-Yaniv 2017, https://arxiv.org/abs/1705.08500; the area under the curve (AURC) and its
excess: Geifman et al. 2019, https://arxiv.org/abs/1805.08206.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from torch import Tensor

from bayesgen.evaluation.intervals import Interval, percentile_interval

RESAMPLES = 1000
CHUNK_ELEMENTS = 2**17
"""Token weights of the resamples that are worked on at once: 1 MiB of int64, to stay in a cache."""

Array = np.ndarray | Tensor
"""A tensor must lie on the CPU."""


@dataclass(frozen=True)
class RiskCoverage:
    """The risk-coverage curve of one predictor with one measure of its uncertainty.

    Attributes:
        coverages: evenly spaced, 0 to 1.
        risks: error rate among that share of the tokens, the most certain ones; a token on the edge
            counts with the part of it that is covered. At coverage 0: the limit.
        aurc: mean over k = 1..n of the error rate among the k most certain tokens.
        excess_aurc: aurc minus that of the best ordering, which puts every error last (that of n
            tokens, where the paper takes its limit).
        aurc_random: aurc of a random ordering, the error rate.
    """

    num_tokens: int
    coverages: list[float]
    risks: list[float]
    aurc: float
    excess_aurc: float
    aurc_random: float


def risk_coverage(errors: Array, uncertainty: Array, points: int = 101) -> RiskCoverage:
    """The risk-coverage curve, its area, and the areas that it lies between.

    Tokens of equal uncertainty are taken in random order, and the risk is its expectation over
    that order, exactly.

    Args:
        errors: whether the predicted token was wrong, [n], bool.
        uncertainty: higher where less sure, [n]; may be infinite, not NaN.
        points: coverages that the curve is given at, 2 or more.

    Raises:
        ValueError: there are no tokens, shapes or dtypes do not fit, or an uncertainty is NaN.
    """
    if points < 2:
        raise ValueError(f"a curve needs 2 points or more, not {points}")
    wrong, unsure = _tokens(errors, uncertainty)
    n = len(wrong)
    ranking, best = _Ranking.of(wrong, unsure), _Ranking.of(wrong, wrong)
    once = np.ones((1, 1), dtype=np.int64)
    kept, errors_kept = (totals[0] for totals in ranking.totals(once))
    coverages = np.linspace(0, 1, points)
    covered = coverages[1:] * n
    # Expected errors grow along a line within a tie, so that interpolation is exact.
    expected = np.interp(covered, kept, errors_kept)
    risks = np.append(errors_kept[1] / kept[1], expected / covered)
    aurc = float(ranking.aurcs(once)[0])
    return RiskCoverage(
        num_tokens=n,
        coverages=coverages.tolist(),
        risks=risks.tolist(),
        aurc=aurc,
        excess_aurc=aurc - float(best.aurcs(once)[0]),
        aurc_random=float(wrong.mean()),
    )


def aurc_interval(
    errors: Array,
    uncertainty: Array,
    groups: Array,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The area under the risk-coverage curve with its 95 % interval.

    Tokens of one window share their context, so whole windows are resampled (percentile bootstrap).

    Args:
        errors, uncertainty: as in `risk_coverage`.
        groups: the window of each token, [n], integers.

    Raises:
        ValueError: as in `risk_coverage`, or groups do not fit or are fewer than two.
    """
    windows = _windows(groups)
    ranking = _Ranking.of(*_tokens(errors, uncertainty), windows)
    return _over_windows(ranking.aurcs, windows, resamples, seed)


def aurc_difference(
    first: tuple[Array, Array],
    second: tuple[Array, Array],
    groups: Array,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Area under the risk-coverage curve of `first` minus that of `second`, with its 95 % interval.

    Paired: both are taken on the same resampled windows.

    Args:
        first, second: errors and uncertainty of the same tokens, as in `risk_coverage`.
        groups: the window of each token, [n], integers.

    Raises:
        ValueError: as in `aurc_interval`.
    """
    windows = _windows(groups)
    one, other = (_Ranking.of(*_tokens(*tokens), windows) for tokens in (first, second))
    return _over_windows(lambda c: one.aurcs(c) - other.aurcs(c), windows, resamples, seed)


def accuracy_interval(
    errors: Array,
    uncertainty: Array,
    groups: Array,
    coverage: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Accuracy among the most certain tokens, a share `coverage` in (0, 1] of all, with its 95 %
    interval: one minus the risk there (see `RiskCoverage`).

    Args:
        errors, uncertainty, groups: as in `aurc_interval`; of labelled rows each is a group.

    Raises:
        ValueError: as in `aurc_interval`, or the coverage is not in (0, 1].
    """
    windows = _windows(groups)
    ranking = _Ranking.of(*_tokens(errors, uncertainty), windows)
    return _over_windows(partial(ranking.accuracies, coverage), windows, resamples, seed)


def accuracy_difference(
    first: tuple[Array, Array],
    second: tuple[Array, Array],
    groups: Array,
    coverage: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """`accuracy_interval` of `first` minus that of `second`: paired, as `aurc_difference` is."""
    windows = _windows(groups)
    one, other = (_Ranking.of(*_tokens(*tokens), windows) for tokens in (first, second))

    def difference(counts: np.ndarray) -> np.ndarray:
        return np.asarray(one.accuracies(coverage, counts) - other.accuracies(coverage, counts))

    return _over_windows(difference, windows, resamples, seed)


@dataclass(frozen=True)
class _Ranking:
    """Tokens from the most to the least certain, in tie groups of equal uncertainty.

    Attributes:
        errors: [n], int64, in that order.
        windows: which window each token belongs to, [n], in that order.
        edges: tokens before each tie group, and n, [t + 1].
    """

    errors: np.ndarray
    windows: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(
        cls, errors: np.ndarray, uncertainty: np.ndarray, windows: np.ndarray | None = None
    ) -> _Ranking:
        """`windows` [n] counts from zero; None: all tokens are one window."""
        windows = np.zeros(len(errors), dtype=np.int64) if windows is None else windows
        if len(windows) != len(errors):
            raise ValueError(f"{len(errors)} tokens, but the windows of {len(windows)}")
        order = np.argsort(uncertainty)
        ranked = uncertainty[order]
        steps = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
        edges = np.concatenate([[0], steps, [len(ranked)]])
        return cls(errors[order].astype(np.int64), windows[order], edges)

    def totals(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and errors among them, before each edge: [b, t + 1] each.

        `counts` [b, windows] says how often each window is there.
        """
        weights = counts.take(self.windows, axis=1)
        running = np.zeros((len(counts), len(self.errors) + 1), dtype=np.int64)
        weights.cumsum(1, out=running[:, 1:])
        kept = running.take(self.edges, axis=1)
        weights *= self.errors
        weights.cumsum(1, out=running[:, 1:])
        return kept, running.take(self.edges, axis=1)

    def accuracies(self, coverage: float, counts: np.ndarray) -> np.ndarray:
        """Accuracy at `coverage` of each of b samples, as in `aurcs`: [b]."""
        if not 0 < coverage <= 1:
            raise ValueError(f"a coverage lies in (0, 1], not {coverage}")
        kept, wrong = self.totals(counts)
        covered = coverage * kept[:, -1]
        # Expected errors grow along a line within a tie, so that interpolation is exact.
        expected = [np.interp(*each) for each in zip(covered, kept, wrong, strict=True)]
        return np.asarray(1 - np.array(expected) / covered)

    def aurcs(self, counts: np.ndarray) -> np.ndarray:
        """AURC of each of b samples in which window w stands `counts[b, w]` times: [b].

        The order by uncertainty is that of the original tokens, so nothing is sorted again. Copies
        of a token tie. In a tie group of g tokens with error rate r, after a tokens with c errors,
        the expected risk at k is (c + (k − a) r) / k; over the group that sums up to
        g r + (c − a r)(H(a + g) − H(a)) with the harmonic numbers H: exact, and one pass.
        """
        kept, wrong = self.totals(counts)
        harmonic = _harmonic(int(kept[:, -1].max()).bit_length())
        rate = np.diff(wrong) / np.maximum(np.diff(kept), 1)
        line_at_zero = wrong[:, :-1] - rate * kept[:, :-1]
        line_at_zero *= np.diff(harmonic.take(kept))
        return np.asarray((wrong[:, -1] + line_at_zero.sum(1)) / kept[:, -1])


@lru_cache(maxsize=1)  # all resamples of one sample need about as much of it
def _harmonic(bits: int) -> np.ndarray:
    """Harmonic numbers H_0, H_1, ... for indices of so many bits: [2**bits]."""
    return np.append(0, (1 / np.arange(1, 2**bits)).cumsum())


def _over_windows(
    areas: Callable[[np.ndarray], np.ndarray], windows: np.ndarray, resamples: int, seed: int
) -> Interval:
    """`areas` of [b, windows] counts, over resampled windows."""
    count = int(windows.max()) + 1

    def of_resampled(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        rows = chosen.reshape(-1, count)
        cells = rows + count * np.arange(len(rows))[:, None]
        counts = np.bincount(cells.ravel(), minlength=rows.size).reshape(rows.shape)
        return areas(counts).reshape(chosen.shape[:-1])

    batch = max(1, CHUNK_ELEMENTS // len(windows))
    return percentile_interval(
        of_resampled, (np.arange(count),), resamples=resamples, batch=batch, seed=seed
    )


def _tokens(errors: Array, uncertainty: Array) -> tuple[np.ndarray, np.ndarray]:
    wrong, unsure = np.asarray(errors), np.asarray(uncertainty)
    if wrong.dtype != bool:
        raise ValueError(f"errors must be bool, not {wrong.dtype}")
    if wrong.ndim != 1 or wrong.shape != unsure.shape:
        raise ValueError(f"errors {wrong.shape} and uncertainty {unsure.shape} must both be [n]")
    if not len(wrong):
        raise ValueError("there are no tokens")
    if np.isnan(unsure).any():
        raise ValueError(f"{int(np.isnan(unsure).sum())} uncertainties are NaN")
    return wrong, unsure


def _windows(groups: Array) -> np.ndarray:
    """The windows numbered from zero, [n]."""
    labels = np.asarray(groups)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"groups must be integers [n], not {labels.dtype} {labels.shape}")
    names, windows = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"an interval needs two windows or more, not {len(names)}")
    return windows
