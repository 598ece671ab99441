"""What a prior is: a density on θ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import grad_and_value


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag(variance)), both [P]: what EKF, Laplace and VI start from and lead to."""

    mean: Tensor
    variance: Tensor

    def sample(self) -> Tensor:
        """One draw of θ [P], by the global generator."""
        sd = self.variance.sqrt()
        return torch.addcmul(self.mean, sd, torch.randn_like(sd))

    def tensors(self) -> dict[str, Tensor]:
        """For a file: mean and standard deviation."""
        return {"mean": self.mean, "sd": self.variance.sqrt()}


class Fitted(Protocol):
    """A Gaussian that a method leads to."""

    @property
    def mean(self) -> Tensor:
        """[P]."""

    @property
    def variance(self) -> Tensor:
        """[P], of each coordinate on its own (of a low-rank Gaussian, what is not shared)."""

    def sample(self) -> Tensor:
        """One draw of θ [P], by the global generator."""

    def tensors(self) -> dict[str, Tensor]:
        """For a file."""


class Prior(ABC):
    """A density on θ ∈ R^P.

    A new prior needs `log_prob`; `accumulate` may be overridden where a closed form is faster, and
    `diagonal` where the density is a Gaussian with independent coordinates (else `sample`, too).
    """

    @abstractmethod
    def log_prob(self, theta: Tensor) -> Tensor:
        """log p(θ) of `theta` [P], normalised: a scalar, in nats; differentiable, fit for vmap."""

    def accumulate(self, theta: Tensor, grad: Tensor, weight: float) -> Tensor:
        """Add `weight`·∇log p(θ) to `grad` [P] in place; return log p(θ), a scalar."""
        value: Tensor
        gradient, value = grad_and_value(self.log_prob)(theta)
        grad.add_(gradient, alpha=weight)
        return value

    def diagonal(self) -> DiagonalGaussian | None:
        """The prior as a diagonal Gaussian, or None where it is not one."""
        return None

    @property
    def isotropic(self) -> bool:
        """Whether it has one width for all weights, by construction."""
        return False

    def precision(self) -> Tensor | None:
        """Diagonal of a matrix that the curvature of −log p nowhere exceeds [P]: how stiff the
        prior is along each coordinate at most. None where nothing is known."""
        gaussian = self.diagonal()
        return None if gaussian is None else gaussian.variance.reciprocal()

    def sample(self) -> Tensor:
        """One draw of θ [P], by the global generator.

        Raises:
            NotImplementedError: the density says neither how, nor that it is a diagonal Gaussian.
        """
        gaussian = self.diagonal()
        if gaussian is None:
            raise NotImplementedError(f"{type(self).__name__} cannot be sampled")
        return gaussian.sample()

    @abstractmethod
    def describe(self) -> str:
        """One line for people: the density with its numbers."""

    def record(self) -> dict[str, Any]:
        """What a run keeps of it beside its settings."""
        return {"density": self.describe()}
