"""The priors that come with bayesgen. The densities need torch; what describes them does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayesgen.config import PriorSettings, PriorSpec

if TYPE_CHECKING:
    from bayesgen.priors.base import Prior, Weights

LEARNED_SCALES = (0.1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
"""λ of what the path of an optimizer, or much text, taught: far narrower than what a task may
need."""
SCALES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
"""λ where `prior_std` states the width, in the same units as the weights."""


def _isotropic(settings: PriorSettings, weights: Weights) -> Prior:
    from bayesgen.priors.gaussian import build

    return build(settings, weights)


def _learned(settings: PriorSettings, weights: Weights) -> Prior:
    from bayesgen.priors.prior_file import build

    return build(settings, weights)


NORMAL = PriorSpec("normal", "N(0, σ²)", _isotropic, scales=SCALES)
PRETRAINED = PriorSpec(
    "pretrained",
    "N(loaded weights, σ²)",
    _isotropic,
    uses=frozenset({"prior_std", "prior_relative", "prior_path"}),
    scales=SCALES,
)
SWAG = PriorSpec(
    "swag",
    "learned from the path of an optimizer in pretraining",
    _learned,
    uses=frozenset({"prior_path", "prior_epsilon"}),
    scales=LEARNED_SCALES,
    written_by="bayesgen prior learn",
)
LAPLACE = PriorSpec(
    "laplace",
    "learned from the curvature at the end of pretraining",
    _learned,
    uses=SWAG.uses,
    scales=LEARNED_SCALES,
    written_by="a run with `sampler=laplace`",
)
