"""A nanoGPT becomes the GPT-2 of transformers that is the same function, draws included."""

from __future__ import annotations

import pytest
import torch

from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel, ModelInfo
from bayesgen.models.nanogpt import GPT, GPTConfig
from bayesgen.predictive import Predictive

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from bayesgen.export import BayesianCausalLM  # noqa: E402
from bayesgen.models.lora import Lora, add_adapters  # noqa: E402
from bayesgen.models.networks import as_gpt2  # noqa: E402

TOKENIZER = CharTokenizer("\n abcdé—")


def nanogpt(bias: bool, parameters: str = "all") -> FunctionalModel:
    config = GPTConfig(16, TOKENIZER.vocab_size, n_layer=2, n_head=2, n_embd=16, bias=bias)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = GPT(config)
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return FunctionalModel(
        module,
        parameters=parameters,
        tokenizer=TOKENIZER,
        block_size=config.block_size,
        info=ModelInfo("random", "nanogpt"),
    )


def scattered(model: FunctionalModel) -> Draws:
    noise = torch.randn(3, model.layout.size, generator=torch.Generator().manual_seed(1))
    return Draws.from_draws(model.theta + 0.3 * noise, model.layout)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("parameters", ["all", "last-layer", "*.h.1.*,*ln_f*", "*.c_fc.weight"])
def test_it_is_the_same_mixture(bias: bool, parameters: str) -> None:
    model = nanogpt(bias, parameters)
    posterior = scattered(model)
    network, layout, draws = as_gpt2(model, posterior)
    assert type(network) is transformers.GPT2LMHeadModel
    same = FunctionalModel(network, parameters=parameters)
    named = [name for name in same.layout.names if name in model.layout.names]
    assert list(layout.names) == list(model.layout.names) == named
    assert [draw.shape for draw in draws] == [(layout.size,)] * len(posterior)
    ids = torch.randint(TOKENIZER.vocab_size, (2, 16), generator=torch.Generator().manual_seed(2))
    expected = Predictive(model, posterior).log_probs({"input_ids": ids})
    with torch.no_grad():
        logits = BayesianCausalLM.from_posterior(model, posterior)(ids).logits
        alone = same.module(ids).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, model(model.theta, {"input_ids": ids}), rtol=0, atol=1e-5)
    assert not torch.allclose(alone.log_softmax(-1), expected, atol=1e-2)


def test_nothing_random_is_drawn() -> None:
    model = nanogpt(False)
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    BayesianCausalLM.from_posterior(model, scattered(model))
    assert torch.equal(torch.randn(3), expected)


def test_adapters_are_refused() -> None:
    model = nanogpt(False)
    lora = Lora(targets=("c_fc",))
    add_adapters(model.module, lora.config(model.module))
    adapted = FunctionalModel(model.module, parameters="*lora_*", info=model.info)
    with pytest.raises(UserError, match="adapters in a nanoGPT cannot be exported"):
        BayesianCausalLM.from_posterior(adapted, scattered(adapted))
