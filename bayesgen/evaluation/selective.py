"""Risk and coverage: how much predicting only the most certain tokens lowers the error rate.

Geifman & El-Yaniv 2017, https://arxiv.org/abs/1705.08500; the area under the curve (AURC) and its
excess: Geifman et al. 2019, https://arxiv.org/abs/1805.08206.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesgen.evaluation.metrics import ONE_WINDOW, Interval, Passes, percentile_interval
from bayesgen.evaluation.walk import Split, progress_bar

RESAMPLES = 1000
CHUNK_ELEMENTS = 2**17
"""Token weights of the resamples that are worked on at once: 1 MiB of int64, to stay in a cache."""

CURVE_POINTS = 21
COVERAGE = 0.8
"""Share of labelled rows, the most certain ones, whose accuracy is reported."""
Array = np.ndarray | Tensor
"""A tensor must lie on the CPU."""


def uncertainties(passes: Passes) -> dict[str, Tensor]:
    """The uncertainties of each token or class [n], float64: higher is less sure.

    A name begins with the predictor that the uncertainty is of.
    """
    bma, deterministic = passes.said["bma"].tokens, passes.said["deterministic"].tokens
    total = bma.entropy.double()
    return {
        "deterministic_entropy": deterministic.entropy.double(),
        "deterministic_max_probability": 1 - deterministic.confidence.double(),
        "bma_total": total,
        "bma_epistemic": total - passes.aleatoric,
        "bma_max_probability": 1 - bma.confidence.double(),
    }


def selective(passes: Passes, split: Split, progress: str | None = None) -> dict[str, Any]:
    """How well each of `uncertainties` ranks the errors of its `predictor`, plain data.

    `curve`: a `RiskCoverage`. `aurc`: its area with the interval over windows, and
    `minus_deterministic`, that minus the deterministic predictor's by its entropy.
    `accuracy_at_80`: accuracy among the 80 % most certain rows, of classes alone, and
    `accuracy_at_80_minus_max_probability`, that minus the deterministic predictor's by its largest
    probability. `no_interval`: why there are none, or None.
    """
    windows = torch.arange(len(split.tokens)).repeat_interleave(split.tokens)
    ranked = {
        name: (~passes.said[name.split("_")[0]].tokens.correct, values)
        for name, values in uncertainties(passes).items()
    }
    entropy, best = ranked["deterministic_entropy"], ranked["deterministic_max_probability"]
    several = len(split.tokens) > 1
    measures: dict[str, tuple[Measure, Any, bool]] = {
        "aurc": (Ranking.aurcs, None, several),
        "minus_deterministic": (Ranking.aurcs, entropy, several),
        "accuracy_at_80": (accuracy_at(COVERAGE), None, several and split.kind == "class"),
        "accuracy_at_80_minus_max_probability": (
            accuracy_at(COVERAGE), best, several and split.kind == "class",
        ),
    }  # fmt: skip
    found = {}
    with progress_bar(progress and f"{progress}: intervals", len(ranked)) as advance:
        for name, own in ranked.items():
            intervals = {
                key: asdict(selective_interval(measure, own, windows, minus)) if there else None
                for key, (measure, minus, there) in measures.items()
            }
            found[name] = {
                "predictor": name.split("_")[0],
                "curve": asdict(risk_coverage(*own, CURVE_POINTS)),
                **intervals,
                "no_interval": None if several else ONE_WINDOW,
            }
            advance(1)
    return found


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
    ranking, best = Ranking.of(wrong, unsure), Ranking.of(wrong, wrong)
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


Measure = Callable[["Ranking", np.ndarray], np.ndarray]
"""A number of a ranking in each of b samples of its windows, see `Ranking.aurcs`."""


def selective_interval(
    measure: Measure,
    first: tuple[Array, Array],
    groups: Array,
    minus: tuple[Array, Array] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A measure of the ranking `first` with its 95 % interval, or its difference to another's.

    Tokens of one window share their context, so whole windows are resampled (percentile bootstrap).
    A difference is paired: both are taken on the same resampled windows.

    Args:
        measure: `Ranking.aurcs`, the area under the risk-coverage curve, or `accuracy_at(c)`.
        first: errors and uncertainty of the tokens, as in `risk_coverage`.
        groups: the window of each token, [n], integers; of labelled rows each is one.
        minus: errors and uncertainty of the same tokens, by what is subtracted.

    Raises:
        ValueError: as in `risk_coverage`, or groups do not fit or are fewer than two.
    """
    windows = _windows(groups)
    one = Ranking.of(*_tokens(*first), windows)
    other = None if minus is None else Ranking.of(*_tokens(*minus), windows)
    count = int(windows.max()) + 1

    def of_resampled(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        rows = chosen.reshape(-1, count)
        cells = rows + count * np.arange(len(rows))[:, None]
        counts = np.bincount(cells.ravel(), minlength=rows.size).reshape(rows.shape)
        found = measure(one, counts)
        if other is not None:
            found = found - measure(other, counts)
        return found.reshape(chosen.shape[:-1])

    batch = max(1, CHUNK_ELEMENTS // len(windows))
    return percentile_interval(
        of_resampled, (np.arange(count),), resamples=resamples, batch=batch, seed=seed
    )


def accuracy_at(coverage: float) -> Measure:
    """Accuracy among the most certain tokens, a share `coverage` of all: one minus the risk there
    (see `RiskCoverage`).

    Raises:
        ValueError: the coverage is not in (0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"a coverage lies in (0, 1], not {coverage}")
    return lambda ranking, counts: ranking.accuracies(coverage, counts)


@dataclass(frozen=True)
class Ranking:
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
    ) -> Ranking:
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
