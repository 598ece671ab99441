"""The arithmetic of a mixture over the draws: its probabilities, and how sure it is.

    log p(y | x) = logsumexp_s log p(y | x, θ_s) − log S

Logits are never averaged, and the exponential of a mean log-likelihood is never called a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import elementwise
from scipy.special import ndtr, ndtri
from torch import Tensor

MAX_ELEMENTS = 2**22  # means of Gaussians that are worked on at once (32 MiB of float64)
SLACK = 1e-3  # widening of a bracket, in units of σ: that of one draw has no width


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
        """log of the mean probabilities so far, [...]."""
        if self._sum is None:
            raise ValueError("a mixture needs at least one draw")
        return self._sum - math.log(self.count)


def mixture_of(each: Iterable[Tensor]) -> Tensor:
    """log of the mean of probability tensors whose logs come one at a time: one or more."""
    running = RunningMixture()
    for log_probs in each:
        running.add(log_probs)
    return running.log_probs


@dataclass(frozen=True)
class Uncertainty:
    """How sure a mixture is, in total and in two parts: entropies in nats, tensors of one shape.

    H[p̄], mean_s H[p_s], and their difference, the mutual information of label and weights (Depeweg
    et al. 2018, https://arxiv.org/abs/1710.07283).
    """

    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor

    @classmethod
    def of(cls, mixed: Tensor, entropies: Tensor) -> Uncertainty:
        """Of a mixture's log-probabilities [..., V] and the entropy of each draw's [S, ...]."""
        total, aleatoric = entropy(mixed.exp()), entropies.mean(0)
        return cls(total, aleatoric, (total - aleatoric).clamp(min=0))


def decomposed(each: Iterable[Tensor]) -> tuple[Tensor, Uncertainty]:
    """The mixture of log-probabilities [..., V] that come one draw at a time, and its entropies
    [...]."""
    running, entropies = RunningMixture(), []
    for log_probs in each:
        entropies.append(entropy(log_probs.exp()))
        running.add(log_probs)
    return running.log_probs, Uncertainty.of(running.log_probs, torch.stack(entropies))


@dataclass(frozen=True)
class GaussianMixture:
    """The predictives of n real-valued labels, in units of these: a Gaussian for each draw.

        p(y | x) = 1/S Σ_s N(y; f_s(x), σ²)

    The mean is that of the draws' outputs, but the mixture is wider, and not a Gaussian. Numbers
    come in float64.
    """

    means: Tensor  # f_s(x) [S, n], of any float dtype, on the CPU
    std: Tensor  # σ of each label [n], float64

    @classmethod
    def of(cls, means: Tensor, std: float | Tensor) -> GaussianMixture:
        """From means [S, n] of any float dtype, and one σ or that of each label [n]."""
        if means.dim() != 2 or not len(means):
            raise ValueError(f"means must be [S, n] of 1 draw or more, not {list(means.shape)}")
        sigma = torch.as_tensor(std, dtype=torch.float64).expand(means.shape[1])
        if not bool((sigma > 0).all()):
            raise ValueError("the standard deviation of the noise must be above 0")
        return cls(means, sigma)

    def log_prob(self, labels: Tensor) -> Tensor:
        """log p(y | x) of `labels` [n]: [n], in nats."""
        z = (labels.double() - self.means.double()) / self.std
        return log_mean(-0.5 * z.square() - self.std.log() - 0.5 * math.log(2 * math.pi))

    def cdf(self, labels: Tensor) -> Tensor:
        """P(Y <= y | x) of `labels` [n]: [n]. Of the true labels it is the probability integral
        transform, uniform where the predictive is calibrated (Dawid 1984)."""
        each: Tensor = torch.special.ndtr((labels.double() - self.means.double()) / self.std)
        return each.mean(0)

    @property
    def mean(self) -> Tensor:
        """E[Y | x] [n]."""
        return self.means.double().mean(0)

    @property
    def aleatoric(self) -> Tensor:
        """Variance of the noise, mean_s Var[Y | x, θ_s] = σ² [n]."""
        return self.std.square()

    @property
    def epistemic(self) -> Tensor:
        """Variance that the draws' disagreement adds, var_s f_s(x) [n]. With `aleatoric` it sums up
        to the variance of the mixture (the law of total variance)."""
        return self.means.double().var(0, correction=0)

    def quantile(self, probability: float) -> Tensor:
        """y with P(Y <= y | x) = `probability`, found as a root: [n]. ValueError where an output is
        not finite."""
        if not 0 < probability < 1:
            raise ValueError(f"a quantile is at a probability inside (0, 1), not {probability}")
        means, std = self.means.double().numpy(), self.std.numpy()
        # the quantile of the mixture lies between those of its parts
        parts = ndtri(probability) * std
        bracket = means.min(0) + parts - SLACK * std, means.max(0) + parts + SLACK * std

        def excess(y: np.ndarray, row: np.ndarray) -> np.ndarray:
            return np.asarray(ndtr((y - means[:, row]) / std[row]).mean(0) - probability)

        found = elementwise.find_root(excess, bracket, args=(np.arange(means.shape[1]),))
        if not np.all(found.success):
            raise ValueError("a quantile was not found: an output of the draws is not finite")
        return torch.from_numpy(np.asarray(found.x))

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """Ends [n] of the central interval that holds Y with probability `level`: below it lies as
        much as above."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def blocks(self) -> Iterator[GaussianMixture]:
        """The predictives of some labels after the other, in pieces that are cheap to work on."""
        step = max(1, MAX_ELEMENTS // len(self.means))
        return map(GaussianMixture, self.means.split(step, 1), self.std.split(step))
