"""NLL of weights that are in memory: for many short looks at validation data.

Of each observation and draw one number is kept to the end, and nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation.walk import Advance, Split, Weights, each_number
from bayesgen.likelihoods import Categorical, Likelihood
from bayesgen.predictive import Forward
from bayesgen.predictive.mixture import log_mean


def nll_of(
    forward: Forward, likelihood: Likelihood, draws: Tensor, rows: Rows, batch_size: int = 64
) -> tuple[float, float]:
    """NLL of the mixture of `draws` [S, P] on `rows`, and the mean of theirs, in nats per
    observation; infinite without a draw."""
    if not len(draws):
        return math.inf, math.inf
    every = log_likelihoods(forward, likelihood, draws, rows, batch_size)
    count = rows.num_targets
    both = -float(log_mean(every).sum()) / count, -float(every.mean(0).sum()) / count
    return (math.inf, math.inf) if math.isnan(sum(both)) else both


def log_likelihoods(
    forward: Forward, likelihood: Likelihood, draws: Tensor, rows: Rows, batch_size: int = 64
) -> Tensor:
    """log p(label | x, θ_s) of `rows`, in their order, by each of S > 0 draws: [S, n], float64, in
    nats. Of classes and tokens n are the labels that are observations, and else the rows: of a real
    number that is NaN, exactly 0."""
    split = Split.of(rows, batch_size, None, forward.device, likelihood)
    return densities(forward, split, likelihood, list(draws))


def densities(
    forward: Forward,
    split: Split,
    likelihood: Likelihood,
    weights: Weights,
    advance: Advance = lambda rows: None,
) -> Tensor:
    """The same of a split, by each of `weights`."""
    density = (
        likelihood.per_observation
        if isinstance(likelihood, Categorical)
        else likelihood.per_sequence
    )

    def of(said: Tensor, labels: Tensor) -> Tensor:
        return density(said, labels).double()

    with torch.no_grad():
        return each_number(forward, split, weights, of, advance)
