"""What a prior predicts before any data: the mixture over draws of θ from p(θ).

A prior that gives every text the same class, or is as sure of each as a trained network, says so
here (Gabry et al. 2019, https://arxiv.org/abs/1709.01449, section 3).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation.nll import nll_of
from bayesgen.evaluation.passes import Split, max_block, readings
from bayesgen.evaluation.tokens import TokenScores
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
    loaded, _ = nll_of(forward, likelihood, model.theta[None], rows, batch_size)
    split = Split.of(rows, batch_size, None, forward.device)
    if isinstance(likelihood, Gaussian):
        return _of_numbers(forward, likelihood, draws, split, loaded)
    return _of_classes(forward, draws, split, loaded)


def _of_numbers(
    forward: Forward, likelihood: Gaussian, draws: Tensor, split: Split, loaded: float
) -> PriorPredictive:
    outputs, densities = [], []
    for reading in readings(forward, split, len(split.indices), forward.outputs):
        for theta in draws:
            forward.load(theta)
            read = [(found.flatten(), labels) for _, labels, found in reading]
            outputs.append(torch.cat([found for found, _ in read]))
            densities.append(torch.cat([likelihood.per_sequence(*pair) for pair in read]))
    # each draw has read all blocks: [blocks x S] of unequal length
    said = _by_draw(outputs, len(draws))
    every = _by_draw(densities, len(draws)).double()
    observations = split.windows.num_targets
    return PriorPredictive(
        -every.sum(1) / observations,
        -float((every.logsumexp(0) - math.log(len(every))).sum()) / observations,
        loaded,
        outputs=(said.mean(1), said.std(1)),
    )


def _by_draw(blocks: Sequence[Tensor], draws: int) -> Tensor:
    """What `draws` said of one block after the other, [S, n]."""
    return torch.stack([torch.cat(list(blocks[s::draws])) for s in range(draws)]).cpu()


def _of_classes(forward: Forward, draws: Tensor, split: Split, loaded: float) -> PriorPredictive:
    each: list[list[TokenScores]] = [[] for _ in draws]
    mixed: list[TokenScores] = []
    classes = 0
    for reading in readings(forward, split, max_block(forward, split), forward.target_log_probs):
        sums: list[tuple[Tensor, Tensor]] = []
        for theta, own in zip(draws, each, strict=True):
            forward.load(theta)
            for i, (_, labels, log_probs) in enumerate(reading):
                targets = labels[labels != IGNORED]
                own.append(TokenScores.of(log_probs, targets))
                if own is each[0]:
                    sums.append((log_probs, targets))
                else:
                    torch.logaddexp(sums[i][0], log_probs, out=sums[i][0])
        mixed += [TokenScores.of(total - math.log(len(draws)), targets) for total, targets in sums]
        classes = sums[0][0].shape[-1]
    bma, said = TokenScores.cat(mixed), [TokenScores.cat(own) for own in each]
    shares = None
    if split.windows.num_classes is not None:
        counts = [torch.bincount(own.guess, minlength=classes) for own in said]
        shares = torch.stack(counts).double() / len(bma.guess)
    return PriorPredictive(
        torch.stack([-own.log_likelihood.mean() for own in said]),
        -float(bma.log_likelihood.mean()),
        loaded,
        uniform=math.log(classes),
        confidence=torch.stack([own.confidence.mean() for own in said]),
        entropy=float(bma.entropy.mean()),
        aleatoric=statistics.mean(float(own.entropy.mean()) for own in said),
        shares=shares,
    )
