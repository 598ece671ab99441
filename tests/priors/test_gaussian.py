from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from bayesgen.config import PriorSettings
from bayesgen.parameters import Layout
from bayesgen.priors import GaussianPrior, Prior, Weights, build_prior, normal, pretrained

SIZE = 50


def random(seed: int) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


WEIGHTS = random(0)
LAYOUT = Layout.of([("weight", WEIGHTS)])
WEIGHTS[:3] = 0  # such as biases that were never trained

PRIORS: dict[str, tuple[GaussianPrior, Normal]] = {
    "normal": (normal(SIZE, 0.2), Normal(torch.zeros(SIZE), 0.2)),
    "pretrained": (pretrained(WEIGHTS, 0.3), Normal(WEIGHTS, 0.3)),
    "relative": (
        pretrained(WEIGHTS, 0.5, relative=True),
        Normal(WEIGHTS, 0.5 * (WEIGHTS.abs() + 0.001)),
    ),
    "zero mean, own width each": (
        GaussianPrior(None, random(5).exp(), SIZE),
        Normal(torch.zeros(SIZE), random(5).exp()),
    ),
}


@pytest.fixture(params=PRIORS)
def case(request: pytest.FixtureRequest) -> tuple[GaussianPrior, Normal]:
    return PRIORS[request.param]


@pytest.fixture
def theta() -> Tensor:
    return WEIGHTS + 0.01 * random(1)


def test_log_prob_is_the_sum_of_normal_log_densities(
    case: tuple[GaussianPrior, Normal], theta: Tensor
) -> None:
    prior, truth = case
    value = prior.log_prob(theta)
    assert value.shape == ()
    torch.testing.assert_close(value, truth.log_prob(theta).sum(), rtol=1e-5, atol=1e-4)


def test_the_gradient_of_log_prob_is_that_of_the_normal_densities(
    case: tuple[GaussianPrior, Normal], theta: Tensor
) -> None:
    prior, truth = case
    torch.testing.assert_close(
        torch.func.grad(prior.log_prob)(theta),
        torch.func.grad(lambda t: truth.log_prob(t).sum())(theta),
    )


@pytest.mark.parametrize("weight", [1.0, 0.003])
def test_accumulate_adds_the_weighted_gradient_and_returns_the_log_density(
    case: tuple[GaussianPrior, Normal], theta: Tensor, weight: float
) -> None:
    prior, _ = case
    before = random(2)
    grad, position = before.clone(), theta.clone()
    value = prior.accumulate(theta, grad, weight)
    gradient = torch.func.grad(prior.log_prob)(theta)

    torch.testing.assert_close(grad, before + weight * gradient)
    torch.testing.assert_close(value, prior.log_prob(theta))
    assert torch.equal(theta, position)


def test_a_prior_that_has_only_log_prob_accumulates_its_own_gradient(theta: Tensor) -> None:
    class Cubic(Prior):
        def log_prob(self, theta: Tensor) -> Tensor:
            return -theta.abs().pow(3).sum()

        def describe(self) -> str:
            return "exp(-|θ|³)"

    before = random(2)
    grad = before.clone()
    value = Cubic().accumulate(theta, grad, 0.5)
    torch.testing.assert_close(grad, before - 0.5 * 3 * theta * theta.abs())
    torch.testing.assert_close(value, -theta.abs().pow(3).sum())
    assert Cubic().diagonal() is None


def test_log_prob_can_be_vmapped_over_draws(
    case: tuple[GaussianPrior, Normal], theta: Tensor
) -> None:
    prior, _ = case
    draws = torch.stack([theta, theta + 0.01, random(3)])
    expected = torch.stack([prior.log_prob(draw) for draw in draws])
    torch.testing.assert_close(torch.vmap(prior.log_prob)(draws), expected)


def test_diagonal_holds_mean_and_variance(case: tuple[GaussianPrior, Normal]) -> None:
    prior, truth = case
    diagonal = prior.diagonal()
    torch.testing.assert_close(diagonal.mean, truth.loc.expand(SIZE))
    torch.testing.assert_close(diagonal.variance, truth.variance.expand(SIZE))


def test_a_pretrained_prior_keeps_its_centre_when_the_weights_move() -> None:
    weights = random(0)
    prior = pretrained(weights, 0.1)
    kept = weights.clone()
    weights.add_(1)
    assert torch.equal(prior.diagonal().mean, kept)


def test_a_relative_width_is_positive_where_the_weight_is_zero() -> None:
    variance = pretrained(torch.tensor([0.0, 2.0, -2.0]), 0.1, relative=True).diagonal().variance
    assert variance.sqrt().tolist() == pytest.approx([0.0001, 0.2001, 0.2001])


@pytest.mark.parametrize(
    ("settings", "mean", "sd"),
    [
        (PriorSettings(prior="normal", prior_std=0.3), torch.zeros(SIZE), 0.3),
        (PriorSettings(prior="pretrained", prior_std=0.3), WEIGHTS, 0.3),
        # --prior-scale multiplies the covariance
        (PriorSettings(prior="normal", prior_std=0.3, prior_scale=4.0), torch.zeros(SIZE), 0.6),
        (
            PriorSettings(prior="pretrained", prior_std=0.5, prior_scale=0.25, prior_relative=True),
            WEIGHTS,
            0.25 * (WEIGHTS.abs() + 0.001),
        ),
    ],
)
def test_build_prior_makes_what_the_settings_name(
    settings: PriorSettings, mean: Tensor, sd: float | Tensor
) -> None:
    diagonal = build_prior(settings, Weights(WEIGHTS, LAYOUT)).diagonal()
    assert diagonal is not None
    torch.testing.assert_close(diagonal.mean, mean)
    torch.testing.assert_close(diagonal.variance.sqrt(), sd * torch.ones(SIZE))


def test_a_new_head_may_have_a_prior_of_its_own() -> None:
    layout = Layout.of([("base.weight", torch.zeros(SIZE - 3)), ("head.weight", torch.zeros(3))])
    for prior in ("normal", "pretrained"):
        settings = PriorSettings(prior=prior, prior_std=0.3, head_prior_std=0.7)
        weights = Weights(WEIGHTS, layout, new={"head.weight"})
        found = build_prior(settings, weights)
        diagonal = found.diagonal()
        assert diagonal is not None
        centre = (
            torch.zeros(SIZE) if prior == "normal" else torch.cat((WEIGHTS[:-3], torch.zeros(3)))
        )
        torch.testing.assert_close(diagonal.mean, centre)
        sd = torch.tensor([0.3] * (SIZE - 3) + [0.7] * 3)
        torch.testing.assert_close(diagonal.variance.sqrt(), sd)
        assert "0.7" in found.describe()
        # one that was trained belongs to the other weights
        old = build_prior(settings, Weights(WEIGHTS, layout)).diagonal()
        assert old is not None
        assert float(old.variance.sqrt().max()) == pytest.approx(0.3)


def test_a_scale_that_has_still_to_be_chosen_is_no_number() -> None:
    with pytest.raises(ValueError, match="has to be chosen"):
        build_prior(PriorSettings(prior_scale="auto"), Weights(WEIGHTS, LAYOUT))
