"""What a prior is: a density on θ. How one of your own is added: docs/how-to/add-prior.md."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import grad_and_value

from bayesgen.parameters import Layout


@dataclass(frozen=True)
class Weights:
    """What a prior is for.

    Attributes:
        theta: the loaded weights [P].
        layout: names, shapes and offsets of them.
        new: names of those that start at random, such as a new head's; their zero is no loss.
        free: names of those that a learned prior need not know: of the head, new or not, and of
            what only some tasks train.
        base: prefix of the names of the model without its head.
    """

    theta: Tensor
    layout: Layout
    new: Collection[str] = ()
    free: Collection[str] = ()
    base: str = ""


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
    """A Gaussian that a method leads to: mean and variance [P] (of a low-rank one, what is not
    shared), draws of θ [P] by the global generator, and tensors for a file."""

    @property
    def mean(self) -> Tensor: ...
    @property
    def variance(self) -> Tensor: ...
    def sample(self) -> Tensor: ...
    def tensors(self) -> dict[str, Tensor]: ...


class Prior(ABC):
    """A density on θ ∈ R^P.

    A new prior needs `log_prob` and `describe`. `accumulate` may be overridden where a closed form
    is faster, `sample` where the density can be drawn from, and `diagonal` where it is a Gaussian
    with independent coordinates, which EKF and Laplace need.

    Attributes:
        origin: more that a run keeps of where it comes from, plain data.

    Example:
        >>> import torch
        >>> from bayesgen import Prior
        >>> class Cauchy(Prior):
        ...     def log_prob(self, theta):
        ...         return -(torch.pi * (1 + theta.square())).log().sum()
        ...
        ...     def describe(self):
        ...         return "Cauchy(0, 1)"
        >>> float(Cauchy().log_prob(torch.zeros(1)))
        -1.144...
    """

    origin: Mapping[str, Any] = {}

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
        return {"density": self.describe(), **self.origin}
