"""Detection of out-of-distribution text or rows by the uncertainty about them.

Documents are windows or rows; the score of one is the mean over its tokens. The posterior's mutual
information and total entropy stand against what the deterministic model has: its entropy, and one
minus its largest probability.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from bayesgen.evaluation.cache import Passes
from bayesgen.evaluation.ood import auroc_difference, detection
from bayesgen.evaluation.selective import uncertainties
from bayesgen.evaluation.walk import Split

EPISTEMIC = "bma_epistemic"
SCORES = (EPISTEMIC, "bma_total", "deterministic_entropy", "deterministic_max_probability")


def detect_shift(
    inside: tuple[Passes, Split], outside: tuple[Passes, Split]
) -> dict[str, dict[str, Any]]:
    """Compare the rows of two passes of the same predictors; plain data.

    `scores`: uncertainty -> its `ood.Detection`. `epistemic_minus`: uncertainty -> AUROC of the
    mutual information minus that of the uncertainty, with its interval.

    Raises:
        ValueError: one of the two has fewer than two rows.
    """
    one, other = window_scores(*inside), window_scores(*outside)
    scores = {name: (one[name], other[name]) for name in SCORES}
    return {
        "scores": {name: asdict(detection(*pair)) for name, pair in scores.items()},
        "epistemic_minus": {
            name: asdict(auroc_difference(scores[EPISTEMIC], pair))
            for name, pair in scores.items()
            if name != EPISTEMIC
        },
    }


def window_scores(passes: Passes, split: Split) -> dict[str, Tensor]:
    """Mean of each uncertainty over each window's tokens: [W], higher is less sure."""
    window = torch.arange(len(split.tokens)).repeat_interleave(split.tokens)
    each = uncertainties(passes)
    return {
        name: torch.zeros(len(split.tokens), dtype=torch.float64).index_add_(0, window, each[name])
        / split.tokens
        for name in SCORES
    }
