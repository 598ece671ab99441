"""Priors: densities on θ, one per file. `build_prior` makes the one that the settings name."""

from __future__ import annotations

from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.priors.base import DiagonalGaussian, Fitted, Prior
from bayesgen.priors.gaussian import Gaussian, normal, pretrained
from bayesgen.settings import PriorSettings

__all__ = ["DiagonalGaussian", "Fitted", "Gaussian", "Prior", "build_prior", "normal", "pretrained"]


def build_prior(settings: PriorSettings, theta: Tensor) -> Prior:
    """The prior that `settings` names, for weights that were loaded as `theta` [P]."""
    width = settings.prior_std * settings.prior_scale**0.5
    if settings.prior == "normal":
        return normal(theta.numel(), width)
    if settings.prior == "pretrained":
        return pretrained(theta, width, relative=settings.prior_relative)
    raise UserError(
        f"--prior {settings.prior}: priors learned from pretraining are not in this version;"
        " use --prior normal or --prior pretrained"
    )
