"""Every sampler against posteriors that are known exactly.

The model is linear regression with Gaussian noise and a Gaussian prior, its design columns
correlated and of different sizes. A module with R outputs is R copies of it, all with the same
posterior N(μ, Σ): R independent chains for the price of one. All but the likelihood is the
product's code: LogPosterior, the affine map, chunks, plans, T/N, momenta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayesgen.inference.log_posterior import Affine, LogPosterior
from bayesgen.inference.registry import SAMPLERS as OURS
from bayesgen.inference.schedules import pass_plan
from bayesgen.models import FunctionalModel
from bayesgen.priors import DiagonalGaussian, GaussianPrior
from examples import mysgld

Array = NDArray[np.float64]
SAMPLERS = {**OURS, "mysgld": mysgld.SAMPLER}

ROWS, INPUTS, NOISE = 24, 4, 0.7
D = INPUTS + 1  # weights and a bias


class GaussianLikelihood:
    """labels ~ N(outputs, NOISE²), each of them an observation."""

    def _each(self, outputs: Tensor, labels: Tensor) -> Tensor:
        residual = (labels - outputs) / NOISE
        return -0.5 * residual.square() - math.log(NOISE * math.sqrt(2 * math.pi))

    def total(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self._each(outputs, labels).sum()

    def per_sequence(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self._each(outputs, labels).sum(1)

    def count(self, labels: Tensor) -> Tensor:
        return torch.tensor(labels.numel())


def _design() -> Array:
    rng = np.random.default_rng(1)
    columns = 0.8 * rng.normal(size=(ROWS, 1)) + 0.6 * rng.normal(size=(ROWS, INPUTS))
    columns = columns * [0.3, 1, 2, 1] + [0, 0, 0, 0.5]
    return np.concatenate([columns, np.ones((ROWS, 1))], axis=1)


@dataclass
class Regression:
    """R copies of one Bayesian regression; arrays over θ have the shape [R, D] here."""

    copies: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(2))

    def __post_init__(self) -> None:
        self.design = _design()
        targets = self.design @ [1, -0.5, 0.5, 0.3, 0.8] + NOISE * self.rng.normal(size=ROWS)
        self.prior_mean, self.prior_sd = np.array([0.3, 0, 0, -0.2, 0.5]), np.r_[1.5, 1, 1, 2, 1]
        # the dense posterior of one copy
        self.precision = self.design.T @ self.design / NOISE**2 + np.diag(self.prior_sd**-2)
        self.covariance = np.linalg.inv(self.precision)
        natural = self.design.T @ targets / NOISE**2 + self.prior_mean / self.prior_sd**2
        self.mean = self.covariance @ natural
        self.sd = np.sqrt(np.diag(self.covariance))
        # every copy starts elsewhere, too wide
        self.start = self.mean + 1.5 * self.sd * self.rng.normal(size=(self.copies, D))

        self.labels = np.tile(targets[:, None], self.copies)
        module = nn.Linear(INPUTS, self.copies)
        with torch.no_grad():
            module.weight.copy_(torch.tensor(self.start[:, :-1]))
            module.bias.copy_(torch.tensor(self.start[:, -1]))
        self.model = FunctionalModel(
            module, lambda apply, batch: apply(batch["inputs"]), likelihood=GaussianLikelihood()
        )
        self.prior = GaussianPrior(
            self.ravel(np.tile(self.prior_mean, (self.copies, 1))),
            self.ravel(np.tile(self.prior_sd, (self.copies, 1))),
            self.copies * D,
        )

    @property
    def num_observations(self) -> int:
        return ROWS * self.copies

    def ravel(self, values: Array) -> Tensor:
        """θ [P]: all weights, then all biases."""
        parts = values[:, :-1].ravel(), values[:, -1]
        return torch.tensor(np.concatenate(parts), dtype=torch.float32)

    def unravel(self, theta: Tensor) -> Array:
        """[..., P] -> [..., R, D]."""
        flat = theta.double().numpy()
        weights = flat[..., : -self.copies].reshape(*flat.shape[:-1], self.copies, INPUTS)
        return np.concatenate([weights, flat[..., -self.copies :, None]], axis=-1)

    def batch(self, rows: slice = slice(None)) -> dict[str, Tensor]:
        return {
            "inputs": torch.tensor(self.design[rows, :-1], dtype=torch.float32),
            "labels": torch.tensor(self.labels[rows], dtype=torch.float32),
        }

    def batches(self, size: int) -> list[dict[str, Tensor]]:
        return [self.batch(slice(i, i + size)) for i in range(0, ROWS, size)]

    def log_posterior(self, **options: Any) -> LogPosterior:
        return LogPosterior(self.model, self.prior, self.num_observations, **options)

    def scale(self) -> Array:
        """D: about the posterior widths, but its own in every copy."""
        width = (np.diag(self.precision) / self.num_observations) ** -0.5
        return width * self.rng.uniform(0.7, 1.4, size=(self.copies, D))


# chains

DYNAMICS: dict[str, dict[str, float]] = {
    "sgld": {"learning_rate": 0.05},
    "sglrw": {"learning_rate": 0.05},
    "mysgld": {"learning_rate": 0.05},
    "sghmc": {"learning_rate": 0.04, "friction": 1.6, "momentum_std": 0.8},
    "sgnht": {"learning_rate": 0.04, "friction": 1.6, "momentum_std": 0.8},
    "baoa": {"learning_rate": 0.32, "friction": 0.8, "momentum_std": 0.8},
}
"""In units where the curvature is about 1: the discretisation is off by 3 % at most."""


def draws_of(
    name: str, temperature: float, regression: Regression, log_posterior: LogPosterior
) -> Array:
    """[S, R, D]: the draws that the plan collects of a full-batch run."""
    settings = SAMPLERS[name].settings(
        ramp_fraction=0.0,
        temperature=temperature,
        schedule="constant",
        warmup_steps=250,
        sampling_steps=250,
        thinning=10,
        **DYNAMICS[name],
    )
    plan = SAMPLERS[name].plan(settings, 1)
    sampler = SAMPLERS[name].build(log_posterior, settings, plan)
    torch.manual_seed(0)
    state, batch, draws = sampler.init(), regression.batch(), []
    for collect in plan.collect:
        state, _ = sampler.update(state, batch)
        if collect:
            draws.append(sampler.theta(state))
    return regression.unravel(torch.stack(draws))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("name", DYNAMICS)
def test_a_chain_recovers_the_posterior(
    name: str, temperature: float, set_chunk: Callable[[int], None]
) -> None:
    set_chunk(8000)
    # a step costs much the same for many copies: there are more of them, and fewer steps
    regression = Regression(copies=4000)
    scale = regression.ravel(regression.scale())
    log_posterior = regression.log_posterior(affine=Affine(regression.model.theta, scale))
    assert len(log_posterior.affine.start()) == 3
    draws = draws_of(name, temperature, regression, log_posterior)
    assert draws.shape == (25, 4000, D)

    covariance = temperature * regression.covariance
    sd = np.sqrt(np.diag(covariance))
    centred = draws - regression.mean
    # the copies are independent: their spread is the Monte-Carlo error, no ESS needed
    error = draws.mean(0).std(0) / np.sqrt(regression.copies)
    assert (error < 0.02 * sd).all()
    assert (np.abs(centred.mean((0, 1))) < 4.5 * error).all()

    squares = (centred**2).mean(0)
    assert (squares.std(0) / np.sqrt(regression.copies) < 0.02 * sd**2).all()
    np.testing.assert_allclose(squares.mean(0), sd**2, rtol=0.06)

    second = np.einsum("sri,srj->ij", centred, centred) / (25 * regression.copies)
    correlation = second / np.sqrt(np.outer(np.diag(second), np.diag(second)))
    exact = covariance / np.outer(sd, sd)
    assert np.abs(exact - np.eye(D)).max() > 0.5
    np.testing.assert_allclose(correlation, exact, atol=0.04)


@pytest.mark.parametrize("name", ["sghmc", "sgnht", "baoa"])
def test_steps_are_stable_up_to_the_limit_of_symplectic_dynamics(name: str) -> None:
    # explicit Euler would need lr/α below 1/h: its momenta would grow by a third in every step
    regression = Regression(copies=1)
    log_posterior = regression.log_posterior()
    curvature = np.linalg.eigvalsh(regression.precision)[-1] / regression.num_observations
    learning_rate = (2 / curvature) ** 0.5
    settings = SAMPLERS[name].settings(
        learning_rate=learning_rate, friction=0.2 / learning_rate, schedule="constant",
        ramp_fraction=0.0, warmup_steps=0, sampling_steps=400, temperature=1.0,
    )  # fmt: skip
    sampler = SAMPLERS[name].build(log_posterior, settings, SAMPLERS[name].plan(settings, 1))
    torch.manual_seed(0)
    state, batch, path = sampler.init(), regression.batch(), []
    for _ in range(400):
        state, _ = sampler.update(state, batch)
        path.append(sampler.theta(state))
    away = (regression.unravel(torch.stack(path)) - regression.mean) / regression.sd
    # the widest that a step of this size makes a direction is √2, and heat adds a little
    assert np.abs(away[200:]).max() < 8


# the gradient that drives them


@pytest.mark.parametrize("size", [3, 8, 24])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_minibatch_gradients_average_to_that_of_the_log_posterior_over_n(
    size: int, accumulation: int, set_chunk: Callable[[int], None]
) -> None:
    set_chunk(7)
    regression = Regression(copies=6)
    scale = regression.scale()
    affine = Affine(regression.model.theta, regression.ravel(scale))
    log_posterior = regression.log_posterior(affine=affine, accumulation=accumulation)
    phi = affine.start()
    gradients = [
        torch.cat(torch.func.grad(log_posterior, has_aux=True)(phi, batch)[0])
        for batch in regression.batches(size)
    ]
    offset = regression.start - regression.mean
    exact = -scale * (offset @ regression.precision) / regression.num_observations
    mean = regression.unravel(torch.stack(gradients).mean(0))
    np.testing.assert_allclose(mean, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())


# filters and approximations


def fit(name: str, regression: Regression, batches: list[dict[str, Tensor]], **changes: Any) -> Any:
    """The sampler after its plan, and its last state."""
    settings = SAMPLERS[name].settings(**changes)
    plan = SAMPLERS[name].plan(settings, len(batches))
    sampler = SAMPLERS[name].build(regression.log_posterior(), settings, plan)
    torch.manual_seed(0)
    state = sampler.init()
    for step in range(plan.steps):
        state, _ = sampler.update(state, batches[step % len(batches)])
    return sampler, state


def gaussian_of(fitted: tuple[Any, Any], regression: Regression) -> tuple[Array, Array]:
    sampler, state = fitted
    gaussian: DiagonalGaussian = sampler.gaussian(state)
    mean = regression.unravel(gaussian.mean)
    np.testing.assert_array_equal(mean, regression.unravel(sampler.theta(state)))
    return mean, regression.unravel(gaussian.variance)


def filtered(
    regression: Regression,
    groups: list[slice],
    passes: int,
    rate: float,
    transition: float,
    temperature: float = 1.0,
) -> tuple[Array, Array]:
    """The diagonal filter with the empirical Fisher, group after group of rows: [D] each."""
    design, labels = regression.design, regression.labels[:, 0]
    mean, variance = regression.prior_mean.copy(), temperature * regression.prior_sd**2
    for group in groups * passes:
        residual = labels[group] - design[group] @ mean
        rows = design[group] * residual[:, None] / NOISE**2  # gradient of each row
        variance = 1 / (1 / (variance + transition**2) + rate * (rows**2).sum(0))
        mean = mean + rate * variance * rows.sum(0)
    return mean, variance


@pytest.mark.parametrize(
    ("changes", "rate", "transition"),
    [
        ({}, 1.0, 0.0),
        ({"temperature": 0.5}, 2.0, 0.0),
        ({"learning_rate": 0.3, "temperature": 2.0}, 0.15, 0.0),
        ({"epochs": 3.0}, 1 / 3, 0.0),
        ({"transition_std": 0.2}, 1.0, 0.2),
    ],
)
def test_ekf_is_the_diagonal_filter(
    changes: dict[str, float], rate: float, transition: float, set_chunk: Callable[[int], None]
) -> None:
    set_chunk(4)
    regression = Regression(copies=3)
    fitted = fit("ekf", regression, regression.batches(5), **({"epochs": 1.0} | changes))
    groups = [slice(i, i + 5) for i in range(0, ROWS, 5)]  # the last one is smaller
    passes = int(changes.get("epochs", 1))
    temperature = changes.get("temperature", 1.0)
    exact = filtered(regression, groups, passes, rate, transition, temperature)
    for got, want in zip(gaussian_of(fitted, regression), exact, strict=True):
        np.testing.assert_allclose(got, np.tile(want, (3, 1)), rtol=1e-4, atol=1e-6)


def test_ekf_cuts_a_batch_that_does_not_fit_into_smaller_updates() -> None:
    regression = Regression(copies=4000)  # 1 MiB holds three rows of 20,000 weights
    fitted = fit("ekf", regression, regression.batches(6), epochs=1.0, jacobian_memory=1)
    mean, variance = filtered(regression, [slice(i, i + 3) for i in range(0, ROWS, 3)], 1, 1.0, 0.0)
    got = gaussian_of(fitted, regression)
    np.testing.assert_allclose(got[0], np.tile(mean, (4000, 1)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got[1], np.tile(variance, (4000, 1)), rtol=1e-4)


def test_ekf_walks_between_batches_and_not_between_their_pieces() -> None:
    """With no information in the data only the random walk is left: the same however it is cut."""
    sds = []
    for megabytes in (1, 1024):
        regression = Regression(copies=4000)
        fitted = fit(
            "ekf", regression, regression.batches(6), epochs=1.0, jacobian_memory=megabytes,
            transition_std=0.5, learning_rate=0.0,
        )  # fmt: skip
        sds.append(gaussian_of(fitted, regression)[1])
    np.testing.assert_allclose(sds[0], sds[1], rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize(
    ("epochs", "rows", "weight"),
    [
        (1.0, 24, 1.0),
        (2.0, 24, 1.0),
        (0.5, 12, 2.0),
        (0.3, 6, 4.0),  # of four batches that is one: a quarter of the data
    ],
)
def test_laplace_is_the_summed_fisher_and_the_prior(
    epochs: float, rows: int, weight: float, temperature: float, set_chunk: Callable[[int], None]
) -> None:
    set_chunk(4)
    regression = Regression(copies=3)
    fitted = fit(
        "laplace", regression, regression.batches(6), epochs=epochs, temperature=temperature
    )
    fisher = torch.zeros_like(regression.model.theta)
    for row in regression.batches(1)[:rows]:
        theta = regression.model.theta.clone().requires_grad_()
        value = GaussianLikelihood().total(regression.model(theta, row), row["labels"])
        fisher += weight * torch.autograd.grad(value, theta)[0] ** 2
    precision = (regression.unravel(fisher) + regression.prior_sd**-2) / temperature
    mean, variance = gaussian_of(fitted, regression)
    np.testing.assert_allclose(mean, regression.start, rtol=1e-6)
    np.testing.assert_allclose(1 / variance, precision, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_vi_is_the_best_mean_field_gaussian(
    temperature: float, set_chunk: Callable[[int], None]
) -> None:
    set_chunk(700)
    regression = Regression(copies=400)
    settings = SAMPLERS["vi"].settings(
        temperature=temperature, init_std=0.05, epochs=800, learning_rate=0.03, final_fraction=0.001
    )
    plan = pass_plan(settings, 1)
    sampler = SAMPLERS["vi"].build(regression.log_posterior(), settings, plan)
    torch.manual_seed(0)
    state, batch = sampler.init(), regression.batch()
    for _ in range(plan.steps):
        state, _ = sampler.update(state, batch)
    mean, variance = gaussian_of((sampler, state), regression)
    exact = np.sqrt(temperature / np.diag(regression.precision))  # not the marginal sd
    error = mean.std(0) / np.sqrt(regression.copies)
    assert (error < 0.01 * exact).all()
    assert (np.abs(mean.mean(0) - regression.mean) < 4.5 * error).all()
    np.testing.assert_allclose(np.sqrt(variance), np.tile(exact, (400, 1)), rtol=0.2)
    np.testing.assert_allclose(np.sqrt(variance).mean(0), exact, rtol=0.02)


def test_map_is_the_ridge_solution() -> None:
    regression = Regression(copies=5)
    sampler, state = fit(
        "map",
        regression,
        [regression.batch()],
        epochs=800,
        learning_rate=0.05,
        final_fraction=0.001,
    )
    theta = regression.unravel(sampler.theta(state))
    assert (np.abs(theta - regression.mean) < 0.01 * regression.sd).all()
