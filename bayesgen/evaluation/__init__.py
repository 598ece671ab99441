"""Scores of a predictive on a split of the data."""

from bayesgen.evaluation.evaluate import SplitReport, evaluate_split, run_passes, score_checkpoint
from bayesgen.evaluation.metrics import METRICS, Metric, Undefined

__all__ = [
    "METRICS",
    "Metric",
    "SplitReport",
    "Undefined",
    "evaluate_split",
    "run_passes",
    "score_checkpoint",
]
