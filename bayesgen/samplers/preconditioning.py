"""Where D of θ = θ₀ + D ⊙ φ comes from.

    D = (√v̂ + ε·mean √v̂)^(−½)

with v̂ the second moment of the minibatch gradient at θ₀: then the step size of SGLD reads like
Adam's (Li et al. 2016, https://arxiv.org/abs/1512.07666, with D fixed, so that nothing needs
correcting).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bayesgen.data.windows import Batches
from bayesgen.errors import UserError
from bayesgen.log_posterior import LogPosterior
from bayesgen.models import FunctionalModel
from bayesgen.models.nanogpt import adam_second_moments
from bayesgen.settings import ChainSettings


def scale(
    settings: ChainSettings, model: FunctionalModel, plain: LogPosterior, batches: Batches
) -> Tensor | None:
    """D [P], or None for no preconditioning.

    Args:
        plain: a log posterior with the identity map, to measure gradients with.
        batches: the run's own; the short pass takes its first `preconditioner_batches`.

    Raises:
        UserError: the checkpoint holds no moments, or the variance file does not fit θ.
    """
    source = settings.preconditioner
    if source == "none":
        return None
    if source == "gradients":
        count = settings.preconditioner_batches
        moments = squared_gradients(plain, model.theta, batches, count)
    elif source == "adam":
        if model.info.family != "nanogpt":
            raise UserError(
                "--preconditioner adam: only a nanoGPT checkpoint holds AdamW's moments; use"
                " --preconditioner gradients"
            )
        moments = adam_second_moments(Path(model.info.name), model.layout).to(model.device)
    else:
        return from_variances(Path(source), model)
    return from_second_moments(moments, settings.preconditioner_damping)


def squared_gradients(plain: LogPosterior, theta: Tensor, batches: Batches, count: int) -> Tensor:
    """v̂ [P]: mean over `count` batches of the squared gradient of the mean log-likelihood."""
    total = torch.zeros_like(theta)
    for step in range(count):
        batch = {k: v.to(theta.device) for k, v in batches.batch(step).items()}
        _, gradient = plain.log_likelihood_grad(theta, batch)
        total.addcmul_(gradient, gradient, value=1 / count)
    return total


def from_second_moments(moments: Tensor, damping: float) -> Tensor:
    """D [P] of v̂ = `moments` [P]; ε = `damping`."""
    root = moments.sqrt()
    mean = root.mean()
    if not 0 < mean < float("inf"):
        raise UserError(
            "--preconditioner: the gradients at the start are all zero or not finite; use"
            " --preconditioner none"
        )
    # a parameter that never gets a gradient must not get an infinite step
    return (root.clamp(min=1e-6 * mean) + damping * mean).rsqrt()


def from_variances(path: Path, model: FunctionalModel) -> Tensor:
    """D ∝ posterior sd, from the tensor "variance" [P] of a safetensors file; mean D² is 1."""
    try:
        tensors = load_file(path)
        variance = tensors["variance"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"--preconditioner: '{path}' is neither gradients, adam, none nor a safetensors file"
            f" with a tensor 'variance' ({error})"
        ) from error
    if variance.shape != (model.layout.size,) or not ((variance > 0) & variance.isfinite()).all():
        raise UserError(
            f"--preconditioner: 'variance' in '{path}' must be {model.layout.size} positive numbers"
        )
    return (variance / variance.mean()).sqrt().to(model.device)
