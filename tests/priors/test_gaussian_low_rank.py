"""The low-rank Gaussian against dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from bayesgen.priors.gaussian import LowRankGaussian

P, K = 40, 5


@pytest.fixture
def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(P, generator=generator)
    diagonal = torch.rand(P, generator=generator) * 0.1 + 0.01
    factor = torch.randn(K, P, generator=generator)
    return mean, diagonal, factor


def dense(mean: torch.Tensor, diagonal: torch.Tensor, factor: torch.Tensor) -> MultivariateNormal:
    w = factor.double()
    return MultivariateNormal(mean.double(), diagonal.double().diag() + w.T @ w)


@pytest.mark.parametrize("rank", [0, 1, K])
@pytest.mark.parametrize("narrow", [1.0, 1e-4])
def test_density_and_gradient_are_those_of_the_full_covariance(
    parts: tuple[torch.Tensor, ...], rank: int, narrow: float
) -> None:
    mean, diagonal, factor = parts
    diagonal, factor = diagonal * narrow, factor[:rank]
    prior, truth = LowRankGaussian(mean, diagonal, factor), dense(mean, diagonal, factor)
    theta = mean + 0.3 * torch.randn(P, generator=torch.Generator().manual_seed(1))
    exact = theta.double().requires_grad_()
    truth.log_prob(exact).backward()
    assert exact.grad is not None

    assert float(prior.log_prob(theta)) == pytest.approx(
        float(truth.log_prob(exact).detach()), rel=1e-5
    )
    by_autograd = torch.func.grad(prior.log_prob)(theta)
    gradient = torch.ones(P)
    value = prior.accumulate(theta, gradient, 0.5)
    assert float(value) == pytest.approx(float(truth.log_prob(exact).detach()), rel=1e-5)
    scale = float(exact.grad.norm())
    assert float((by_autograd - exact.grad).norm()) < 1e-5 * scale
    assert float((2 * (gradient - 1) - exact.grad).norm()) < 1e-5 * scale


def test_draws_have_its_mean_and_covariance(parts: tuple[torch.Tensor, ...]) -> None:
    prior, truth = LowRankGaussian(*parts), dense(*parts)
    torch.manual_seed(2)
    draws = torch.stack([prior.sample() for _ in range(20_000)]).double()
    covariance = truth.covariance_matrix
    sd = covariance.diagonal().sqrt()
    # the standard error of a covariance is at most sqrt(2/n) sd_i sd_j
    error = (draws.T.cov() - covariance) / torch.outer(sd, sd)
    assert error.abs().max() < 5 * (2 / 20_000) ** 0.5
    assert ((draws.mean(0) - truth.mean) / sd).abs().max() < 5 / 20_000**0.5
    marginal = prior.marginal_variance().double()
    torch.testing.assert_close(marginal, covariance.diagonal(), rtol=1e-6, atol=0)


def test_the_gain_is_on_the_factor(parts: tuple[torch.Tensor, ...]) -> None:
    mean, diagonal, factor = parts
    one, other = LowRankGaussian(*parts), LowRankGaussian(mean, diagonal, factor / 8, 8.0)
    theta = torch.zeros(P)
    torch.testing.assert_close(other.factor, factor)
    torch.testing.assert_close(one.log_prob(theta), other.log_prob(theta))
    torch.testing.assert_close(one.marginal_variance(), other.marginal_variance())
    torch.manual_seed(4)
    draw = one.sample()
    torch.manual_seed(4)
    torch.testing.assert_close(other.sample(), draw)


def test_it_is_fit_for_vmap(parts: tuple[torch.Tensor, ...]) -> None:
    prior = LowRankGaussian(*parts)
    thetas = torch.randn(3, P, generator=torch.Generator().manual_seed(3))
    together = torch.vmap(prior.log_prob)(thetas)
    torch.testing.assert_close(together, torch.stack([prior.log_prob(t) for t in thetas]))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_variances_must_be_positive(parts: tuple[torch.Tensor, ...], bad: float) -> None:
    mean, diagonal, factor = parts
    diagonal[3] = bad
    with pytest.raises(ValueError, match="positive"):
        LowRankGaussian(mean, diagonal, factor)


def test_shapes_must_fit(parts: tuple[torch.Tensor, ...]) -> None:
    mean, diagonal, factor = parts
    with pytest.raises(ValueError, match=r"\[K, P\]"):
        LowRankGaussian(mean, diagonal, factor.T)


def test_it_has_independent_coordinates_where_it_has_no_deviations(
    parts: tuple[torch.Tensor, ...],
) -> None:
    mean, diagonal, deviations = parts
    assert LowRankGaussian(mean, diagonal, deviations).diagonal() is None
    found = LowRankGaussian(mean, diagonal, deviations[:0]).diagonal()
    assert found is not None
    assert torch.equal(found.mean, mean)
    assert torch.equal(found.variance, diagonal)
