"""A small model with its data: what the sampler tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayesgen.config import TrainSettings
from bayesgen.data.windows import ShuffledWindows, Windows
from bayesgen.inference.log_posterior import Affine, LogPosterior, chunks
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.sampler import Sampler, State
from bayesgen.models import FunctionalModel
from bayesgen.models.nanogpt import GPT, GPTConfig
from bayesgen.priors import Prior, normal, pretrained

CHAINS = [name for name, spec in SAMPLERS.items() if spec.settings.draws_from == "chain"]


class LinearPrior(Prior):
    """log p(θ) = slope · Σθ: no Gaussian, and flat where the slope is zero."""

    def __init__(self, slope: float = 0.0) -> None:
        self.slope = slope

    def log_prob(self, theta: Tensor) -> Tensor:
        return self.slope * theta.sum()

    def describe(self) -> str:
        return f"exp({self.slope} Σθ)"


class NoInformation:
    """A likelihood that is 1 whatever the model says."""

    def total(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return 0.0 * outputs.sum()

    def per_sequence(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return 0.0 * outputs.flatten(1).sum(1)

    def count(self, labels: Tensor) -> Tensor:
        return torch.tensor(labels.numel())


@dataclass
class Tiny:
    """A nanoGPT of a thousand weights on 50 tokens, in four chunks."""

    model: FunctionalModel
    batches: ShuffledWindows
    prior: Prior

    def log_posterior(self, cls: type[LogPosterior] = LogPosterior, **options: Any) -> LogPosterior:
        prior = options.pop("prior", self.prior)
        return cls(self.model, prior, self.batches.num_observations, **options)

    def preconditioned(self, cls: type[LogPosterior] = LogPosterior, **options: Any) -> Any:
        scale = torch.linspace(0.5, 2.0, self.model.layout.size)
        return self.log_posterior(cls, affine=Affine(self.model.theta, scale), **options)

    def target(
        self, name: str, cls: type[LogPosterior] = LogPosterior, **options: Any
    ) -> LogPosterior:
        """What the sampler `name` runs on: chains are preconditioned, the others are not."""
        make = self.preconditioned if name in CHAINS else self.log_posterior
        return make(cls, **options)

    def settings(self, name: str, **changes: Any) -> TrainSettings:
        short = {
            "warmup_steps": 0, "sampling_steps": 20, "thinning": 1, "schedule": "constant",
            "ramp_fraction": 0.0,
        }  # fmt: skip
        passes: dict[str, Any] = {"epochs": 3.0}
        if name == "swag":
            passes = short | {"rank": 2}
        return SAMPLERS[name].settings(**((short if name in CHAINS else passes) | changes))

    def sampler(
        self, name: str, log_posterior: LogPosterior | None = None, **changes: Any
    ) -> Sampler:
        settings = self.settings(name, **changes)
        plan = SAMPLERS[name].plan(settings, self.batches.steps_per_epoch)
        return SAMPLERS[name].build(log_posterior or self.target(name), settings, plan)

    def run(self, sampler: Sampler, state: State, steps: int, first: int = 0) -> State:
        for step in range(first, first + steps):
            state, _ = sampler.update(state, self.batches.batch(step))
        return state


@pytest.fixture
def set_chunk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the length of the chunks of θ."""
    return lambda size: monkeypatch.setattr(chunks, "__defaults__", (size,))


@pytest.fixture
def tiny(set_chunk: Callable[[int], None]) -> Tiny:
    set_chunk(300)
    torch.manual_seed(3)
    module = GPT(GPTConfig(block_size=6, vocab_size=11, n_layer=1, n_head=2, n_embd=8))
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    tokens = np.random.default_rng(0).integers(0, 11, 50)
    windows = Windows.tiled(tokens, 6)  # nine windows, the last of them padded
    model = FunctionalModel(module)
    batches = ShuffledWindows(windows, batch_size=3, seed=0)
    return Tiny(model, batches, pretrained(model.theta, 0.5))


@pytest.fixture
def no_information(tiny: Tiny) -> Callable[..., LogPosterior]:
    """A log posterior of slope · Σθ over all weights: (name of a sampler, slope) -> it."""

    def build(name: str, slope: float = 0.0, **options: Any) -> LogPosterior:
        linear = LinearPrior(slope * tiny.batches.num_observations)
        gaussian = normal(tiny.model.layout.size, 1.0)
        prior = gaussian if name in {"ekf", "laplace"} else linear
        target = tiny.log_posterior(prior=prior, **options)
        target.likelihood = NoInformation()
        return target

    return build


@pytest.fixture
def linear_prior() -> type[Prior]:
    return LinearPrior
