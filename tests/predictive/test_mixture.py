"""The predictive is a mixture of probabilities, and generates from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.draws import Draws
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward, Predictive
from bayesgen.predictive.mixture import mixture


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
    assert torch.equal(mixture([log_probs]), log_probs)
    with pytest.raises(ValueError, match="at least one draw"):
        mixture([])


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
