"""What a fine-tune minimises and what it reports: losses, scores, weights of the classes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from bayesgen.config.jobs import FinetuneSettings
from bayesgen.data.labelled import Labelled
from bayesgen.errors import UserError
from bayesgen.tasks import TASKS

LEAST_NOISE = 1e-6
"""Standard deviation of the labels where a fine-tune fits all of them: a density needs some."""

Loss = Callable[..., Tensor]
Scores = dict[str, float | None]


def objective(
    settings: FinetuneSettings, labels: Labelled, config: Any
) -> tuple[Loss, Callable[[Any], Scores]]:
    """The loss and the scores of a fine-tune on `labels`, which the model's `config` then names."""
    if settings.task == "sentence-similarity":
        config.score_range = score_range(labels)
    if TASKS[settings.task].labels == "number":
        config.problem_type = "regression"
        return squared_error, regression_scores
    config.problem_type = "single_label_classification"
    config.id2label = dict(enumerate(labels.classes or ()))
    config.label2id = {name: i for i, name in config.id2label.items()}
    weights = balanced_weights(labels) if settings.class_weights == "balanced" else None
    return criterion(weights, settings.label_smoothing_factor), classification_scores


def balanced_weights(data: Labelled) -> Tensor:
    """Weights [K] that make every class count the same, and whose mean over the rows is 1."""
    assert data.classes is not None
    counts = torch.bincount(torch.as_tensor(data.labels), minlength=len(data.classes))
    if not counts.all():
        absent = data.classes[int(counts.argmin())]
        raise UserError(
            f"`class_weights=balanced`: no training row is of class '{absent}'; take more"
            " `train_samples`, or leave the setting out"
        )
    return counts.sum() / (len(counts) * counts)


def criterion(weights: Tensor | None, label_smoothing: float) -> Loss:
    """Cross-entropy in nats with `weights` [K] of the classes, summed over the rows and divided by
    how many an optimizer step has: by rows and not by their weights, which gives the same gradient
    however a batch is split."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        logits = outputs.logits.float()
        total = F.cross_entropy(
            logits,
            labels,
            weight=None if weights is None else weights.to(logits),
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


def squared_error(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """The same for labels that are real numbers: half of it is the Gaussian's NLL at σ = 1."""
    total = F.mse_loss(outputs.logits.float().view_as(labels), labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def classification_scores(prediction: Any) -> Scores:
    """Accuracy and macro-F1 of logits [N, K]."""
    logits, labels = map(torch.as_tensor, (prediction.predictions, prediction.label_ids))
    classes = logits.shape[1]
    return {
        "accuracy": float(multiclass_accuracy(logits, labels, classes, average="micro")),
        "macro_f1": float(multiclass_f1_score(logits, labels, classes, average="macro")),
    }


def regression_scores(prediction: Any) -> Scores:
    """Correlations of outputs [N, 1] with the labels; None where one of both does not vary, as of a
    single row."""
    outputs, labels = prediction.predictions.reshape(-1), prediction.label_ids
    if len(labels) < 2:
        return {"spearman": None, "pearson": None}
    with warnings.catch_warnings(action="ignore", category=stats.DegenerateDataWarning):
        found = {
            "spearman": stats.spearmanr(outputs, labels).statistic,
            "pearson": stats.pearsonr(outputs, labels).statistic,
        }
    return {name: float(r) if math.isfinite(r) else None for name, r in found.items()}


def score_range(data: Labelled) -> list[float]:
    """The lowest and the highest score of `data`, which must differ."""
    low, high = float(data.labels.min()), float(data.labels.max())
    if low == high:
        raise UserError(
            f"{data.name}: all {len(data):,} scores are {low:g}; a similarity needs texts that are"
            " more alike than others"
        )
    return [low, high]


def set_noise(config: Any, val_loss: float) -> float:
    """Keep in `config` the noise of real-valued labels, and return it: the root of their mean
    squared error, at which the likelihood is largest."""
    config.noise_std = max(math.sqrt(val_loss), LEAST_NOISE)
    return float(config.noise_std)
