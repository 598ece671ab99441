"""Where D of θ = θ₀ + D ⊙ φ comes from: an estimate of the posterior's standard deviations.

    D ∝ (v̂ + ε·mean v̂)^(−½),   mean D² = 1

with v̂ the second moment of the minibatch gradient at θ₀: the diagonal of the empirical Fisher
information, so that all coordinates of φ have about the same posterior width and mix at the same
rate (the natural-gradient metric of Girolami and Calderhead 2011,
https://doi.org/10.1111/j.1467-9868.2010.00765.x, diagonal and fixed at θ₀), and a step size means
the same for every source of D, and for none.

A prior with a width σᵢ for each weight takes part. B v̂, for B observations a batch, is about the
information of one of them, and with that of the prior, undamped, about the posterior's curvature:

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
_NO_GRADIENT = "`{0}`: the gradients at the start are all zero or not finite; use `{0}={1}`"


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
        found = {} if self.d is None else {"scale": self.d}
        if self.gradient_norm is not None:
            found["gradient_norm"] = torch.tensor(self.gradient_norm, dtype=torch.float64)
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Self:
        """What `tensors` wrote."""
        d, norm = tensors.get("scale"), tensors.get("gradient_norm")
        return cls(None if d is None else d.to(device), None if norm is None else float(norm))


def measure(
    settings: ChainSettings, plain: LogPosterior, batches: Batches, moments: Tensor | None
) -> Scales:
    """D and the size of the gradient, of a log posterior with the identity map and of v̂ [P] over
    `settings.measured_batches` of the run's batches, where there are any."""
    n, model = plain.num_observations, plain.model
    stiff = plain.prior.precision()
    stiff = None if stiff is None else stiff.to(model.device)
    source, d = settings.preconditioner, None
    if source in {"gradients", "adam"}:
        if source == "gradients":
            assert moments is not None
            second = moments
        elif model.info.family == "nanogpt":
            second = adam_second_moments(Path(model.info.name), model.layout).to(model.device)
        else:
            raise UserError(
                "`preconditioner=adam`: only a nanoGPT checkpoint holds AdamW's moments; use"
                " `preconditioner=gradients`"
            )
        batch = n / batches.steps_per_epoch
        # beside v̂, which is the information of an observation over B
        curvature = None if stiff is None or plain.prior.isotropic else stiff / (n * batch)
        turn = 0.0 if model.elsewhere else TURN
        d = from_second_moments(second, settings.preconditioner_damping, curvature, batch, turn)
    elif source != "none":
        d = from_variances(Path(source), model)
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
        raise UserError(_NO_GRADIENT.format("gradient_clip", 0))
    return Scales(d, norm)


def squared_gradients(plain: LogPosterior, theta: Tensor, batches: Batches, count: int) -> Tensor:
    """v̂ [P]: mean over `count` batches of the squared gradient of the mean log-likelihood; the same
    under every prior."""
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
    """D [P] of v̂ = `moments` [P] and ε = `damping`, with the curvature [P] of a `prior` over N B,
    B = `batch`, and raised to `turn` radians in a step of size 1."""
    mean = moments.mean()
    if not 0 < mean < math.inf:
        raise UserError(_NO_GRADIENT.format("preconditioner", "none"))
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
        variance = load_file(path)["variance"].float()
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
    """The largest step size that follows the prior alone, whose curvature along φ_i is
    D_i² / (σ_i² N), without overshooting."""
    stiffness = precision if scale is None else scale.square() * precision.to(scale.device)
    return settings.longest_step(float(stiffness.max()) / num_observations)


def normalised(variance: Tensor) -> Tensor:
    """D [P]: the square root of `variance` [P], scaled to mean D² = 1."""
    return (variance / variance.mean()).sqrt()
