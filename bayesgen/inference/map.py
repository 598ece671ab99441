"""MAP: the maximum of the log posterior, by AdamW through the same loop.

    θ ← argmax ℓ(θ)

The point estimate that every posterior is compared with. Loshchilov and Hutter 2019,
https://arxiv.org/abs/1711.05101. Transform: `posteriors.torchopt` with torchopt's AdamW.
"""

from __future__ import annotations

from typing import Any

import torch

from bayesgen.config import MAPSettings
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.sampler import Sampler, own
from bayesgen.inference.schedules import Plan, lookup
from bayesgen.inference.transforms import posteriors, torchopt
from bayesgen.models.functional import Batch
from bayesgen.parameters import chunks


def build(log_posterior: LogPosterior, settings: MAPSettings, plan: Plan) -> Sampler:
    def loss(phi: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        value, terms = log_posterior(phi, batch)
        return -value, terms

    transform = posteriors.torchopt.build(
        loss,
        torchopt.adamw(lr=lookup(plan.learning_rate), weight_decay=settings.weight_decay),
    )
    start = log_posterior.model.theta
    return Sampler(
        transform,
        init=lambda: own(transform.init(tuple(c.clone() for c in chunks(start)))),
        theta=lambda state: torch.cat(state.params),
        inplace=False,
    )
