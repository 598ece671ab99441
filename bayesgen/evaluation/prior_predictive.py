"""What a prior predicts before any data: the mixture over draws of θ from p(θ).

A prior that gives every text the same class, or is as sure of each as a trained network, says so
here (Gabry et al. 2019, https://arxiv.org/abs/1709.01449, section 3).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation.classes import TokenScores, score_mixture
from bayesgen.evaluation.walk import Split, densities, each_number, nll_of
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward
from bayesgen.predictive.mixture import log_mean


@dataclass(frozen=True)
class PriorPredictive:
    """What S draws from a prior say of some rows; NLLs in nats per observation, of the labels.

    What the kind of labels does not have is None.
    """

    draws: Tensor  # NLL of each draw [S]
    nll: float  # of their mixture
    loaded: float  # of the weights that were loaded
    # of classes and tokens:
    uniform: float | None = None  # NLL of a uniform distribution over the classes
    confidence: Tensor | None = None  # mean largest probability of each draw [S]
    entropy: float | None = None  # mean entropy of the mixture, in nats
    aleatoric: float | None = None  # the mean of the draws' own
    shares: Tensor | None = None  # of the observations that a draw puts into a class [S, C]
    # of real numbers: mean prediction of each draw, and its sd over the rows, [S] each
    outputs: tuple[Tensor, Tensor] | None = None


def prior_predictive(
    model: FunctionalModel, draws: Tensor, rows: Rows, batch_size: int = 64
) -> PriorPredictive:
    """Predict `rows` by `draws` [S, P] from a prior."""
    forward, likelihood = Forward(model), model.likelihood
    loaded, _ = nll_of(forward, model.theta[None], rows, batch_size)
    split = Split.of(forward, rows, batch_size)
    if split.of_classes:
        return _of_classes(forward, draws, split, loaded)
    outputs = None
    if split.kind == "number":
        said = each_number(forward, split, draws, lambda output, _: output.flatten())
        every = torch.stack([likelihood.per_sequence(own, split.labels) for own in said]).double()
        outputs = said.mean(1), said.std(1)
    else:
        every = densities(forward, split, draws)
    count = rows.num_targets
    nll = -every.sum(1) / count, -float(log_mean(every).sum()) / count
    return PriorPredictive(*nll, loaded, outputs=outputs)


def _of_classes(forward: Forward, draws: Tensor, split: Split, loaded: float) -> PriorPredictive:
    parts: list[list[TokenScores]] = [[] for _ in draws]
    mixed = score_mixture(
        forward, split, draws, range(len(draws)), each=lambda s, _, own: parts[s].append(own)
    )
    bma = mixed.said["bma"].tally
    said = [TokenScores.cat(own) for own in parts]
    classes = forward.log_probs(split.windows.batch(torch.arange(1))).shape[-1]
    shares = None
    if split.kind == "class":
        counts = [torch.bincount(own.guess, minlength=classes) for own in said]
        shares = torch.stack(counts).double() / len(split.labels)
    return PriorPredictive(
        torch.stack([-own.log_likelihood.mean() for own in said]),
        bma.nll,
        loaded,
        uniform=math.log(classes),
        confidence=torch.stack([own.confidence.mean() for own in said]),
        entropy=bma.mean_entropy,
        aleatoric=statistics.mean(float(own.entropy.mean()) for own in said),
        shares=shares,
    )
