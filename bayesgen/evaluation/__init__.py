"""Scores of a predictive on a split of the data."""

from bayesgen.evaluation.evaluate import (
    SplitReport,
    evaluate_split,
    passes_key,
    run_passes,
    score_checkpoint,
)

__all__ = ["SplitReport", "evaluate_split", "passes_key", "run_passes", "score_checkpoint"]
