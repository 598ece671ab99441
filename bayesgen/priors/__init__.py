"""Priors: densities on θ. `bayesgen.config.PRIORS` has them by name, without torch."""

# ruff: noqa: I001  (isort would give every "A as A" a line of its own)
from bayesgen.config import PRIORS as PRIORS, PriorSpec as PriorSpec
from bayesgen.priors.base import (
    DiagonalGaussian as DiagonalGaussian,
    Fitted as Fitted,
    Prior as Prior,
    Weights as Weights,
)
from bayesgen.priors.build import build_prior as build_prior
from bayesgen.priors.gaussian import (
    GaussianPrior as GaussianPrior,
    LowRankGaussian as LowRankGaussian,
    normal as normal,
    pretrained as pretrained,
)
from bayesgen.priors.learned import LearnedPrior as LearnedPrior
from bayesgen.priors.prior_file import read_prior as read_prior, write_prior as write_prior
