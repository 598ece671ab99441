"""What samplers are built of: the algorithm is a transform of `posteriors`; what stands here adapts
scales (T/N, stationary momenta, priors) and says how to read its state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import optree
import torch
from torch import Tensor

from bayesgen.config import ChainSettings, MomentumSettings, PerExampleSettings
from bayesgen.errors import UserError
from bayesgen.inference.libraries import posteriors
from bayesgen.inference.log_posterior import Chunks, LogPosterior, split
from bayesgen.inference.schedules import Plan
from bayesgen.models.functional import Batch
from bayesgen.priors.base import DiagonalGaussian, Fitted

State = Any
"""A `posteriors` state: a tensorclass whose fields are trees of tensors."""


@dataclass(frozen=True)
class Langevin:
    """The numbers of a Langevin chain that decide whether it works, in the coordinates φ.

    Attributes:
        drift: how far one step moves per unit of gradient.
        noise: sd of one step's noise.
        friction_steps: steps until the velocity is forgotten; None without momenta.
        diffusion: sd of the displacement after n steps of free diffusion, per √n.
    """

    drift: float
    noise: float
    friction_steps: float | None
    diffusion: float


@dataclass(frozen=True)
class Learned:
    """What becomes the file of a prior: `priors.learned` says what its numbers mean.

    Attributes:
        method: by the name that --prior knows.
        mean, variance: μ and v [P], with deviations Q [K, P].
        collected: how many weights they are of; None where they are not of a path.
    """

    method: str
    mean: Tensor
    variance: Tensor
    deviations: Tensor
    collected: int | None = None


@dataclass(frozen=True)
class Sampler:
    """A `posteriors` transform and how to read its state.

    Attributes:
        transform: init and update.
        init: the first state; draws momenta from the global generator.
        theta: θ [P] of a state: a new tensor (the transforms rebind memory in place). The position
            of a chain, the mean of a Gaussian.
        gaussian: the fitted Gaussian of a state; None for chains and point estimates.
        learned: what a state says as the prior of a later task; None where no file is made of it.
        langevin: scales at a step size and temperature T/N; None where there is no such thing.
        inplace: whether the transform updates its state in place.
    """

    transform: posteriors.types.Transform
    init: Callable[[], State]
    theta: Callable[[State], Tensor]
    gaussian: Callable[[State], Fitted] | None = None
    learned: Callable[[State], Learned] | None = None
    langevin: Callable[[float, float], Langevin] | None = None
    inplace: bool = True

    @classmethod
    def of(
        cls, transform: posteriors.types.Transform, log_posterior: LogPosterior, **reading: Any
    ) -> Self:
        """The sampler that starts at the loaded weights and whose state's `params` is where it is;
        `reading`: the other attributes."""
        affine = log_posterior.affine
        return cls(
            transform,
            init=lambda: own(transform.init(affine.start())),
            theta=lambda state: affine.theta(state.params),
            **reading,
        )

    def update(self, state: State, batch: Batch) -> tuple[State, Tensor]:
        """One step: the new state, and the terms [NLL, log p(θ)/N, clipped] of the batch where the
        gradient was taken: where the step began, or where it moved to."""
        state, terms = self.transform.update(state, batch, inplace=self.inplace)
        return state, terms


def own(state: State) -> State:
    """`state` with its own copies of what `posteriors` shares between all states: step counters are
    class-level default tensors there and are changed in place, so that the second chain of a
    process would start at the last step of the first."""
    fields = _fields(state).items()
    return type(state)(**{n: v.clone() if isinstance(v, Tensor) else v for n, v in fields})


def leaves(state: State) -> list[Tensor]:
    """The tensors of a state, in a fixed order: what a checkpoint stores."""
    return [torch.as_tensor(leaf) for leaf in optree.tree_leaves(_fields(state))]


def restore(state: State, values: Iterable[Tensor]) -> State:
    """A state of the same structure as `state` that holds `values` (copied, same devices)."""
    old, spec = optree.tree_flatten(_fields(state))
    new = [v.to(o.device, copy=True) for o, v in zip(old, values, strict=True)]
    return type(state)(**optree.tree_unflatten(spec, new))


def _fields(state: State) -> Any:
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}


def lookup(values: Tensor) -> Callable[[Any], Tensor]:
    """A schedule as `posteriors` calls it: step -> scalar; beyond its end the last value."""
    return lambda step: values[min(int(step), len(values) - 1)]


def chain_sampler(
    algorithm: str,
    target: LogPosterior,
    settings: ChainSettings,
    plan: Plan,
    init_with: Callable[[Any], tuple[float, ...]] = lambda settings: (),
    look_ahead: bool = False,
) -> Sampler:
    """A chain of `posteriors.sgmcmc`, with momenta where its settings have them.

    Args:
        algorithm: its module there.
        init_with: what its `init` takes after parameters and momenta, by settings.
        look_ahead: take the gradient where the step moves to, θ + lr σ⁻² m, for an algorithm that
            takes it where the step begins.
    """
    module = getattr(posteriors.sgmcmc, algorithm)
    learning_rate = lookup(plan.learning_rate)
    temperature = lookup(plan.temperature / target.num_observations)
    if not isinstance(settings, MomentumSettings):
        transform = module.build(target, lr=learning_rate, temperature=temperature)
        return Sampler.of(transform, target, langevin=overdamped)
    alpha, sigma = settings.friction, settings.momentum_std
    scales = {"lr": learning_rate, "alpha": alpha, "sigma": sigma, "temperature": temperature}
    move = partial(module.update, **scales)
    largest = float(plan.learning_rate.max()) * alpha / sigma**2
    if look_ahead and largest >= 2:
        raise UserError(
            f"`friction`: at lr·α/σ² = {largest:.3g} the momenta turn around and grow in every"
            " step; keep it below 2 by a lower `friction` or `learning_rate`"
        )

    def init(params: Chunks) -> State:
        # N(0, σ² T/N), their law under the target at the first step's T: the unit momenta that
        # `posteriors` would draw are a thousand times too hot at T/N = 1e-6, and throw θ off its
        # mode in one step
        sd = sigma * (float(plan.temperature[0]) / target.num_observations) ** 0.5
        momenta = tuple(sd * torch.randn_like(p) for p in params)
        return module.init(params, momenta, *init_with(settings))

    def update(state: State, batch: Batch, inplace: bool = False) -> Any:
        log_density: Callable[..., Any] = target
        if look_ahead:
            length = float(learning_rate(state.step)) / sigma**2
            log_density = partial(target, step=(state.momenta, length))
        return move(state, batch, log_density, inplace=inplace)

    transform = posteriors.types.Transform(init, update)
    return Sampler.of(transform, target, langevin=underdamped(alpha, sigma))


def overdamped(learning_rate: float, temperature: float) -> Langevin:
    """Scales of dφ = ∇ℓ dt + √(2T/N) dW at dt = lr; `temperature` is T/N."""
    noise = (2 * learning_rate * temperature) ** 0.5
    return Langevin(learning_rate, noise, None, noise)


def underdamped(friction: float, sd: float) -> Callable[[float, float], Langevin]:
    """Scales of Langevin dynamics with momenta: friction α, momenta of variance sd²·T/N."""

    def at(learning_rate: float, temperature: float) -> Langevin:
        gamma = friction / sd**2
        steps = float("inf") if gamma * learning_rate == 0 else 1 / (gamma * learning_rate)
        drift = learning_rate**2 / sd**2 * min(max(steps, 1.0), 1e9)
        noise = (2 * learning_rate * friction * temperature) ** 0.5
        diffusion = (2 * learning_rate * temperature / friction) ** 0.5 if friction else 0.0
        return Langevin(drift, noise * learning_rate / sd**2, steps, diffusion)

    return at


def diagonal_prior(log_posterior: LogPosterior, sampler: str) -> DiagonalGaussian:
    """The prior as a diagonal Gaussian, on the model's device; refused where it is none."""
    gaussian = log_posterior.prior.diagonal()
    if gaussian is None:
        raise UserError(
            f"`sampler={sampler}` needs a prior with independent Gaussian weights;"
            " use `prior=normal`, pretrained or laplace"
        )
    device = log_posterior.model.device
    return DiagonalGaussian(gaussian.mean.to(device), gaussian.variance.to(device))


def rows_within(settings: PerExampleSettings, size: int) -> Callable[[Batch], list[Batch]]:
    """Cut batches so that per-example gradients of `size` parameters fit `jacobian_memory`."""
    each = settings.row_bytes(size)
    rows = int(settings.jacobian_memory * 2**20 / each)
    if rows < 1:
        raise UserError(
            f"`jacobian_memory={settings.jacobian_memory}` MiB cannot hold one example's gradient;"
            f" raise it to at least {-(-each // 2**20)} or choose fewer `parameters`"
        )
    return lambda batch: list(split(batch, -(-len(batch["labels"]) // rows)))


def terms_of(nll: Tensor) -> Tensor:
    """The terms of a step whose target is the likelihood alone: [NLL, 0, 0]."""
    return torch.stack([nll, torch.zeros_like(nll), torch.zeros_like(nll)])
