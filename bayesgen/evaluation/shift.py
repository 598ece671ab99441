"""Detection of out-of-distribution text or rows by the uncertainty about them.

Documents are windows or rows; the score of one is the mean over its tokens. The posterior's mutual
information and total entropy stand against what the deterministic model has: its entropy, and one
minus its largest probability.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bayesgen.evaluation.cache import Passes
from bayesgen.evaluation.intervals import Interval
from bayesgen.evaluation.ood import Detection, auroc_difference, detection
from bayesgen.evaluation.selective import uncertainties
from bayesgen.evaluation.walk import Split

EPISTEMIC = "bma_epistemic"
SCORES = (EPISTEMIC, "bma_total", "deterministic_entropy", "deterministic_max_probability")


@dataclass(frozen=True)
class Shift:
    """Detection of out-of-distribution documents by each score.

    Attributes:
        scores: name -> AUROC, FPR at 95 % TPR, the ratio of the means (outside over inside).
        epistemic_minus: name -> AUROC of the mutual information minus that of the score.
    """

    scores: dict[str, Detection]
    epistemic_minus: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def detect_shift(inside: tuple[Passes, Split], outside: tuple[Passes, Split]) -> Shift:
    """Compare the windows of two passes of the same predictors.

    Raises:
        ValueError: one of the texts has fewer than two windows.
    """
    one, other = window_scores(*inside), window_scores(*outside)
    scores = {name: (one[name], other[name]) for name in SCORES}
    return Shift(
        {name: detection(*pair) for name, pair in scores.items()},
        {
            name: auroc_difference(scores[EPISTEMIC], pair)
            for name, pair in scores.items()
            if name != EPISTEMIC
        },
    )


def window_scores(passes: Passes, split: Split) -> dict[str, Tensor]:
    """Mean of each uncertainty over each window's tokens: [W], higher is less sure."""
    window = torch.arange(len(split.tokens)).repeat_interleave(split.tokens)
    each = uncertainties(passes)
    return {
        name: torch.zeros(len(split.tokens), dtype=torch.float64).index_add_(0, window, each[name])
        / split.tokens
        for name in SCORES
    }
