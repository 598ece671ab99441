"""Log-likelihoods: log p(labels | logits), per observation, per sequence and as a batch total.

For a language model the observation is the *target token*: every position of a window counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""A label that is not an observation (padding)."""


class Likelihood(Protocol):
    """What a log posterior needs of log p(labels | outputs): this module itself is the categorical
    one, `Gaussian` another."""

    def total(self, outputs: Tensor, labels: Tensor, /) -> Tensor:
        """Log-likelihood of the whole batch: a scalar, the sum over its observations, in nats."""

    def per_sequence(self, outputs: Tensor, labels: Tensor, /) -> Tensor:
        """Log-likelihood of each row of the batch: [B], the sum over its observations, in nats."""

    def count(self, labels: Tensor, /) -> Tensor:
        """How many observations `labels` holds: a scalar integer tensor."""


def per_observation(logits: Tensor, labels: Tensor) -> Tensor:
    """Categorical log-likelihood of each label, in nats.

    Args:
        logits: [..., V], of any float dtype; the softmax is taken in float32.
        labels: [...] class or token ids; `IGNORED` where there is no observation.

    Returns:
        [...], float32; exactly 0 where the label is ignored.
    """
    flat = F.cross_entropy(
        logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return -flat.view(labels.shape)


def per_sequence(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-likelihood of each row of the batch: [B], the sum over its observations, in nats."""
    return per_observation(logits, labels).reshape(len(labels), -1).sum(1)


def total(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-likelihood of the whole batch: a scalar, the sum over its observations, in nats."""
    return -F.cross_entropy(
        logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def count(labels: Tensor) -> Tensor:
    """How many observations `labels` holds: a scalar int64 tensor."""
    return (labels != IGNORED).sum()


@dataclass(frozen=True)
class Gaussian:
    """Labels [B] that are real numbers: N(output, std²), with outputs [B, 1] or [B].

    A label that is no observation is NaN.

    Attributes:
        std: standard deviation of the noise, in units of the labels.
    """

    std: float = 1.0

    def per_sequence(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Log-likelihood of each row of the batch, [B], in nats."""
        missing = labels.isnan()
        residual = (labels.float() - outputs.float().view_as(labels)) / self.std
        density = -0.5 * residual.masked_fill(missing, 0).square()
        return density - (~missing) * (0.5 * math.log(2 * math.pi) + math.log(self.std))

    def total(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Log-likelihood of the whole batch: a scalar, in nats."""
        return self.per_sequence(outputs, labels).sum()

    def count(self, labels: Tensor) -> Tensor:
        """How many observations `labels` holds: a scalar int64 tensor."""
        return (~labels.isnan()).sum()
