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
    loaded, _ = nll_of(forward, likelihood, model.theta[None], rows, batch_size)
    split = Split.of(rows, batch_size, None, forward.device, likelihood)
    if split.kind in {"class", "token"}:
        return _of_classes(forward, draws, split, loaded)
    outputs = None
    if split.kind == "number":
        said = each_number(forward, split, draws, lambda output, _: output.flatten())
        every = torch.stack([likelihood.per_sequence(own, split.labels) for own in said]).double()
        outputs = said.mean(1), said.std(1)
    else:
        every = densities(forward, split, likelihood, draws)
    count = rows.num_targets
    nll = -every.sum(1) / count, -float(log_mean(every).sum()) / count
    return PriorPredictive(*nll, loaded, outputs=outputs)


def _of_classes(forward: Forward, draws: Tensor, split: Split, loaded: float) -> PriorPredictive:
    parts: list[list[TokenScores]] = [[] for _ in draws]
    found = score_mixture(
        forward, split, draws, range(len(draws)),
        each=lambda draw, first, scores: parts[draw].append(scores),
    )  # fmt: skip
    bma, said = found.said["bma"], [TokenScores.cat(own) for own in parts]
    classes = forward.log_probs(split.windows.batch(torch.arange(1))).shape[-1]
    shares = None
    if split.kind == "class":
        counts = [torch.bincount(own.guess, minlength=classes) for own in said]
        shares = torch.stack(counts).double() / len(split.labels)
    return PriorPredictive(
        torch.stack([-own.log_likelihood.mean() for own in said]),
        bma.tally.nll,
        loaded,
        uniform=math.log(classes),
        confidence=torch.stack([own.confidence.mean() for own in said]),
        entropy=bma.tally.mean_entropy,
        aleatoric=statistics.mean(float(own.entropy.mean()) for own in said),
        shares=shares,
    )
