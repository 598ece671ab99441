from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.inference.log_posterior import LogPosterior, chunks
from bayesgen.models import load_model
from bayesgen.priors import normal

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def gpt2() -> Any:
    """A random GPT-2 of 2 layers."""
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = transformers.GPT2LMHeadModel(config).eval()
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.fixture
def folder(tmp_path: Path, gpt2: Any) -> Path:
    gpt2.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def refusal(folder: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert message.startswith(f"`model`: '{folder}'")
    assert "\n" not in message
    return message


def test_a_saved_model_gives_its_own_logits(
    folder: Path, gpt2: Any, tiny_batch: dict[str, Tensor]
) -> None:
    model = load_model(folder)
    expected = gpt2(input_ids=tiny_batch["input_ids"]).logits
    torch.testing.assert_close(model(model.theta, tiny_batch), expected)
    torch.testing.assert_close(model.call(model.bind().module, tiny_batch), expected)


def test_an_attention_mask_reaches_the_network(
    folder: Path, gpt2: Any, tiny_batch: dict[str, Tensor]
) -> None:
    mask = torch.ones(3, 8, dtype=torch.long)
    mask[:, :3] = 0
    model = load_model(folder)
    logits = model(model.theta, tiny_batch | {"attention_mask": mask})
    expected = gpt2(input_ids=tiny_batch["input_ids"], attention_mask=mask).logits
    torch.testing.assert_close(logits[:, 3:], expected[:, 3:])
    assert not torch.allclose(logits[:, 3:], model(model.theta, tiny_batch)[:, 3:])


def test_a_model_saved_in_bfloat16_is_loaded_in_float32(tmp_path: Path, gpt2: Any) -> None:
    gpt2.bfloat16().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    model = load_model(tmp_path)
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert model.theta.dtype == torch.float32
    expected = torch.cat([p.detach().float().flatten() for p in gpt2.parameters()])
    assert torch.equal(model.theta, expected)


def test_the_tied_head_counts_once(folder: Path, gpt2: Any) -> None:
    model = load_model(folder)
    assert "transformer.wte.weight" in model.layout.names
    assert "lm_head.weight" not in model.layout.names
    assert model.layout.size == model.num_parameters == sum(p.numel() for p in gpt2.parameters())
    assert load_model(folder, parameters="last-layer").layout.names == ("transformer.wte.weight",)


@pytest.mark.parametrize("parameters", ["all", "last-layer", "*.h.1.*"])
def test_the_ordinary_gradient_equals_the_functional_one(
    folder: Path, parameters: str, tiny_batch: dict[str, Tensor]
) -> None:
    model = load_model(folder, parameters=parameters)
    log_posterior = LogPosterior(model, normal(model.layout.size, 0.2), 1000)
    phi = tuple(piece.clone() for piece in chunks(model.theta))
    ways = [
        torch.func.grad_and_value(way, has_aux=True)(phi, tiny_batch)
        for way in (log_posterior, log_posterior.functional)
    ]
    ((ordinary,), (value, terms)), ((functional,), (value_, terms_)) = ways
    assert functional.any()
    torch.testing.assert_close(ordinary, functional, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(value, value_)
    torch.testing.assert_close(terms, terms_)


def test_what_a_run_records_of_the_model_is_plain_data(folder: Path) -> None:
    model = load_model(folder)
    assert model.info.family == "huggingface"
    assert model.info.name == str(folder)
    assert json.loads(json.dumps(model.info.config))["n_embd"] == 16
    assert model.block_size == 16


def test_a_folder_without_tokenizer_files_gives_no_tokenizer(folder: Path) -> None:
    assert load_model(folder).tokenizer is None


def test_a_tokenizer_beside_the_model_is_loaded_and_adds_no_special_tokens(folder: Path) -> None:
    words = {"<unk>": 0, "to": 1, "be": 2, "or": 3, "not": 4}
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        "<unk> $A", special_tokens=[("<unk>", 0)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
        tokenizer.save_pretrained(folder)
    loaded = load_model(folder).tokenizer
    assert loaded is not None
    assert loaded.vocab_size == 5
    assert loaded.encode("to be or not to be").tolist() == [1, 2, 3, 4, 1, 2]
    assert loaded.decode([3, 4]) == "or not"


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refusal(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_truncated_weights_are_refused(folder: Path, kept: float) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(kept * len(whole))])
    refusal(folder)


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_embd": 32}))
    refusal(folder)


def test_missing_weights_are_refused_and_not_made_up(folder: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    weights = folder / "model.safetensors"
    state = safetensors.load_file(weights)
    del state["transformer.h.1.mlp.c_fc.weight"]
    safetensors.save_file(state, weights, metadata={"format": "pt"})
    assert "transformer.h.1.mlp.c_fc.weight" in refusal(folder)


def test_a_damaged_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")
    refusal(folder)


def characters(text: str) -> Any:
    """A tokenizer of characters without a token for what it does not know."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({c: i for i, c in enumerate(text)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw)


def test_a_character_that_the_tokenizer_lacks_is_one_line(folder: Path) -> None:
    characters("xyz").save_pretrained(folder)  # no "a" in it
    model = load_model(folder)
    assert model.tokenizer is not None
    assert model.tokenizer.encode("zyx").tolist() == [2, 1, 0]
    with pytest.raises(UserError, match="cannot encode this text") as caught:
        model.tokenizer.encode("xé")
    assert "\n" not in str(caught.value)


def test_loading_shows_no_bar_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    load_model(folder)
    assert capsys.readouterr().err == ""
    assert logging.is_progress_bar_enabled() == shown
