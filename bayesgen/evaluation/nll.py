"""NLL of weights that are in memory: for many short looks at validation data.

Of each label and draw one number is kept to the end, and nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation.passes import Split, readings
from bayesgen.likelihoods import IGNORED, Categorical, Likelihood
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
    """log p(label | x, θ_s) of every label of `rows` that is an observation, in their order, by
    each of S > 0 draws: [S, n], float64, in nats. Of real numbers every label is there, as exactly
    0 where it is NaN."""
    split = Split.of(rows, batch_size, None, forward.device)
    real = not isinstance(likelihood, Categorical)
    read = forward.outputs if real else forward.target_log_probs
    back = split.windows_back if real else split.tokens_back
    found: list[list[Tensor]] = [[] for _ in draws]
    for reading in readings(forward, split, len(rows), read):
        for theta, own in zip(draws, found, strict=True):
            forward.load(theta)
            for _, labels, outputs in reading:
                each = (
                    likelihood.per_observation(outputs, labels[labels != IGNORED])
                    if isinstance(likelihood, Categorical)
                    else likelihood.per_sequence(outputs, labels)
                )
                own.append(each.double().cpu())
    return torch.stack([torch.cat(own) for own in found])[:, back]
