"""The priors that settings name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bayesgen.config import PRIORS, PriorSettings
from bayesgen.errors import UserError
from bayesgen.priors.base import Prior, Weights
from bayesgen.priors.gaussian import GaussianPrior, LowRankGaussian, normal, pretrained
from bayesgen.priors.learned import Matched
from bayesgen.priors.prior_file import read_prior
from bayesgen.registry import resolved

FAR = 1.0
"""Distance of a prior's mean from the weights, over their length, beyond which it is of another
model: of two that were trained apart it is about √2."""
HEAD_STD = 0.5
"""Standard deviation of what a learned prior does not know, unless another is given: a logit of a
normalised encoder's classifier has one of about 2 before any data."""


def build_prior(settings: PriorSettings, weights: Weights) -> Prior:
    """The prior that `settings` name, once its scale λ is chosen.

    Raises:
        UserError: there is none of this name, or its file is missing, damaged or of another model.
    """
    if isinstance(settings.prior_scale, str):
        raise ValueError("λ has to be chosen first")
    prior: Prior = resolved(PRIORS[settings.prior].build)(settings, weights)
    return prior


def isotropic(settings: PriorSettings, weights: Weights) -> GaussianPrior:
    """`normal` or `pretrained`, around the mean of a learned prior where `prior_path` names one;
    N(0, head_prior_std²) on parameters that are new, where that is given."""
    width = settings.prior_std * float(settings.prior_scale) ** 0.5
    if settings.prior == "normal":
        prior = normal(weights.theta.numel(), width)
    elif settings.prior_path is None:
        prior = pretrained(weights.theta, width, relative=settings.prior_relative)
    else:
        found = _read_for(settings, weights)
        prior = pretrained(found.mean, width, relative=settings.prior_relative)
        prior.origin = found.origin
    if settings.head_prior_std is None or not weights.new:
        return prior
    diagonal, device = prior.diagonal(), weights.theta.device
    mean, sd = diagonal.mean.clone().to(device), diagonal.variance.sqrt().to(device)
    for tensor, value in ((mean, 0.0), (sd, settings.head_prior_std)):
        for name, view in weights.layout.views(tensor).items():
            if name in weights.new:
                view.fill_(value)
    note = f"; new parameters N(0, {settings.head_prior_std:g}²)"
    return GaussianPrior(mean, sd, prior.size, note, prior.origin)


def learned(settings: PriorSettings, weights: Weights) -> LowRankGaussian:
    """`swag` or `laplace`: the density of the file in `prior_path`."""
    head_std = HEAD_STD if settings.head_prior_std is None else settings.head_prior_std
    return _read_for(settings, weights).density(
        float(settings.prior_scale), epsilon=settings.prior_epsilon, head_std=head_std
    )


def _read_for(settings: PriorSettings, weights: Weights) -> Matched:
    """The learned prior in `prior_path`, matched to `weights` by parameter name."""
    assert settings.prior_path is not None
    prior = read_prior(Path(settings.prior_path))
    if not PRIORS[settings.prior].learned:  # it is for the mean alone
        prior = replace(prior, deviations=prior.deviations[:0])
    elif prior.method not in {None, settings.prior}:
        raise UserError(
            f"`prior={settings.prior}`: the prior in '{settings.prior_path}' was learned by"
            f" {prior.method}; say `prior={prior.method}`"
        )
    found = prior.match(weights)
    if found.distance > FAR:
        raise UserError(
            "`prior_path`: the prior is of another model: its mean lies"
            f" {found.distance:.0%} of the length of the weights from them, and fine-tunes stay"
            " far below that; name the prior of this model"
        )
    return found
