"""Scores of a predictive on a split of the data."""

from bayesgen.evaluation.evaluate import SplitReport, evaluate_split
from bayesgen.evaluation.intervals import Undefined
from bayesgen.evaluation.metrics import METRICS, Metric
from bayesgen.evaluation.passes import run_passes, score_checkpoint

__all__ = [
    "METRICS",
    "Metric",
    "SplitReport",
    "Undefined",
    "evaluate_split",
    "run_passes",
    "score_checkpoint",
]
