"""NLL of weights that are in memory: for many short looks at validation data.

Unlike `bayesgen.evaluation.passes` it keeps one number for each label and draw and nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.likelihoods import Gaussian, Likelihood, per_observation
from bayesgen.predictive import Forward


def nll_of(
    forward: Forward, likelihood: Likelihood, draws: Tensor, rows: Rows, batch_size: int = 64
) -> tuple[float, float]:
    """NLL of the mixture of `draws` [S, P] on `rows`, and the mean of theirs, in nats per
    observation; infinite without a draw."""
    if not len(draws):
        return math.inf, math.inf
    every = log_likelihoods(forward, likelihood, draws, rows, batch_size)
    mixed = every.logsumexp(0) - math.log(len(every))
    count = rows.num_targets
    both = -float(mixed.sum()) / count, -float(every.mean(0).sum()) / count
    return (math.inf, math.inf) if math.isnan(sum(both)) else both


def log_likelihoods(
    forward: Forward, likelihood: Likelihood, draws: Tensor, rows: Rows, batch_size: int = 64
) -> Tensor:
    """log p(label | x, θ_s) of every label of `rows` by each draw, [S, labels], float64, in nats;
    exactly 0 where a label is no observation."""
    each = []
    for theta in draws:
        forward.load(theta)
        found = []
        for part in torch.arange(len(rows)).split(batch_size):
            batch = rows.batch(part.numpy())
            labels = batch["labels"].to(forward.device)
            found.append(_log_likelihood(likelihood, forward.outputs(batch), labels))
        each.append(torch.cat(found))
    return torch.stack(each)


def _log_likelihood(likelihood: Likelihood, outputs: Tensor, labels: Tensor) -> Tensor:
    """Of each observation, 1-D, float64."""
    real = isinstance(likelihood, Gaussian)
    found = likelihood.per_sequence(outputs, labels) if real else per_observation(outputs, labels)
    return found.flatten().double().cpu()
