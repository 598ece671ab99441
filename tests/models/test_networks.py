"""Every architecture: the same settings in, the same logits after a trip through a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bayesgen import runs
from bayesgen.config.jobs import BaselineSettings
from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.errors import UserError
from bayesgen.models import load_model
from bayesgen.models.nanogpt import GPT
from bayesgen.models.networks import HuggingFace, Network, new_network

TOKENIZER = CharTokenizer("abcdefghijk")
ARCHITECTURES = ("nanogpt", "gpt2", "llama")
RECORD = {"iter_num": 3, "best_val_loss": 1.5, "config": {"seed": 0}}


def make(architecture: Any, **changes: Any) -> Network:
    """A small network, off its initial point so that no two logits are alike."""
    if architecture != "nanogpt":
        pytest.importorskip("transformers")
    shape: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8}
    torch.manual_seed(0)
    settings = BaselineSettings(architecture=architecture, **(shape | changes))
    network = new_network(settings, TOKENIZER)
    with torch.no_grad():
        for parameter in network.module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 11, (3, 8), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_written_is_what_was_trained(
    architecture: str, tokens: Tensor, tmp_path: Path
) -> None:
    network = make(architecture)
    path = tmp_path / "models" / ("model.pt" if architecture == "nanogpt" else "model")
    network.write(path, {}, RECORD)
    model = load_model(path)
    network.module.eval()
    assert torch.equal(model(model.theta, {"input_ids": tokens}), network.logits(tokens))
    assert model.block_size == 8
    assert model.layout.size == sum(p.numel() for p in network.module.parameters())
    assert model.tokenizer is not None
    assert model.tokenizer.vocab_size == TOKENIZER.vocab_size
    assert list(model.tokenizer.encode("bead")) == TOKENIZER.encode("bead").tolist()
    assert model.tokenizer.decode([10, 0, 3]) == "kad"


def test_shapes_are_those_of_the_settings() -> None:
    assert isinstance(make("nanogpt").module, GPT)
    gpt2: Any = make("gpt2", dropout=0.3).module
    assert type(gpt2).__name__ == "GPT2LMHeadModel"
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight
    dropouts = {m.p for m in gpt2.modules() if isinstance(m, torch.nn.Dropout)}
    assert dropouts == {0.3}
    llama: Any = make("llama", dropout=0.3).module
    assert type(llama).__name__ == "LlamaForCausalLM"
    assert llama.lm_head.weight is llama.model.embed_tokens.weight
    assert llama.config.intermediate_size == 48
    assert llama.config.attention_dropout == 0.3
    for module in (gpt2, llama):
        config = module.config
        assert (config.num_hidden_layers, config.num_attention_heads) == (2, 2)
        assert (config.hidden_size, config.max_position_embeddings) == (16, 8)
        # a character tokenizer has no token that ends a text
        assert config.vocab_size == 11
        assert config.bos_token_id is config.eos_token_id is None


@pytest.mark.parametrize("bias", [False, True])
def test_biases_of_a_llama_are_as_asked(bias: bool) -> None:
    names = [name for name, _ in make("llama", bias=bias).module.named_parameters()]
    assert any(name.endswith("bias") for name in names) is bias


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_must_share_the_width(architecture: str) -> None:
    with pytest.raises(UserError, match="`n_head=3` does not divide `n_embd=16`"):
        make(architecture, n_head=3)


def test_heads_of_a_llama_are_even() -> None:
    with pytest.raises(UserError, match="`n_head=16`"):
        make("llama", n_head=16)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_folder_is_complete_and_quiet(
    architecture: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = make(architecture)
    capfd.readouterr()
    network.write(tmp_path / "model", {}, RECORD)
    assert capfd.readouterr() == ("", "")
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "training.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "model" / "training.json").read_text()) == RECORD


def killed_at(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the process "dies" in place of the count-th file that it writes."""
    left = iter(range(count))

    def write(path: Path, data: bytes) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        runs.atomic_write(path, data)

    monkeypatch.setattr("bayesgen.models.networks.atomic_write", write)


def test_a_better_state_replaces_the_weights_alone(
    tokens: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make("gpt2")
    network.write(tmp_path, {}, RECORD)
    first = network.module.eval()(tokens).logits.detach()
    with torch.no_grad():
        network.module.transformer.ln_f.weight.mul_(2)
    killed_at(0, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        network.write(tmp_path, {}, RECORD)
    model = load_model(tmp_path)
    assert torch.equal(model(model.theta, {"input_ids": tokens}), first)


@pytest.mark.parametrize("written", range(2))
def test_weights_are_never_beside_files_of_another_shape(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("gpt2").write(tmp_path, {}, RECORD)
    (tmp_path / "notes.txt").write_text("mine")
    killed_at(written, monkeypatch)  # config.json and the weights are what differs
    other = make("llama", n_layer=1)
    with pytest.raises(KeyboardInterrupt):
        other.write(tmp_path, {}, RECORD)
    assert not (tmp_path / "model.safetensors").exists()
    with pytest.raises(UserError):
        load_model(tmp_path)
    monkeypatch.undo()
    other.write(tmp_path, {}, RECORD)
    assert load_model(tmp_path).info.config["model_type"] == "llama"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_networks_of_transformers_say_so() -> None:
    assert isinstance(make("gpt2"), HuggingFace)
    assert isinstance(make("llama"), HuggingFace)


def test_without_transformers_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    settings = replace(BaselineSettings(), architecture="llama")
    with pytest.raises(UserError, match=r"bayesgen\[hf\]"):
        new_network(settings, TOKENIZER)
