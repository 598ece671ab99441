"""Hugging Face models are read through transformers' own cache: the same numbers as without one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bayesgen.draws import Draws
from bayesgen.models import FunctionalModel, load_model
from bayesgen.predictive.reading import Reading

transformers = pytest.importorskip("transformers")

VOCABULARY, BLOCK, DRAWS = 11, 16, 2
PROMPTS = [[3, 1], [4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 10], [7, 7, 0, 2, 1]]
"""Of 2, 11 and 5 tokens: the longest passes the block size after 5 more."""
STEPS = 9


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=BLOCK, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=BLOCK, hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def mistral() -> Any:
    """Each token sees the four before it only."""
    config = transformers.MistralConfig(
        vocab_size=VOCABULARY, max_position_embeddings=BLOCK, hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, sliding_window=4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.MistralForCausalLM(config)


def mamba() -> Any:
    """Keeps a state, not keys and values."""
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4, bos_token_id=0,
        eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return transformers.MambaForCausalLM(config)


@pytest.fixture(scope="module", params=[gpt2, llama, mistral], ids=["gpt2", "llama", "mistral"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> FunctionalModel:
    return loaded(request.param, tmp_path_factory.mktemp("model"))


def loaded(make: Any, folder: Path) -> FunctionalModel:
    """A random network of 2 layers, saved and loaded as a user's would be."""
    with (
        pytest.MonkeyPatch.context() as patch,
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
    ):
        patch.setenv("HF_HUB_OFFLINE", "1")
        torch.manual_seed(0)
        module = make()
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        module.save_pretrained(folder)
        return load_model(folder)


@pytest.fixture(scope="module")
def posterior(model: FunctionalModel) -> Draws:
    generator = torch.Generator().manual_seed(1)
    noise = 0.1 * torch.randn(DRAWS, model.layout.size, generator=generator)
    return Draws.from_draws(model.theta + noise, model.layout)


def networks(model: FunctionalModel, posterior: Draws) -> list[Any]:
    """One whole network of transformers for each draw."""
    found = []
    for theta in posterior:
        module = copy.deepcopy(model.module)
        named = dict(module.named_parameters())
        with torch.no_grad():
            for name, view in model.layout.views(theta).items():
                named[name].copy_(view)
        found.append(module)
    return found


@torch.no_grad()
def alone(network: Any, text: list[int]) -> Tensor:
    """log p(next token | text) [V] of one text by itself, its oldest tokens cut off."""
    ids = torch.tensor([text[-BLOCK:]])
    logits: Tensor = network(input_ids=ids, use_cache=False).logits[0, -1]
    return logits.log_softmax(-1)


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1], [[1] * BLOCK, [2] * (BLOCK + 3)]])
def test_the_cache_changes_nothing_also_past_the_block_size(
    prompts: list[list[int]], model: FunctionalModel, posterior: Draws
) -> None:
    assert model.block_size == BLOCK
    cached, plain = (Reading(model, posterior, prompts, STEPS, s) for s in ("cached", "plain"))
    each = networks(model, posterior)
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        ours = cached.log_probs()
        expected = torch.stack([torch.stack([alone(n, t) for t in plain.texts]) for n in each])
        assert ours.shape == (DRAWS, len(prompts), VOCABULARY)
        torch.testing.assert_close(ours, plain.log_probs(), rtol=0, atol=1e-4)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
        new = torch.randint(VOCABULARY, (len(prompts),), generator=generator)
        cached.append(new)
        plain.append(new)
    assert not torch.allclose(expected[0], expected[1], atol=1e-2)  # the draws do differ


def test_each_token_is_read_once_until_the_block_is_full(
    model: FunctionalModel, posterior: Draws, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    inner = type(model.module).forward

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append(kwargs["input_ids"].shape[1])
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(type(model.module), "forward", counting)
    reading = Reading(model, posterior, [[1] * (BLOCK - 2)], 4, "cached")
    for _ in range(4):
        reading.log_probs()
        reading.append(torch.tensor([2]))
    steps = [BLOCK - 2, 1, 1, BLOCK]
    assert lengths == [length for length in steps for _ in range(DRAWS)]


def test_stacking_is_refused_because_the_cache_is_no_tree_of_tensors(
    model: FunctionalModel, posterior: Draws
) -> None:
    with pytest.raises(ValueError, match="cannot read with strategy 'stacked'"):
        Reading(model, posterior, PROMPTS, STEPS, "stacked")


@pytest.mark.parametrize(("memory", "expected"), [(2**30, "cached"), (1000, "plain")])
def test_auto_takes_the_cache_where_it_fits_into_memory(
    memory: int, expected: str, model: FunctionalModel, posterior: Draws
) -> None:
    # keys and values of 2 layers, 3 texts and 16 tokens, 8 numbers or more each, of both draws
    assert 2 * 4 * 2 * 8 * 3 * 16 * DRAWS > 1000
    assert Reading(model, posterior, PROMPTS, STEPS, "auto", memory).strategy == expected


def test_a_model_that_keeps_a_state_is_read_plainly(tmp_path: Path) -> None:
    model = loaded(mamba, tmp_path)
    posterior = Draws.from_draws(model.theta[None], model.layout)
    reading = Reading(model, posterior, PROMPTS, STEPS)
    assert reading.strategy == "plain"
    (network,) = networks(model, posterior)
    for token in range(3):
        expected = torch.stack([network(input_ids=torch.tensor([t])).logits[0, -1]
                                for t in reading.texts]).log_softmax(-1)  # fmt: skip
        torch.testing.assert_close(reading.log_probs()[0], expected, rtol=0, atol=1e-4)
        reading.append(torch.full((3,), token))
    with pytest.raises(ValueError, match="cannot read with strategy 'cached'"):
        Reading(model, posterior, PROMPTS, STEPS, "cached")
