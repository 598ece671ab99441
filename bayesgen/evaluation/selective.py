"""Risk and coverage: how much predicting only the most certain tokens lowers the error rate.

Geifman & El-Yaniv 2017, https://arxiv.org/abs/1705.08500; the area under the curve (AURC) and its
excess: Geifman et al. 2019, https://arxiv.org/abs/1805.08206.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from bayesgen.evaluation.metrics import ONE_WINDOW, Interval, Passes, percentile_intervals
from bayesgen.evaluation.walk import Split, progress_bar

RESAMPLES = 1000
CHUNK_ELEMENTS = 2**17
"""Token weights of the resamples that are worked on at once: 1 MiB of int64, to stay in a cache."""
CURVE_POINTS = 21
COVERAGE = 0.8  # share of labelled rows, the most certain ones, whose accuracy is reported
MEASURES = (
    "aurc", "minus_deterministic", "accuracy_at_80", "accuracy_at_80_minus_max_probability",
)  # fmt: skip
"""Of tokens the first two, of classes all."""


def uncertainties(passes: Passes) -> dict[str, Tensor]:
    """The uncertainties of each token or class [n], float64: higher is less sure. A name begins
    with the predictor that the uncertainty is of."""
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

    `curve`: see `Ranking.curve`. `aurc`: its area with the interval over windows, and
    `minus_deterministic`, that minus the deterministic predictor's by its entropy.
    `accuracy_at_80`: accuracy among the 80 % most certain rows, of classes alone, and
    `accuracy_at_80_minus_max_probability`, that minus the deterministic predictor's by its largest
    probability. `no_interval`: why there are none, or None.
    """
    windows = np.repeat(np.arange(len(split.tokens)), split.tokens)
    rankings = {
        name: Ranking.of(~passes.said[name.split("_")[0]].tokens.correct, values, windows)
        for name, values in uncertainties(passes).items()
    }
    entropy, best = rankings["deterministic_entropy"], rankings["deterministic_max_probability"]
    several = len(split.tokens) > 1
    measured = MEASURES[: 4 if split.kind == "class" else 2] if several else ()
    found = {}
    with progress_bar(progress and f"{progress}: intervals", len(rankings)) as advance:
        for name, own in rankings.items():

            def measures(counts: np.ndarray, own: Ranking = own) -> list[np.ndarray]:
                numbers = [own.aurcs(counts)]
                numbers.append(numbers[0] - entropy.aurcs(counts))
                if "accuracy_at_80" in measured:
                    numbers.append(own.accuracies(COVERAGE, counts))
                    numbers.append(numbers[2] - best.accuracies(COVERAGE, counts))
                return numbers

            intervals = window_intervals(measures, own) if several else []
            found[name] = {
                "predictor": name.split("_")[0],
                "curve": own.curve(CURVE_POINTS),
                **dict.fromkeys(MEASURES),
                **{key: vars(interval) for key, interval in zip(measured, intervals, strict=True)},
                "no_interval": None if several else ONE_WINDOW,
            }
            advance(1)
    return found


def window_intervals(
    measures: Callable[[np.ndarray], list[np.ndarray]],
    ranking: Ranking,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval]:
    """Measures of rankings with their 95 % intervals: of `counts` [b, windows], how often each
    window is there in b samples, each [b].

    Tokens of one window share their context, so whole windows of the `ranking`, two or more, are
    resampled (percentile bootstrap), for all measures the same ones.
    """
    count = int(ranking.windows.max()) + 1

    def of_resampled(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        rows = chosen.reshape(-1, count)
        cells = rows + count * np.arange(len(rows))[:, None]
        counts = np.bincount(cells.ravel(), minlength=rows.size).reshape(rows.shape)
        found = np.stack(measures(counts))
        return found.reshape(len(found), *chosen.shape[:-1])

    batch = max(1, CHUNK_ELEMENTS // len(ranking.windows))
    return percentile_intervals(
        of_resampled, (np.arange(count),), resamples=resamples, batch=batch, seed=seed
    )


def ranked(uncertainty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of n numbers from the smallest to the largest, and how many come before each tie group
    of equal ones, and n, [t + 1]."""
    order = np.argsort(uncertainty, kind="stable")
    rising = uncertainty[order]
    steps = np.flatnonzero(rising[1:] != rising[:-1]) + 1
    return order, np.concatenate([[0], steps, [len(order)]])


@dataclass(frozen=True)
class Ranking:
    """Tokens from the most to the least certain, in tie groups of equal uncertainty."""

    errors: np.ndarray  # [n], int64, in that order
    windows: np.ndarray  # which window each token belongs to, counted from zero [n]
    edges: np.ndarray  # tokens before each tie group, and n, [t + 1]

    @classmethod
    def of(cls, errors: Any, uncertainty: Any, windows: Any) -> Ranking:
        """Rank n tokens, given as arrays, or tensors on the CPU: whether the guess was wrong, how
        unsure it was (may be infinite; ValueError for NaN), and the number of the window, [n] each.
        """
        unsure = np.asarray(uncertainty)
        if np.isnan(unsure).any():
            raise ValueError(f"{int(np.isnan(unsure).sum())} uncertainties are NaN")
        order, edges = ranked(unsure)
        numbered = np.unique(windows, return_inverse=True)[1]
        return cls(np.asarray(errors)[order].astype(np.int64), numbered[order], edges)

    def totals(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and errors among them, before each edge, [b, t + 1] each, where each window is
        there so often: `counts` [b, windows]."""
        weights = counts.take(self.windows, axis=1)
        running = np.zeros((len(counts), len(self.errors) + 1), dtype=np.int64)
        weights.cumsum(1, out=running[:, 1:])
        kept = running.take(self.edges, axis=1)
        weights *= self.errors
        weights.cumsum(1, out=running[:, 1:])
        return kept, running.take(self.edges, axis=1)

    def accuracies(self, coverage: float, counts: np.ndarray) -> np.ndarray:
        """Accuracy among the most certain tokens, a share `coverage` of all, in each of b samples
        as in `aurcs`: [b]. One minus the risk there, as in `curve`."""
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

    def curve(self, points: int) -> dict[str, Any]:
        """The risk-coverage curve, its area, and the areas that it lies between; plain data.

        `coverages`: `points` of them, evenly spaced, 0 to 1. `risks`: error rate among that share
        of the `num_tokens` tokens, the most certain ones; a token on the edge counts with the part
        of it that is covered; at coverage 0: the limit. `aurc`: mean over k = 1..n of the error
        rate among the k most certain tokens. `excess_aurc`: that minus the one of the best
        ordering, which puts every error last (that of n tokens, where the paper takes its limit).
        `aurc_random`: that of a random ordering, the error rate.

        Tokens of equal uncertainty are taken in random order, and the risk is its expectation over
        that order, exactly.
        """
        once = np.ones((1, int(self.windows.max()) + 1), dtype=np.int64)
        kept, wrong = (totals[0] for totals in self.totals(once))
        coverages = np.linspace(0, 1, points)
        covered = coverages[1:] * kept[-1]
        risks = np.append(wrong[1] / kept[1], np.interp(covered, kept, wrong) / covered)
        aurc = float(self.aurcs(once)[0])
        best = Ranking.of(self.errors, self.errors, self.windows)
        return {
            "num_tokens": len(self.errors),
            "coverages": coverages.tolist(),
            "risks": risks.tolist(),
            "aurc": aurc,
            "excess_aurc": aurc - float(best.aurcs(once)[0]),
            "aurc_random": float(self.errors.mean()),
        }


@lru_cache(maxsize=1)  # all resamples of one sample need about as much of it
def _harmonic(bits: int) -> np.ndarray:
    """Harmonic numbers H_0, H_1, ... for indices of so many bits: [2**bits]."""
    return np.append(0, (1 / np.arange(1, 2**bits)).cumsum())
