"""SWAG against laws that are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from bayesgen.errors import UserError
from bayesgen.inference import moments as moments_module
from bayesgen.inference.libraries import torchopt
from bayesgen.inference.moments import Path, follow
from bayesgen.inference.swag import SAMPLER, SWAGSettings

P = 3
RATE = 0.2


def curvature() -> Tensor:
    """A symmetric positive matrix [P, P] whose axes are not the coordinates'."""
    basis, _ = torch.linalg.qr(torch.randn(P, P, generator=torch.Generator().manual_seed(0)))
    return basis @ torch.tensor([0.5, 1.0, 2.0]).diag() @ basis.T


def stationary(a: Tensor, noise: float) -> Tensor:
    """Covariance of θ ← θ − r (Aθ + ξ), ξ ~ N(0, noise² I): r noise² (A (2 − r A))⁻¹."""
    return RATE * noise**2 * torch.linalg.inv(a @ (2 * torch.eye(P) - RATE * a))


def run(steps: int, rank: int, every: int, start: int = 200) -> Path:
    """SGD on ½ (θ − 1)ᵀ A (θ − 1) with noisy gradients; two chunks."""
    a = curvature()

    def loss(params: tuple[Tensor, ...], batch: Tensor) -> tuple[Tensor, Tensor]:
        away = torch.cat(params) - 1
        return 0.5 * away @ a @ away + batch @ away, torch.zeros(3)

    moving = follow(
        loss,
        torchopt.sgd(lr=RATE),
        rank,
        lambda step: step >= start and (step - start + 1) % every == 0,
    )
    state: Any = moving.init((torch.zeros(2), torch.zeros(1)))
    generator = torch.Generator().manual_seed(1)
    for noise in 0.3 * torch.randn(steps, P, generator=generator):
        state, _ = moving.update(state, noise, inplace=True)
    return state  # type: ignore[no-any-return]


def nothing_yet(rank: int) -> Path:
    """A path before its first collection; two chunks."""
    moving = follow(lambda params, batch: None, torchopt.sgd(lr=RATE), rank, lambda step: True)
    path: Path = moving.init((torch.zeros(2), torch.zeros(1)))
    return path


def test_it_finds_the_stationary_law_of_sgd_on_a_quadratic() -> None:
    state = run(steps=12_200, rank=600, every=20)
    truth = stationary(curvature(), 0.3)
    count = int(state.count)
    assert count == 600
    sd = truth.diagonal().sqrt()
    mean = state.centre()
    # collected 20 steps apart, models are all but independent
    assert ((mean - 1).abs() < 4 * sd / count**0.5).all()
    v = state.variance()
    assert ((v / truth.diagonal() - 1).abs() < 4 * (2 / count) ** 0.5).all()
    q = state.deviations()
    error = (q.T @ q - truth) / torch.outer(sd, sd)
    assert error.abs().max() < 4 * (2 / count) ** 0.5

    fitted = state.gaussian()
    covariance = 0.5 * (v.diag() + q.T @ q)
    exact = MultivariateNormal(mean.double(), covariance.double())
    theta = torch.tensor([0.9, 1.1, 1.2])
    density = float(exact.log_prob(theta.double()))
    assert float(fitted.log_prob(theta)) == pytest.approx(density, rel=1e-5)


def test_moments_are_those_of_the_collected_weights() -> None:
    generator = torch.Generator().manual_seed(2)
    # a spread far below float32's resolution of a difference of squares
    each = 100 + 1e-2 * torch.randn(7, P, generator=generator)
    moments = nothing_yet(rank=4)
    for theta in each:
        replace(moments, params=theta.split(2)).collect_()
    exact = each.double()
    torch.testing.assert_close(torch.cat(moments.mean), exact.mean(0))
    torch.testing.assert_close(moments.variance().double(), exact.var(0), rtol=1e-5, atol=0)
    q = (exact[-4:] - exact.mean(0)) / 3**0.5
    torch.testing.assert_close(moments.deviations().double(), q, rtol=1e-5, atol=1e-9)
    assert (moments.deviations().abs().sum(1) > 0).all()  # no row is wasted


def test_float32_keeps_a_variance_that_a_difference_of_squares_would_lose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moments_module, "widest", lambda device: torch.float32)
    each = 100 + 1e-2 * torch.randn(50, P, generator=torch.Generator().manual_seed(2))
    moments = nothing_yet(rank=4)
    for theta in each:
        replace(moments, params=theta.split(2)).collect_()
    assert moments.mean[0].dtype == moments.squares[0].dtype == torch.float32
    exact = each.double().var(0)
    torch.testing.assert_close(moments.variance().double(), exact, rtol=1e-2, atol=0)
    naive = (each.square().mean(0) - each.mean(0).square()).double()
    assert ((naive / exact - 1).abs() > 0.5).any()


def test_a_state_is_left_alone_unless_asked() -> None:
    params = (torch.zeros(2), torch.zeros(1))
    moving = follow(
        lambda p, batch: (torch.cat(p) @ torch.ones(3), torch.zeros(3)),
        torchopt.sgd(lr=0.1),
        2,
        lambda _: True,
    )
    first: Any = moving.init(params)
    second, _ = moving.update(first, None)
    assert int(first.count) == 0
    assert int(second.count) == 1
    torch.testing.assert_close(torch.cat(second.mean), torch.full((3,), -0.1, dtype=torch.float64))


def test_samples_have_the_moments_of_the_path() -> None:
    state = run(steps=3_200, rank=100, every=20)
    torch.manual_seed(0)
    fitted = state.gaussian()
    draws = torch.stack([fitted.sample() for _ in range(20_000)])
    covariance = fitted.variance.diag() + fitted.factor.T @ fitted.factor
    sd = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - fitted.mean).abs() < 4 * sd / 20_000**0.5).all()
    torch.testing.assert_close(draws.T.cov(), covariance, atol=0.04 * float(sd.max()) ** 2, rtol=0)


def test_a_diagonal_posterior_has_the_whole_variance() -> None:
    moments = run(steps=260, rank=0, every=10)
    fitted = moments.gaussian()
    assert fitted.factor.shape == (0, P)
    torch.testing.assert_close(fitted.variance, moments.variance())


@pytest.mark.parametrize(
    "changes",
    [{"rank": 41}, {"thinning": 60}, {"covariance": "diag", "thinning": 501}],
)
def test_too_few_models_are_refused_at_the_start(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="models would be collected"):
        SAMPLER.plan(SWAGSettings(**changes), 1)


def test_a_cycle_ends_with_a_collection_at_its_lowest_step() -> None:
    settings = SWAGSettings(
        warmup_steps=10, sampling_steps=40, thinning=10, rank=4, schedule="cyclical",
        learning_rate=1.0, final_fraction=0.1, ramp_fraction=0.5,
    )  # fmt: skip
    plan = SAMPLER.plan(settings, 1)
    assert plan.collect.nonzero().flatten().tolist() == [19, 29, 39, 49]
    torch.testing.assert_close(plan.learning_rate[plan.collect], torch.full((4,), 0.1).double())
    torch.testing.assert_close(plan.learning_rate[10:50:10], torch.ones(4).double())
    torch.testing.assert_close(
        plan.learning_rate[:5], torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]).double()
    )
