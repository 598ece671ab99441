"""The predictive is a mixture of probabilities, and generates from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.draws import Draws
from bayesgen.likelihoods import Gaussian
from bayesgen.models import FunctionalModel, ModelInfo
from bayesgen.predictive import Forward, Predictive
from bayesgen.predictive.mixture import GaussianMixture, mixture_of


@pytest.fixture
def predictive(tiny_gpt: FunctionalModel) -> Predictive:
    generator = torch.Generator().manual_seed(2)
    noise = 0.5 * torch.randn(3, tiny_gpt.layout.size, generator=generator)
    tiny_gpt.tokenizer = CharTokenizer.from_text("abcdefghijk")
    return Predictive(tiny_gpt, Draws.from_draws(tiny_gpt.theta + noise, tiny_gpt.layout))


def test_log_probs_are_the_log_of_the_mean_probability(
    predictive: Predictive, tiny_batch: dict[str, torch.Tensor]
) -> None:
    probs = torch.stack(
        [predictive.model(theta, tiny_batch).softmax(-1) for theta in predictive.posterior]
    ).mean(0)
    torch.testing.assert_close(predictive.log_probs(tiny_batch).exp(), probs)


def test_mixture_of_one_is_that_one_and_of_none_is_refused() -> None:
    log_probs = torch.randn(4).log_softmax(-1)
    assert torch.equal(mixture_of([log_probs]), log_probs)
    with pytest.raises(ValueError, match="at least one draw"):
        mixture_of([])


def test_a_posterior_over_other_parameters_is_refused(
    predictive: Predictive, tiny_gpt: FunctionalModel
) -> None:
    last = FunctionalModel(tiny_gpt.module, parameters="last-layer")
    with pytest.raises(ValueError, match="not the model's"):
        Predictive(last, predictive.posterior)


def test_greedy_text_takes_the_mixture_s_most_probable_token(predictive: Predictive) -> None:
    text = predictive.generate("abc", max_new_tokens=12, temperature=0)  # beyond the block of 8
    tokenizer = predictive.model.tokenizer
    assert tokenizer is not None
    tokens = [int(t) for t in tokenizer.encode("abc")]
    for _ in range(12):
        batch = {"input_ids": torch.tensor([tokens[-8:]])}
        tokens.append(int(predictive.log_probs(batch)[0, -1].argmax()))
    assert str(text) == tokenizer.decode(tokens)


def test_sampled_text_follows_seed_and_temperature(predictive: Predictive) -> None:
    texts = [str(predictive.generate("a", max_new_tokens=20, seed=s)) for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    cold = str(predictive.generate("a", max_new_tokens=20, temperature=1e-4, seed=5))
    assert cold == str(predictive.generate("a", max_new_tokens=20, temperature=0))
    assert cold == str(predictive.generate("a", max_new_tokens=20, top_k=1, seed=9))


def test_tokens_are_drawn_with_the_mixture_s_probabilities(predictive: Predictive) -> None:
    tokenizer = predictive.model.tokenizer
    assert tokenizer is not None
    batch = {"input_ids": torch.tensor([[int(t) for t in tokenizer.encode("ab")]])}
    probs = predictive.log_probs(batch)[0, -1].exp()
    drawn = [str(predictive.generate("ab", max_new_tokens=1, seed=s))[-1] for s in range(400)]
    frequency = torch.tensor([drawn.count(c) / 400 for c in "abcdefghijk"])
    assert float((frequency - probs).abs().max()) < 0.09  # 3.6 standard errors at p = 1/2


def test_a_prompt_is_needed(predictive: Predictive) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        predictive.generate("")
    predictive.model.tokenizer = None
    with pytest.raises(ValueError, match="no tokenizer"):
        predictive.generate("a")


def test_the_labels_that_are_observations_are_told_what_all_positions_are(
    tiny_gpt: FunctionalModel, tiny_batch: dict[str, Tensor]
) -> None:
    forward = Forward(tiny_gpt)
    every = forward.log_probs(tiny_batch)
    assert torch.equal(forward.target_log_probs(tiny_batch), every.flatten(0, 1))
    labels = tiny_batch["labels"].clone()
    labels[0, 2:] = labels[1] = -100
    found = forward.target_log_probs(tiny_batch | {"labels": labels})
    assert torch.equal(found, torch.cat([every[0, :2], every[2]]))


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
    monkeypatch.setattr("bayesgen.predictive.mixture.MAX_ELEMENTS", 21)  # three labels of 7 draws
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
