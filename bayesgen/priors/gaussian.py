"""Gaussian priors with independent coordinates: N(μ, diag(σ²)).

`normal` is N(0, σ²I); `pretrained` is N(θ*, σ²I) around the loaded weights θ*, or with
σ_i = s·(|θ*_i| + ε) when the width is relative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bayesgen.config import PriorSettings
from bayesgen.priors.base import DiagonalGaussian, Prior, Weights
from bayesgen.priors.prior_file import read_for

RELATIVE_FLOOR = 1e-3
"""ε of the relative width: a weight that is exactly zero still has a prior with some width."""


class GaussianPrior(Prior):
    """N(mean, diag(sd²)) on θ ∈ R^P.

    Args:
        mean: [P], or None for zero.
        sd: a positive number, or [P].
        size: P.
        note: more about it, for people.
        origin: more that a run keeps of where it comes from, plain data.
    """

    def __init__(
        self,
        mean: Tensor | None,
        sd: float | Tensor,
        size: int,
        note: str = "",
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.mean = mean
        self.sd = sd
        self.size = size
        self.note = note
        self.origin = origin or {}
        if isinstance(sd, Tensor):
            self._precision: float | Tensor = sd.pow(-2)
            log_det = 2.0 * float(sd.cpu().double().log().sum())
        else:
            self._precision = sd**-2
            log_det = 2.0 * size * math.log(sd)
        self._log_normaliser = -0.5 * (size * math.log(2 * math.pi) + log_det)

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
        zero = torch.zeros(self.size)
        mean = zero if self.mean is None else self.mean
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


def pretrained(
    theta: Tensor,
    sd: float,
    *,
    relative: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> GaussianPrior:
    """N(θ*, sd² I) around `theta` [P], or σ_i = sd·(|θ*_i| + 1e-3) when `relative`."""
    width: float | Tensor = sd * (theta.abs() + RELATIVE_FLOOR) if relative else sd
    return GaussianPrior(theta.clone(), width, theta.numel(), origin=origin)


def build(settings: PriorSettings, weights: Weights) -> GaussianPrior:
    """`normal` or `pretrained`; around the mean of a learned prior where `prior_path` names one.

    Raises:
        UserError: that prior is missing, damaged, or of another model.
    """
    width = settings.prior_std * float(settings.prior_scale) ** 0.5
    if settings.prior == "normal":
        prior = normal(weights.theta.numel(), width)
    else:
        found = None if settings.prior_path is None else read_for(settings, weights)
        centre = weights.theta if found is None else found.mean
        origin = None if found is None else found.origin
        prior = pretrained(centre, width, relative=settings.prior_relative, origin=origin)
    if settings.head_prior_std is None or not weights.new:
        return prior
    return _with_head(prior, settings.head_prior_std, weights)


def _with_head(prior: GaussianPrior, sd: float, weights: Weights) -> GaussianPrior:
    """`prior`, but N(0, sd²) on parameters that are new."""
    diagonal = prior.diagonal()
    mean = diagonal.mean.clone().to(weights.theta.device)
    width = diagonal.variance.sqrt().to(weights.theta.device)
    for tensor, value in ((mean, 0.0), (width, sd)):
        for name, view in weights.layout.views(tensor).items():
            if name in weights.new:
                view.fill_(value)
    note = f"; new parameters N(0, {sd:g}²)"
    return GaussianPrior(mean, width, prior.size, note, prior.origin)
