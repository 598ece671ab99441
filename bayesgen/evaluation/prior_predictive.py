"""What a prior predicts before any data: the mixture over draws of θ from p(θ).

A prior that gives every text the same class, or is as sure of each as a trained network, says so
here (Gabry et al. 2019, https://arxiv.org/abs/1709.01449, section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation.nll import log_likelihoods
from bayesgen.likelihoods import IGNORED, Gaussian
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward


@dataclass(frozen=True)
class PriorPredictive:
    """What S draws from a prior say of some rows; NLLs in nats per observation, of the labels.

    Attributes:
        draws: NLL of each draw [S].
        nll: of their mixture.
        loaded: of the weights that were loaded.
        uniform: of a uniform distribution over the classes; None of real-valued labels.
        confidence: mean largest probability of each draw [S]; None of real-valued labels.
        entropy: mean entropy of the mixture, in nats; None of real-valued labels.
        aleatoric: the mean of the draws' own; the same.
        shares: of the observations that each draw puts into each class [S, C]; None where the
            classes are tokens, or the labels real numbers.
        outputs: mean prediction of each draw [S], and its standard deviation over the rows [S];
            None of classes.
    """

    draws: Tensor
    nll: float
    loaded: float
    uniform: float | None = None
    confidence: Tensor | None = None
    entropy: float | None = None
    aleatoric: float | None = None
    shares: Tensor | None = None
    outputs: tuple[Tensor, Tensor] | None = None


def prior_predictive(
    model: FunctionalModel, draws: Tensor, rows: Rows, batch_size: int = 64
) -> PriorPredictive:
    """Predict `rows` by `draws` [S, P] from a prior."""
    forward, likelihood = Forward(model), model.likelihood
    every = log_likelihoods(forward, likelihood, draws, rows, batch_size)
    observations = rows.num_targets
    own = log_likelihoods(forward, likelihood, model.theta[None], rows, batch_size)
    mixed = every.logsumexp(0) - math.log(len(every))
    known: dict[str, Any] = {
        "draws": -every.sum(1) / observations,
        "nll": -float(mixed.sum()) / observations,
        "loaded": -float(own.sum()) / observations,
    }
    if isinstance(likelihood, Gaussian):
        found = torch.stack([_outputs(forward, theta, rows, batch_size) for theta in draws])
        return PriorPredictive(**known, outputs=(found.mean(1), found.std(1)))
    return PriorPredictive(**known, **_classes(forward, draws, rows, batch_size))


def _outputs(forward: Forward, theta: Tensor, rows: Rows, batch_size: int) -> Tensor:
    forward.load(theta)
    parts = torch.arange(len(rows)).split(batch_size)
    return torch.cat([forward.outputs(rows.batch(part.numpy())).flatten().cpu() for part in parts])


def _classes(forward: Forward, draws: Tensor, rows: Rows, batch_size: int) -> dict[str, Any]:
    """What the draws and their mixture say of classes or tokens."""
    confidence = torch.zeros(len(draws), dtype=torch.float64)
    shares = (
        None if rows.num_classes is None else confidence.new_zeros(len(draws), rows.num_classes)
    )
    entropy = aleatoric = 0.0
    observations, classes = 0, 0
    for part in torch.arange(len(rows)).split(batch_size):
        batch = rows.batch(part.numpy())
        observed = batch["labels"] != IGNORED
        observations += int(observed.sum())
        total: Tensor | None = None
        for s, theta in enumerate(draws):
            forward.load(theta)
            log_probs = forward.log_probs(batch).cpu()[observed]
            classes = log_probs.shape[-1]
            probs = log_probs.exp()
            top = probs.max(-1)
            confidence[s] += top.values.double().sum()
            aleatoric += float(torch.special.entr(probs).sum()) / len(draws)
            if shares is not None:
                shares[s] += torch.bincount(top.indices, minlength=classes)
            total = probs if total is None else total.add_(probs)
        assert total is not None
        entropy += float(torch.special.entr(total / len(draws)).sum())
    return {
        "uniform": math.log(classes),
        "confidence": confidence / observations,
        "entropy": entropy / observations,
        "aleatoric": aleatoric / observations,
        "shares": None if shares is None else shares / observations,
    }
