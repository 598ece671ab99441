"""Log-likelihoods: log p(labels | outputs), per observation, per sequence and as a batch total.

For a language model the observation is the *target token*: every position of a window counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from bayesgen.registry import resolved
from bayesgen.tasks import Task

IGNORED = -100
"""A label that is not an observation (padding)."""


class Likelihood(Protocol):
    """log p(labels | outputs), in nats, of any object with these methods.

    Outputs [B, ...] are what the network returns for a batch of B rows, and labels [B, ...] the
    batch's "labels"; densities must be differentiable in the outputs.

    Example:
        Counts with a Poisson distribution whose log rate the network puts out:

        >>> import torch
        >>> class Poisson:
        ...     def per_sequence(self, outputs, labels):
        ...         rate = torch.distributions.Poisson(outputs.squeeze(-1).exp())
        ...         return rate.log_prob(labels)
        ...
        ...     def total(self, outputs, labels):
        ...         return self.per_sequence(outputs, labels).sum()
        ...
        ...     def count(self, labels):
        ...         return torch.tensor(labels.numel())
        >>> float(Poisson().total(torch.zeros(2, 1), torch.tensor([0.0, 1.0])))
        -2.0
    """

    def total(self, outputs: Tensor, labels: Tensor, /) -> Tensor:
        """Log-likelihood of the whole batch: a scalar, the sum over its observations."""

    def per_sequence(self, outputs: Tensor, labels: Tensor, /) -> Tensor:
        """Log-likelihood of each row of the batch: [B], the sum over its observations."""

    def count(self, labels: Tensor, /) -> Tensor:
        """How many observations `labels` holds: a scalar integer tensor."""


@dataclass(frozen=True)
class Categorical:
    """Labels [...] that are ids of classes or tokens, with logits [..., V] of any float dtype.

    The softmax is taken in float32. A label that is no observation is `IGNORED`.

    Example:
        >>> import torch
        >>> from bayesgen import Categorical
        >>> logits, labels = torch.zeros(3, 2), torch.tensor([0, 1, -100])
        >>> float(Categorical().total(logits, labels)), int(Categorical().count(labels))
        (-1.386..., 2)
    """

    def per_observation(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Log-likelihood of each label [...], float32; exactly 0 where the label is ignored."""
        flat = F.cross_entropy(
            logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return -flat.view(labels.shape)

    def per_sequence(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Log-likelihood of each row, [B], in nats."""
        return self.per_observation(logits, labels).reshape(len(labels), -1).sum(1)

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Log-likelihood of the whole batch, a scalar, in nats."""
        return -F.cross_entropy(
            logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def count(self, labels: Tensor) -> Tensor:
        """How many labels are observations, a scalar."""
        return (labels != IGNORED).sum()


@dataclass(frozen=True)
class Gaussian:
    """Labels [B] that are real numbers: N(output, std²), with outputs [B, 1] or [B].

    A label that is no observation is NaN.

    Attributes:
        std: standard deviation of the noise, in units of the labels.

    Example:
        >>> import torch
        >>> from bayesgen import Gaussian
        >>> float(Gaussian(0.5).total(torch.zeros(2, 1), torch.tensor([0.0, 1.0])))
        -2.451...
    """

    std: float = 1.0

    def per_sequence(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Log-likelihood of each row, [B], in nats."""
        missing = labels.isnan()
        residual = (labels.float() - outputs.float().view_as(labels)) / self.std
        density = -0.5 * residual.masked_fill(missing, 0).square()
        return density - (~missing) * (0.5 * math.log(2 * math.pi) + math.log(self.std))

    def total(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Log-likelihood of the whole batch, a scalar, in nats."""
        return self.per_sequence(outputs, labels).sum()

    def count(self, labels: Tensor) -> Tensor:
        """How many labels are observations, a scalar."""
        return (~labels.isnan()).sum()


def likelihood_of(task: Task, *std: float) -> Likelihood:
    """The likelihood of `task`; for real numbers with noise `std`, if that is known."""
    if task.likelihood is None:
        return Gaussian(*std) if task.labels == "number" else Categorical()
    made: Likelihood = resolved(task.likelihood)(*std)
    return made
