"""Every way to read growing texts gives the numbers of the plain one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bayesgen.draws import Draws
from bayesgen.models import FunctionalModel
from bayesgen.models.nanogpt import GPT, GPTConfig, GPTReader
from bayesgen.predictive.reading import Reading, Strategy

VOCABULARY, BLOCK = 11, 8


def gpt(bias: bool = False) -> FunctionalModel:
    torch.manual_seed(3)
    config = GPTConfig(BLOCK, VOCABULARY, n_layer=2, n_head=2, n_embd=8, bias=bias)
    return FunctionalModel(GPT(config), block_size=BLOCK, reader=GPTReader(config))


def posterior_of(model: FunctionalModel, draws: int) -> Draws:
    noise = 0.5 * torch.randn(draws, model.layout.size, generator=torch.Generator().manual_seed(1))
    return Draws.from_draws(model.theta + noise, model.layout)


MODEL = gpt()
POSTERIOR = posterior_of(MODEL, 3)


def naive(texts: list[list[int]]) -> Tensor:
    """[S, B, V]: each text on its own, whole, with every draw."""
    rows = []
    for theta in POSTERIOR:
        logits = [MODEL(theta, {"input_ids": torch.tensor([t[-BLOCK:]])})[0, -1] for t in texts]
        rows.append(torch.stack(logits))
    return torch.stack(rows).log_softmax(-1)


token = st.integers(0, VOCABULARY - 1)
prompts = st.lists(st.lists(token, min_size=1, max_size=BLOCK + 3), min_size=1, max_size=4)


@pytest.mark.parametrize("strategy", ["stacked", "cached", "plain"])
@given(texts=prompts, growth=st.integers(1, BLOCK + 4), data=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_it_reads_what_the_whole_text_says(
    strategy: Strategy, texts: list[list[int]], growth: int, data: st.DataObject
) -> None:
    reading = Reading(MODEL, POSTERIOR, texts, growth, strategy)
    grown = [list(text) for text in texts]
    for _ in range(growth):
        torch.testing.assert_close(reading.log_probs(), naive(grown), rtol=1e-4, atol=1e-5)
        new = data.draw(st.lists(token, min_size=len(texts), max_size=len(texts)))
        reading.append(torch.tensor(new))
        for text, t in zip(grown, new, strict=True):
            text.append(t)


def test_biases_are_read_too() -> None:
    model = gpt(bias=True)
    posterior = posterior_of(model, 2)
    first, second = (Reading(model, posterior, [[1, 2], [3]], 4, s) for s in ("stacked", "plain"))
    for t in range(4):
        torch.testing.assert_close(first.log_probs(), second.log_probs(), rtol=1e-4, atol=1e-5)
        for reading in (first, second):
            reading.append(torch.tensor([t, t + 1]))


def test_a_subset_of_parameters_is_read_over_the_frozen_rest() -> None:
    config = MODEL.module.config
    model = FunctionalModel(
        MODEL.module, parameters="*mlp*", block_size=BLOCK, reader=GPTReader(config)
    )
    posterior = posterior_of(model, 2)
    readings = [Reading(model, posterior, [[4, 2]], 3, s) for s in ("stacked", "cached", "plain")]
    for _ in range(3):
        each = [reading.log_probs() for reading in readings]
        torch.testing.assert_close(each[0], each[2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(each[1], each[2], rtol=1e-4, atol=1e-5)
        for reading in readings:
            reading.append(torch.tensor([7]))


@pytest.mark.parametrize(
    ("memory", "expected"), [(2**30, "stacked"), (30_000, "cached"), (5_000, "plain")]
)
def test_auto_takes_what_fits_into_memory(memory: int, expected: str) -> None:
    # three draws of about 5 KB each, and three caches of 2·2·8·16 floats a text
    assert 4 * MODEL.layout.size * 3 > 20_000
    texts = [[1]] * 4
    reading = Reading(MODEL, POSTERIOR, texts, 20, "auto", memory)
    assert reading.strategy == expected


def test_a_model_without_a_cache_is_read_plainly() -> None:
    model = FunctionalModel(MODEL.module, block_size=BLOCK)
    assert Reading(model, POSTERIOR, [[1]], 2).strategy == "plain"
    with pytest.raises(ValueError, match="strategy 'cached'"):
        Reading(model, POSTERIOR, [[1]], 2, "cached")


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Reading(MODEL, POSTERIOR, [[1], []], 2)
