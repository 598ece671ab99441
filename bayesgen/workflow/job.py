"""One job: everything that a chain needs, made from the settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from bayesgen.config import ChainSettings, DataSettings, PerExampleSettings, TrainSettings
from bayesgen.data.masked import MaskedBatches, MaskedWindows
from bayesgen.data.windows import Batches, RandomWindows, Rows, ShuffledWindows, Windows
from bayesgen.inference.log_posterior import Affine, LogPosterior
from bayesgen.inference.preconditioning import Scales, measure, squared_gradients, stable_rate
from bayesgen.inference.registry import SAMPLERS, SamplerSpec
from bayesgen.inference.sampler import Sampler
from bayesgen.inference.schedules import Plan
from bayesgen.models import FunctionalModel
from bayesgen.models.checkpointing import refuse_idle
from bayesgen.parameters import ADAPTER
from bayesgen.priors.base import Prior, Weights
from bayesgen.priors.build import build_prior


@dataclass(frozen=True)
class Job:
    """A sampler with its model, data and plan."""

    spec: SamplerSpec[Any]
    settings: TrainSettings
    model: FunctionalModel
    prior: Prior
    batches: Callable[[int], Batches]  # of chain c
    log_posterior: LogPosterior  # in the coordinates that the sampler moves
    plan: Plan
    sampler: Sampler
    scales: Scales | None  # measured before the start; of a chain only
    moments: Tensor | None  # v̂ [P] of that measurement, where there was a pass

    @property
    def num_observations(self) -> int:
        return self.log_posterior.num_observations

    @property
    def num_draws(self) -> int:
        """Draws of all chains together."""
        gaussian = self.settings.draws_from == "gaussian"
        each = self.settings.num_draws_at_most if gaussian else self.plan.num_draws
        return each * self.settings.chains

    @property
    def gradient_evaluations(self) -> int:
        """Batches whose gradient is taken, those of the preconditioner, which chains share, too."""
        return self.plan.steps * self.settings.chains + self.settings.measured_batches


def training_batches(settings: DataSettings, rows: Rows, chain: int = 0) -> Batches:
    """The data of one chain, in its own order.

    Without `train_samples`, which fix the data set, chains and optimisers draw windows of a text at
    random offsets, as nanoGPT does. Everything else is gone through once per pass, each target
    once; masked tokens with new masks each time.
    """
    order = int(np.random.SeedSequence([settings.seed, chain]).generate_state(1)[0])
    if isinstance(rows, MaskedWindows):
        return MaskedBatches(rows, settings.batch_size, order)
    fixed = settings.train_samples is not None or isinstance(settings, PerExampleSettings)
    if isinstance(rows, Windows) and not fixed:
        return RandomWindows(rows.tokens, rows.block_size, settings.batch_size, order)
    return ShuffledWindows(rows, settings.batch_size, order)


def chain_seed(seed: int, chain: int) -> int:
    """Seed of the global generators for one chain."""
    return int(np.random.SeedSequence([seed, chain, 1]).generate_state(1, np.uint64)[0] >> 1)


def weights_of(model: FunctionalModel) -> Weights:
    """What a prior has to know of `model`."""
    new = {name for name in model.new if ADAPTER not in name}
    return Weights(model.loaded, model.layout, new, new | model.outside, model.base)


def make_job(
    name: str,
    settings: TrainSettings,
    model: FunctionalModel,
    batches: Callable[[int], Batches],
    scales: Scales | None = None,
    steps: int | None = None,
    moments: Tensor | None = None,
    prior: Prior | None = None,
) -> Job:
    """Prior, preconditioner, plan and sampler for `model` on `batches`.

    What is known is not measured again: the `scales` of a run that is continued, the `moments` v̂
    [P] of another job on the same data. A plan is shortened to `steps`; `prior` stands in for the
    one that the settings name.
    """
    if settings.gradient_checkpointing:
        refuse_idle(model.module, model.layout.names)
    first, spec = batches(0), SAMPLERS[name]
    plan = spec.plan(settings, first.steps_per_epoch)
    if steps is not None:
        plan = plan.shortened(steps)
    plan = replace(plan, passes=first.passes(plan.steps))
    prior = prior or build_prior(settings, weights_of(model))
    log_posterior = partial(
        LogPosterior,
        model,
        prior,
        first.num_observations,
        precision=settings.precision,
        accumulation=settings.gradient_accumulation,
        checkpointing=settings.gradient_checkpointing,
    )
    target = log_posterior()
    if isinstance(settings, ChainSettings):
        if scales is None:
            count = settings.measured_batches
            if moments is None and count:
                moments = squared_gradients(target, model.theta, first, count)
            scales = measure(settings, target, first, moments)
        norm = scales.gradient_norm
        max_norm = math.inf if norm is None else settings.gradient_clip * norm
        target = log_posterior(affine=Affine(model.theta, scales.d), max_norm=max_norm)
        stiff = prior.precision()
        if stiff is not None:
            plan = plan.held(stable_rate(settings, scales.d, stiff, first.num_observations))
    sampler = spec.build(target, settings, plan)
    return Job(spec, settings, model, prior, batches, target, plan, sampler, scales, moments)
