"""Does the uncertainty tell a far text from the split that the model knows?

Documents are windows; a window's score is the mean over its tokens. The posterior's mutual
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
from bayesgen.evaluation.passes import Split

EPISTEMIC = "bma_epistemic"


@dataclass(frozen=True)
class Shift:
    """Detection of the far text by each score.

    Attributes:
        scores: name -> AUROC, FPR at 95 % TPR, and the ratio of far to near, with intervals.
        epistemic_minus: name -> AUROC of the mutual information minus that of the score.
    """

    scores: dict[str, Detection]
    epistemic_minus: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def detect_shift(near: tuple[Passes, Split], far: tuple[Passes, Split]) -> Shift:
    """Compare the windows of two passes of the same predictors.

    Raises:
        ValueError: one of the texts has fewer than two windows.
    """
    inside, outside = window_scores(*near), window_scores(*far)
    epistemic = inside[EPISTEMIC], outside[EPISTEMIC]
    return Shift(
        {name: detection(inside[name], outside[name]) for name in inside},
        {
            name: auroc_difference(epistemic, (inside[name], outside[name]))
            for name in inside
            if name != EPISTEMIC
        },
    )


def window_scores(passes: Passes, split: Split) -> dict[str, Tensor]:
    """Mean of each uncertainty over each window's tokens: [W], higher is less sure."""
    bma, deterministic = passes.mixed.bma.tokens, passes.singles["deterministic"].tokens
    each = {
        EPISTEMIC: bma.entropy.double() - passes.mixed.aleatoric,
        "bma_total": bma.entropy.double(),
        "deterministic_entropy": deterministic.entropy.double(),
        "deterministic_max_probability": 1 - deterministic.confidence.double(),
    }
    window = torch.arange(len(split.tokens)).repeat_interleave(split.tokens)
    return {
        name: torch.zeros(len(split.tokens), dtype=torch.float64).index_add_(0, window, values)
        / split.tokens
        for name, values in each.items()
    }
