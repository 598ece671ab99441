"""Priors: densities on θ, one per file. `build_prior` makes the one that the settings name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from bayesgen.config import PriorSettings
from bayesgen.errors import UserError
from bayesgen.parameters import Layout
from bayesgen.priors.base import DiagonalGaussian, Fitted, Prior
from bayesgen.priors.gaussian import Gaussian, normal, pretrained
from bayesgen.priors.learned import LearnedPrior
from bayesgen.priors.low_rank import LowRankGaussian
from bayesgen.priors.placed import Placed

__all__ = [
    "DiagonalGaussian",
    "Fitted",
    "Gaussian",
    "LearnedPrior",
    "LowRankGaussian",
    "Prior",
    "Weights",
    "build_prior",
    "normal",
    "pretrained",
]

FAR = 1.0
"""Distance of a prior's mean from the weights, over their length, beyond which it is of another
model: of two that were trained apart it is about √2."""
HEAD_STD = 0.5
"""Standard deviation of what a learned prior does not know, unless another is given: a logit of a
normalised encoder's classifier has one of about 2 before any data."""


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


def build_prior(settings: PriorSettings, weights: Weights) -> Prior:
    """The prior that `settings` names.

    Raises:
        UserError: a learned prior is missing, damaged, or of another model.
        ValueError: its scale λ has still to be chosen.
    """
    if isinstance(settings.prior_scale, str):
        raise ValueError("λ has to be chosen first")
    if settings.learned_prior:
        head_std = HEAD_STD if settings.head_prior_std is None else settings.head_prior_std
        return place(settings, weights).density(
            settings.prior_scale, epsilon=settings.prior_epsilon, head_std=head_std
        )
    width = settings.prior_std * settings.prior_scale**0.5
    if settings.prior == "normal":
        prior = normal(weights.theta.numel(), width)
    else:
        placed = None if settings.prior_path is None else place(settings, weights)
        centre = weights.theta if placed is None else placed.mean
        origin = None if placed is None else placed.origin
        prior = pretrained(centre, width, relative=settings.prior_relative, origin=origin)
    if settings.head_prior_std is None or not weights.new:
        return prior
    return _with_head(prior, settings.head_prior_std, weights)


def place(settings: PriorSettings, weights: Weights) -> Placed:
    """The learned prior of --prior-path in the coordinates of `weights`.

    Raises:
        UserError: it is missing, damaged, or of another model.
    """
    assert settings.prior_path is not None
    prior = LearnedPrior.read(Path(settings.prior_path))
    if settings.learned_prior and prior.method not in {None, settings.prior}:
        raise UserError(
            f"`prior={settings.prior}`: the prior in '{settings.prior_path}' was learned by"
            f" {prior.method}; say `prior={prior.method}`"
        )
    if not settings.learned_prior:  # it is for the mean alone
        prior = replace(prior, deviations=prior.deviations[:0])
    placed = prior.on(
        weights.layout,
        weights.theta,
        new=weights.new,
        free=weights.free,
        base=weights.base,
    )
    if placed.distance > FAR:
        raise UserError(
            "`prior_path`: the prior is of another model: its mean lies"
            f" {placed.distance:.0%} of the length of the weights from them, and fine-tunes stay"
            " far below that; name the prior of this model"
        )
    return placed


def _with_head(prior: Gaussian, sd: float, weights: Weights) -> Gaussian:
    """`prior`, but N(0, sd²) on parameters that are new."""
    diagonal = prior.diagonal()
    mean = diagonal.mean.clone().to(weights.theta.device)
    width = diagonal.variance.sqrt().to(weights.theta.device)
    for name, view in weights.layout.views(mean).items():
        if name in weights.new:
            view.zero_()
    for name, view in weights.layout.views(width).items():
        if name in weights.new:
            view.fill_(sd)
    note = f"; new parameters N(0, {sd:g}²)"
    return Gaussian(mean, width, prior.size, note, prior.origin)
