"""Priors: densities on θ, one per file, and `PRIORS`, the registry of those that have a name.

Names load what they need when they are first used: a command line that lists priors has no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bayesgen.config import PRIORS, PriorSpec

if TYPE_CHECKING:
    from bayesgen.priors.base import DiagonalGaussian, Fitted, Prior, Weights, build_prior
    from bayesgen.priors.gaussian import GaussianPrior, normal, pretrained
    from bayesgen.priors.learned import LearnedPrior, LowRankGaussian
    from bayesgen.priors.prior_file import read_prior, write_prior

__all__ = [
    "PRIORS",
    "DiagonalGaussian",
    "Fitted",
    "GaussianPrior",
    "LearnedPrior",
    "LowRankGaussian",
    "Prior",
    "PriorSpec",
    "Weights",
    "build_prior",
    "normal",
    "pretrained",
    "read_prior",
    "write_prior",
]

_HOMES = {
    "base": {"DiagonalGaussian", "Fitted", "Prior", "Weights", "build_prior"},
    "gaussian": {"GaussianPrior", "normal", "pretrained"},
    "learned": {"LearnedPrior", "LowRankGaussian"},
    "prior_file": {"read_prior", "write_prior"},
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"bayesgen.priors.{module}"), name)
    raise AttributeError(f"module 'bayesgen.priors' has no attribute '{name}'")
