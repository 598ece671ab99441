"""The predictive of a real-valued label: a mixture of Gaussians, one for each draw.

    p(y | x) = 1/S Σ_s N(y; f_s(x), σ²)

Its mean is that of the draws' outputs, but it is wider, and not a Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import elementwise
from scipy.special import ndtr, ndtri
from torch import Tensor

from bayesgen.predictive.mixture import log_mean

MAX_ELEMENTS = 2**22
"""Means that are worked on at once (32 MiB of float64)."""
SLACK = 1e-3
"""Widening of a bracket, in units of σ: that of one draw has no width."""


@dataclass(frozen=True)
class GaussianMixture:
    """The predictives of n labels, in units of these.

    Numbers come in float64.

    Attributes:
        means: f_s(x) [S, n], of any float dtype, on the CPU.
        std: σ of each label [n], float64.
    """

    means: Tensor
    std: Tensor

    @classmethod
    def of(cls, means: Tensor, std: float | Tensor) -> GaussianMixture:
        """From means [S, n] of any float dtype, and one σ or that of each label [n].

        Raises:
            ValueError: there are no draws, or a σ is not above 0.
        """
        if means.dim() != 2 or not len(means):
            raise ValueError(f"means must be [S, n] of 1 draw or more, not {list(means.shape)}")
        sigma = torch.as_tensor(std, dtype=torch.float64).expand(means.shape[1])
        if not bool((sigma > 0).all()):
            raise ValueError("the standard deviation of the noise must be above 0")
        return cls(means, sigma)

    def log_prob(self, labels: Tensor) -> Tensor:
        """log p(y | x) of `labels` [n]: [n], in nats."""
        z = (labels.double() - self.means.double()) / self.std
        each = -0.5 * z.square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        return log_mean(each)

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
        """y with P(Y <= y | x) = `probability`, found as a root: [n].

        Raises:
            ValueError: `probability` is not inside (0, 1), or an output is not finite.
        """
        if not 0 < probability < 1:
            raise ValueError(f"a quantile is at a probability inside (0, 1), not {probability}")
        means, std = self.means.double().numpy(), self.std.numpy()
        # the quantile of the mixture lies between those of its parts
        parts = ndtri(probability) * std
        low, high = (end + parts for end in (means.min(0), means.max(0)))

        def excess(y: np.ndarray, row: np.ndarray) -> np.ndarray:
            return np.asarray(ndtr((y - means[:, row]) / std[row]).mean(0) - probability)

        bracket = low - SLACK * std, high + SLACK * std
        found = elementwise.find_root(excess, bracket, args=(np.arange(means.shape[1]),))
        if not np.all(found.success):
            raise ValueError("a quantile was not found: an output of the draws is not finite")
        return torch.from_numpy(np.asarray(found.x))

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """The central interval that holds Y with probability `level`, its ends [n] each: below it
        lies as much as above."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def blocks(self) -> Iterator[GaussianMixture]:
        """The predictives of some labels after the other, in pieces that are cheap to work on."""
        step = max(1, MAX_ELEMENTS // len(self.means))
        parts = zip(self.means.split(step, 1), self.std.split(step), strict=True)
        return (GaussianMixture(means, std) for means, std in parts)
