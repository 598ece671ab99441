"""The arithmetic of a mixture: the average of the draws' probabilities, and how sure it is.

    log p(y | x) = logsumexp_s log p(y | x, θ_s) − log S

Logits are never averaged, and the exponential of a mean log-likelihood is never called a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def log_mean(each: Tensor) -> Tensor:
    """log of the mean of exp(each) over the draws: [S, ...] -> [...]."""
    return each.logsumexp(0) - math.log(len(each))


def entropy(probs: Tensor) -> Tensor:
    """H of the distributions `probs` [..., V]: [...], in nats."""
    found: Tensor = torch.special.entr(probs).sum(-1)
    return found


class RunningMixture:
    """The mixture of log-probabilities that come one draw at a time: one tensor is held."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | None = None

    def add(self, log_probs: Tensor) -> None:
        """Take one more draw's log-probabilities [...]; the first tensor is written to later."""
        self.count += 1
        if self._sum is None:
            self._sum = log_probs
        else:
            differentiable = self._sum.requires_grad or log_probs.requires_grad
            out = None if differentiable else self._sum
            self._sum = torch.logaddexp(self._sum, log_probs, out=out)

    @property
    def log_probs(self) -> Tensor:
        """log of the mean probabilities so far, [...].

        Raises:
            ValueError: there is no draw yet.
        """
        if self._sum is None:
            raise ValueError("a mixture needs at least one draw")
        return self._sum - math.log(self.count)


def mixture(each: Iterable[Tensor]) -> Tensor:
    """log of the mean of probability tensors whose logs come one at a time.

    Raises:
        ValueError: there are none.
    """
    running = RunningMixture()
    for log_probs in each:
        running.add(log_probs)
    return running.log_probs


@dataclass(frozen=True)
class Uncertainty:
    """How sure a mixture is, in total and in two parts; tensors of one shape, or numbers.

    Of classes and tokens these are entropies in nats: H[p̄], mean_s H[p_s], and their difference,
    the mutual information of label and weights (Depeweg et al. 2018,
    https://arxiv.org/abs/1710.07283). Of real-valued labels they are variances, in squared units of
    the labels: that of the mixture, σ² of the noise, and the variance of the draws' outputs.
    """

    total: Any
    aleatoric: Any
    epistemic: Any

    @classmethod
    def of(cls, mixed: Tensor, entropies: Tensor) -> Uncertainty:
        """Of a mixture's log-probabilities [..., V] and the entropy of each draw's [S, ...]."""
        total, aleatoric = entropy(mixed.exp()), entropies.mean(0)
        return cls(total, aleatoric, (total - aleatoric).clamp(min=0))


def decomposed(each: Iterable[Tensor]) -> tuple[Tensor, Uncertainty]:
    """The mixture of log-probabilities [..., V] that come one draw at a time, and its entropies
    [...]."""
    entropies: list[Tensor] = []

    def noted() -> Iterator[Tensor]:
        for log_probs in each:
            entropies.append(entropy(log_probs.exp()))
            yield log_probs

    mixed = mixture(noted())
    return mixed, Uncertainty.of(mixed, torch.stack(entropies))
