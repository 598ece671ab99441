"""Mixtures of Gaussians against torch.distributions and against samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from bayesgen.draws import Draws
from bayesgen.likelihoods import Gaussian
from bayesgen.models import FunctionalModel, ModelInfo
from bayesgen.predictive import Predictive, gaussian
from bayesgen.predictive.gaussian import GaussianMixture

STD = torch.tensor([0.3, 1.0, 2.5, 0.7], dtype=torch.float64)


@pytest.fixture
def means() -> Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def torchs(means: Tensor, std: Tensor) -> MixtureSameFamily:
    parts = Normal(means.T, std[:, None].expand(means.T.shape))
    return MixtureSameFamily(Categorical(torch.ones_like(means.T)), parts)


def test_density_distribution_and_moments_are_those_of_torch(means: Tensor) -> None:
    ours, theirs = GaussianMixture.of(means, STD), torchs(means, STD)
    labels = torch.tensor([0.1, -2.0, 3.0, 40.0], dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(labels), theirs.log_prob(labels))
    torch.testing.assert_close(ours.cdf(labels), theirs.cdf(labels))
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.aleatoric + ours.epistemic, theirs.variance)
    torch.testing.assert_close(ours.aleatoric, STD.square())


@pytest.mark.parametrize("probability", [1e-6, 0.025, 0.5, 0.9, 1 - 1e-6])
def test_a_quantile_is_where_torchs_distribution_has_its_probability(
    probability: float, means: Tensor
) -> None:
    found = GaussianMixture.of(100 * means, STD).quantile(probability)
    reached = torchs(100 * means, STD).cdf(found)
    torch.testing.assert_close(reached, torch.full_like(STD, probability), rtol=1e-6, atol=1e-12)


def test_an_interval_holds_its_share_of_samples(means: Tensor) -> None:
    torch.manual_seed(1)
    samples = torchs(means, STD).sample((40_000,))
    low, high = GaussianMixture.of(means, STD).interval(0.8)
    inside = ((samples > low) & (samples < high)).double().mean(0)
    assert float((inside - 0.8).abs().max()) < 0.008  # four standard errors
    assert float(((samples < low).double().mean(0) - 0.1).abs().max()) < 0.006


def test_one_draw_is_one_gaussian(means: Tensor) -> None:
    one = GaussianMixture.of(means[:1], STD)
    probability = torch.tensor(0.975, dtype=torch.float64)
    torch.testing.assert_close(one.quantile(0.975), Normal(means[0], STD).icdf(probability))
    assert (one.epistemic == 0).all()
    labels = torch.zeros(4)
    expected = Normal(means[0], STD).log_prob(labels.double())
    torch.testing.assert_close(one.log_prob(labels), expected)


def test_blocks_are_the_labels_in_their_order(
    means: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaussian, "MAX_ELEMENTS", 21)  # three labels of seven draws
    mixture = GaussianMixture.of(means, STD)
    blocks = list(mixture.blocks())
    assert [len(block.std) for block in blocks] == [3, 1]
    together = torch.cat([block.quantile(0.3) for block in blocks])
    torch.testing.assert_close(together, mixture.quantile(0.3))


@pytest.mark.parametrize(
    ("shape", "std", "says"),
    [((0, 3), 1.0, "1 draw or more"), ((3,), 1.0, "1 draw or more"), ((2, 3), 0.0, "above 0")],
)
def test_what_is_no_mixture_is_refused(shape: tuple[int, ...], std: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GaussianMixture.of(torch.zeros(shape), std)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_no_quantile_at_the_ends(probability: float, means: Tensor) -> None:
    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        GaussianMixture.of(means, STD).quantile(probability)


def test_the_predictive_of_a_model_with_real_labels(
    tiny_gpt: FunctionalModel, tiny_batch: dict[str, Tensor]
) -> None:
    model = FunctionalModel(
        torch.nn.Linear(3, 1), lambda apply, batch: apply(batch["x"]),
        likelihood=Gaussian(0.5), info=ModelInfo(task="regression"),
    )  # fmt: skip
    draws = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    predictive = Predictive(model, Draws.from_draws(draws, model.layout))
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(3))
    found = predictive.distribution({"x": x})
    expected = (x @ draws[:, :3].T + draws[:, 3]).T
    torch.testing.assert_close(found.means, expected)
    assert (found.std == 0.5).all()
    with pytest.raises(ValueError, match="a regression model has no distribution over classes"):
        predictive.log_probs({"x": x})
    classes = Predictive(tiny_gpt, Draws.from_draws(tiny_gpt.theta[None], tiny_gpt.layout))
    with pytest.raises(ValueError, match="no real numbers"):
        classes.distribution(tiny_batch)


def test_an_output_that_is_not_finite_has_no_quantile(means: Tensor) -> None:
    means[2, 1] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        GaussianMixture.of(means, STD).quantile(0.5)
