"""Gaussian priors: with independent coordinates, and with a few directions beside the diagonal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bayesgen.parameters import widest
from bayesgen.priors.base import DiagonalGaussian, Prior

RELATIVE_FLOOR = 1e-3
"""ε of the relative width: a weight that is exactly zero still has a prior with some width."""
BLOCK = 2**20
"""Weights whose deviations are in float64 at a time."""


@dataclass(eq=False, repr=False)
class GaussianPrior(Prior):
    """N(mean, diag(sd²)) on θ ∈ R^P.

    Args:
        mean: [P], or None for zero.
        sd: a positive number, or [P].
        size: P.
        note: more about it, for people.
        origin: see `Prior`.
    """

    mean: Tensor | None
    sd: float | Tensor
    size: int
    note: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._precision = self.sd**-2
        if isinstance(self.sd, Tensor):
            log_det = 2.0 * float(self.sd.cpu().double().log().sum())
        else:
            log_det = 2.0 * self.size * math.log(self.sd)
        self._log_normaliser = -0.5 * (self.size * math.log(2 * math.pi) + log_det)

    @property
    def isotropic(self) -> bool:
        return not isinstance(self.sd, Tensor)

    def log_prob(self, theta: Tensor) -> Tensor:
        residual = theta if self.mean is None else theta - self.mean
        return self._log_normaliser - 0.5 * (self._precision * residual * residual).sum()

    def accumulate(self, theta: Tensor, grad: Tensor, weight: float) -> Tensor:
        residual = theta if self.mean is None else theta - self.mean
        if isinstance(self._precision, Tensor):
            pull = self._precision * residual
            grad.add_(pull, alpha=-weight)
            return self._log_normaliser - 0.5 * torch.dot(pull, residual)
        grad.add_(residual, alpha=-weight * self._precision)
        return self._log_normaliser - 0.5 * self._precision * torch.dot(residual, residual)

    def diagonal(self) -> DiagonalGaussian:
        mean = torch.zeros(self.size) if self.mean is None else self.mean
        sd = self.sd if isinstance(self.sd, Tensor) else torch.full_like(mean, self.sd)
        return DiagonalGaussian(mean, sd**2)

    def describe(self) -> str:
        centre = "0" if self.mean is None else "θ*"
        if isinstance(self.sd, Tensor):
            return f"N({centre}, σᵢ²), median σᵢ {float(self.sd.median()):.3g}{self.note}"
        return f"N({centre}, {self.sd:g}² I){self.note}"


def normal(size: int, sd: float) -> GaussianPrior:
    """N(0, sd² I) on R^size."""
    return GaussianPrior(None, sd, size)


def pretrained(theta: Tensor, sd: float, *, relative: bool = False) -> GaussianPrior:
    """N(θ*, sd² I) around `theta` [P], or σ_i = sd·(|θ*_i| + 1e-3) when `relative`."""
    width: float | Tensor = sd * (theta.abs() + RELATIVE_FLOOR) if relative else sd
    return GaussianPrior(theta.clone(), width, theta.numel())


@dataclass(eq=False, repr=False)
class LowRankGaussian(Prior):
    """N(mean, diag(variance) + gain² deviationsᵀ deviations) on θ ∈ R^P.

    With W = gain · deviations, d the variance, C = I + W diag(d)⁻¹ Wᵀ [K, K], z = C⁻¹ W (r / d) and
    e = r − Wᵀ z for a residual r = θ − μ,

        Σ⁻¹ r = e / d,   rᵀ Σ⁻¹ r = Σ_i e_i² / d_i + zᵀ z,   log det Σ = log det C + Σ_i log d_i

    (Woodbury's identity and the determinant lemma, in a form whose terms are all positive): O(P K)
    time, and O(P) memory beside the deviations, which are never copied.

    Args:
        mean: [P].
        variance: [P], positive: what is each coordinate's own.
        deviations: [K, P]; K may be 0.
        words: what the density is, for people.
        origin: see `Prior`.

    Raises:
        ValueError: shapes do not fit, or a variance is not positive and finite.
    """

    mean: Tensor
    variance: Tensor
    deviations: Tensor
    gain: float = 1.0
    words: str = "low rank + diagonal"
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mean, diagonal, deviations = self.mean, self.variance, self.deviations
        if diagonal.shape != mean.shape or deviations.shape[1:] != mean.shape or mean.dim() != 1:
            raise ValueError(
                f"mean {list(mean.shape)} and diagonal {list(diagonal.shape)} must be [P],"
                f" deviations {list(deviations.shape)} must be [K, P]"
            )
        if not ((diagonal > 0) & diagonal.isfinite()).all():
            raise ValueError("every variance of the diagonal must be positive and finite")
        # the small system is solved in float64: it holds sums over all of θ
        gram = torch.zeros(len(deviations), len(deviations), dtype=torch.float64)
        log_det = 0.0
        for part, own in zip(deviations.split(BLOCK, 1), diagonal.split(BLOCK), strict=True):
            q, d = part.cpu().double(), own.cpu().double()
            gram += (q / d) @ q.T
            log_det += float(d.log().sum())
        identity = torch.eye(len(gram), dtype=torch.float64)
        cholesky = torch.linalg.cholesky(identity + self.gain**2 * gram)
        log_det += 2 * float(cholesky.diagonal().log().sum())
        self._cholesky = cholesky.to(mean.device, widest(mean.device))
        self._log_normaliser = -0.5 * (len(mean) * math.log(2 * math.pi) + log_det)

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """e [P] and z [K] of θ."""
        residual = theta - self.mean
        pulled = self.gain * (self.deviations @ (residual / self.variance)).to(self._cholesky.dtype)
        z = torch.cholesky_solve(pulled.unsqueeze(-1), self._cholesky).squeeze(-1)
        z = z.to(residual.dtype)
        return residual - (self.gain * z) @ self.deviations, z

    def log_prob(self, theta: Tensor) -> Tensor:
        e, z = self._split(theta)
        return self._log_normaliser - 0.5 * ((e * e / self.variance).sum() + (z * z).sum())

    def accumulate(self, theta: Tensor, grad: Tensor, weight: float) -> Tensor:
        e, z = self._split(theta)
        pull = e / self.variance
        grad.add_(pull, alpha=-weight)
        return self._log_normaliser - 0.5 * (torch.dot(pull, e) + torch.dot(z, z))

    def sample(self) -> Tensor:
        noise = torch.randn(len(self.mean), device=self.mean.device)
        along = torch.randn(len(self.deviations), device=self.mean.device)
        own = self.mean + self.variance.sqrt() * noise
        return own + (self.gain * along) @ self.deviations

    def diagonal(self) -> DiagonalGaussian | None:
        return None if len(self.deviations) else DiagonalGaussian(self.mean, self.variance)

    def precision(self) -> Tensor:
        # W only adds to the covariance
        return self.variance.reciprocal()

    def marginal_variance(self) -> Tensor:
        """diag(Σ) [P]."""
        lengths: Tensor = torch.linalg.vector_norm(self.deviations, dim=0)
        return self.variance + (self.gain * lengths).square()

    @property
    def factor(self) -> Tensor:
        """W [K, P], a new tensor."""
        return self.gain * self.deviations

    def tensors(self) -> dict[str, Tensor]:
        """For a file: mean, standard deviations of the diagonal part, and the factor."""
        return {"mean": self.mean, "sd": self.variance.sqrt(), "factor": self.factor}

    def describe(self) -> str:
        sd = float(self.marginal_variance().median().sqrt())
        return f"{self.words}: rank {len(self.deviations)}, median σᵢ {sd:.3g}"
