"""Priors: densities on θ, and those of `PRIORS` that come with bayesgen.

Names load what they need when they are first used: a command line that lists priors has no torch.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bayesgen.config import PRIORS, PriorSpec

if TYPE_CHECKING:
    from bayesgen.priors.base import DiagonalGaussian, Fitted, Prior, Weights
    from bayesgen.priors.build import build_prior
    from bayesgen.priors.gaussian import GaussianPrior, LowRankGaussian, normal, pretrained
    from bayesgen.priors.learned import LearnedPrior
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

LEARNED_SCALES = (0.1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
"""λ of what was learned, which is far narrower than what a task may need."""
SCALES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
"""λ where `prior_std` states the width, in the same units as the weights."""

NORMAL = PriorSpec("normal", "N(0, σ²)", "bayesgen.priors.build:isotropic", scales=SCALES)
PRETRAINED = PriorSpec(
    "pretrained",
    "N(loaded weights, σ²)",
    "bayesgen.priors.build:isotropic",
    uses=frozenset({"prior_std", "prior_relative", "prior_path"}),
    scales=SCALES,
)
SWAG = PriorSpec(
    "swag",
    "learned from the path of an optimizer in pretraining",
    "bayesgen.priors.build:learned",
    uses=frozenset({"prior_path", "prior_epsilon"}),
    scales=LEARNED_SCALES,
    written_by="bayesgen prior learn",
)
LAPLACE = replace(
    SWAG,
    name="laplace",
    summary="learned from the curvature at the end of pretraining",
    written_by="a run with `sampler=laplace`",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("base", "gaussian", "learned", "prior_file", "build"):
            home = import_module(f"bayesgen.priors.{module}")
            if hasattr(home, name):
                return getattr(home, name)
    raise AttributeError(f"module 'bayesgen.priors' has no attribute '{name}'")
