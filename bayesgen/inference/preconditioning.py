"""Where D of θ = θ₀ + D ⊙ φ comes from: an estimate of the posterior's standard deviations.

    D ∝ (v̂ + ε·mean v̂)^(−½),   mean D² = 1

with v̂ the second moment of the minibatch gradient at θ₀: the diagonal of the empirical Fisher
information, so that all coordinates of φ have about the same posterior width and mix at the same
rate (the natural-gradient metric of Girolami and Calderhead 2011,
https://doi.org/10.1111/j.1467-9868.2010.00765.x, diagonal and fixed at θ₀). With mean D² = 1 a step
size means the same for every source of D, and for none.

A prior with a width σᵢ for each weight takes part. B v̂, for B observations a batch, is about the
information of one of them, and with that of the prior, undamped, about the posterior's curvature
(as near as the moments of AdamW, whose batches were the pretraining's, can be):

    D = c hᵢ^(−½),   hᵢ = B (v̂ᵢ + ε·mean v̂) + 1/(N σᵢ²)

Every coordinate then turns by c radians in a step of size 1 of Hamiltonian dynamics, or decays by
the factor 1 − c² in one of Langevin's. c is that of mean D² = 1 for v̂ alone, so that a step size
means the same along weights that the prior leaves free, however many it holds; but `TURN` where
that is less, as it is of a new head under which the other weights have next to no gradient yet:
only the prior says how far these may go. Mean D² stays at most 1. Where a chain starts at the mode
that another run found, all have their gradient, and nothing is raised. (Of a low-rank prior σᵢ is
the diagonal's; N(μ, σ² I) takes no part.)

The same pass measures how large a minibatch's gradient is in φ: the unit of `gradient_clip`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bayesgen.config import ChainSettings
from bayesgen.data.windows import Batches
from bayesgen.errors import UserError
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.models import FunctionalModel
from bayesgen.models.nanogpt import adam_second_moments
from bayesgen.parameters import widest

TURN = 0.2
"""Radians in a step of size 1 that D is raised to, as far as mean D² ≤ 1 lets it."""


@dataclass(frozen=True)
class Scales:
    """What a chain knows of its target before it starts.

    Attributes:
        d: D [P], or None for no preconditioning.
        gradient_norm: root mean square of ‖∇_φ ℓ‖ over minibatches at θ₀, but for the product of
            likelihood and prior, with the prior's pull on weights that move as it lets them; None
            where not measured.
    """

    d: Tensor | None
    gradient_norm: float | None

    def tensors(self) -> dict[str, Tensor]:
        """For a file."""
        norm = self.gradient_norm
        found = {
            "scale": self.d,
            "gradient_norm": None if norm is None else torch.tensor(norm, dtype=torch.float64),
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Self:
        """What `tensors` wrote."""
        d, norm = tensors.get("scale"), tensors.get("gradient_norm")
        return cls(None if d is None else d.to(device), None if norm is None else float(norm))


def measure(
    settings: ChainSettings,
    model: FunctionalModel,
    plain: LogPosterior,
    batches: Batches,
    moments: Tensor | None,
) -> Scales:
    """D and the size of the gradient.

    Args:
        plain: a log posterior with the identity map.
        batches: the run's own.
        moments: v̂ [P]; None where the settings need no pass.

    Raises:
        UserError: the checkpoint holds no moments, or the variance file does not fit θ.
    """
    n = plain.num_observations
    stiff = plain.prior.precision()
    stiff = None if stiff is None else stiff.to(model.device)
    batch = n / batches.steps_per_epoch
    # beside v̂, which is the information of an observation over B
    curvature = None if stiff is None or plain.prior.isotropic else stiff / (n * batch)
    turn = 0.0 if model.elsewhere else TURN
    d = _scale(settings, model, moments, curvature, batch, turn)
    if moments is None or not settings.gradient_clip:
        return Scales(d, None)
    prior = torch.zeros_like(model.theta)
    plain.prior.accumulate(model.theta, prior, 1 / n)
    squares = moments + prior.square()
    if stiff is not None:
        squares += stiff * (settings.temperature / n / n)  # E (∂ log p / N)² at temperature T
    pulled = squares if d is None else d * d * squares
    norm = float(pulled.sum(dtype=widest(pulled.device)).sqrt())
    if not 0 < norm < math.inf:
        raise UserError(
            "`gradient_clip`: the gradients at the start are all zero or not finite; use"
            " `gradient_clip=0`"
        )
    return Scales(d, norm)


def measured_moments(
    settings: ChainSettings, model: FunctionalModel, plain: LogPosterior, batches: Batches
) -> Tensor | None:
    """v̂ [P] of the first `preconditioner_batches`, or None where the settings need no pass.

    It is of the likelihood alone: the same under every prior.
    """
    if not settings.measured_batches:
        return None
    return squared_gradients(plain, model.theta, batches, settings.measured_batches)


def _scale(
    settings: ChainSettings,
    model: FunctionalModel,
    moments: Tensor | None,
    prior: Tensor | None,
    batch: float,
    turn: float,
) -> Tensor | None:
    """D of the settings; see `from_second_moments`."""
    source = settings.preconditioner
    if source == "none":
        return None
    if source == "gradients":
        assert moments is not None
    elif source == "adam":
        if model.info.family != "nanogpt":
            raise UserError(
                "`preconditioner=adam`: only a nanoGPT checkpoint holds AdamW's moments; use"
                " `preconditioner=gradients`"
            )
        moments = adam_second_moments(Path(model.info.name), model.layout).to(model.device)
    else:
        return from_variances(Path(source), model)
    return from_second_moments(moments, settings.preconditioner_damping, prior, batch, turn)


def squared_gradients(plain: LogPosterior, theta: Tensor, batches: Batches, count: int) -> Tensor:
    """v̂ [P]: mean over `count` batches of the squared gradient of the mean log-likelihood."""
    total = torch.zeros_like(theta)
    for step in range(count):
        batch = {k: v.to(theta.device) for k, v in batches.batch(step).items()}
        _, gradient = plain.log_likelihood_grad(theta, batch)
        total.addcmul_(gradient, gradient, value=1 / count)
    return total


def from_second_moments(
    moments: Tensor,
    damping: float,
    prior: Tensor | None = None,
    batch: float = 1.0,
    turn: float = TURN,
) -> Tensor:
    """D [P] of v̂ = `moments` [P] and ε = `damping`.

    Args:
        prior: its curvature [P] beside v̂: over N and `batch`. None where it takes no part.
        batch: B, observations of a batch.
        turn: radians in a step of size 1 that D is raised to.
    """
    mean = moments.mean()
    if not 0 < mean < float("inf"):
        raise UserError(
            "`preconditioner`: the gradients at the start are all zero or not finite; use"
            " `preconditioner=none`"
        )
    # a parameter that never gets a gradient must not get an infinite step
    relative = (moments / mean).clamp(min=1e-12) + damping
    if prior is None:
        return normalised(relative.reciprocal())
    width = (relative + prior / mean).reciprocal()
    # c² over B·mean v̂: for v̂ alone, the least, and the most
    alone, most = (float(1 / w.mean()) for w in (relative.reciprocal(), width))
    least = turn**2 / (batch * float(mean))
    return (width * max(alone, min(least, most))).sqrt()


def from_variances(path: Path, model: FunctionalModel) -> Tensor:
    """D [P] of posterior variances: the tensor "variance" [P] of a safetensors file."""
    try:
        tensors = load_file(path)
        variance = tensors["variance"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"`preconditioner`: '{path}' is neither gradients, adam, none nor a safetensors file"
            f" with a tensor 'variance' ({error})"
        ) from error
    if variance.shape != (model.layout.size,) or not ((variance > 0) & variance.isfinite()).all():
        raise UserError(
            f"`preconditioner`: 'variance' in '{path}' must be {model.layout.size} positive numbers"
        )
    return normalised(variance).to(model.device)


def stable_rate(
    settings: ChainSettings, scale: Tensor | None, precision: Tensor, num_observations: int
) -> float:
    """The largest step size that follows the prior alone without overshooting.

    Along φ_i the prior's curvature is D_i² / (σ_i² N).
    """
    stiffness = precision if scale is None else scale.square() * precision.to(scale.device)
    return settings.longest_step(float(stiffness.max()) / num_observations)


def normalised(variance: Tensor) -> Tensor:
    """D [P]: the square root of `variance` [P], scaled to mean D² = 1."""
    return (variance / variance.mean()).sqrt()
