"""Priors: densities on θ. `bayesgen.config.PRIORS` has them by name, without torch."""

from bayesgen.config import PRIORS, PriorSpec
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
