"""Priors: densities on θ, and those of `PRIORS` that come with bayesgen.

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

LEARNED_SCALES = (0.1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
"""λ of what the path of an optimizer, or much text, taught: far narrower than what a task may
need."""
SCALES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
"""λ where `prior_std` states the width, in the same units as the weights."""

NORMAL = PriorSpec("normal", "N(0, σ²)", "bayesgen.priors.gaussian:build", scales=SCALES)
PRETRAINED = PriorSpec(
    "pretrained",
    "N(loaded weights, σ²)",
    "bayesgen.priors.gaussian:build",
    uses=frozenset({"prior_std", "prior_relative", "prior_path"}),
    scales=SCALES,
)
SWAG = PriorSpec(
    "swag",
    "learned from the path of an optimizer in pretraining",
    "bayesgen.priors.prior_file:build",
    uses=frozenset({"prior_path", "prior_epsilon"}),
    scales=LEARNED_SCALES,
    written_by="bayesgen prior learn",
)
LAPLACE = PriorSpec(
    "laplace",
    "learned from the curvature at the end of pretraining",
    "bayesgen.priors.prior_file:build",
    uses=SWAG.uses,
    scales=LEARNED_SCALES,
    written_by="a run with `sampler=laplace`",
)


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"bayesgen.priors.{module}"), name)
    raise AttributeError(f"module 'bayesgen.priors' has no attribute '{name}'")
