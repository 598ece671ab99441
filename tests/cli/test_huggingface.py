"""A Hugging Face causal language model goes through the same door."""

from __future__ import annotations

import pytest
import torch

from tests.workspace import Workspace

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(workspace: Workspace) -> str:
    """A small random GPT-2 with a tokenizer of its own, saved as Hugging Face does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=64, special_tokens=["<unk>"], show_progress=False)
    raw.train([str(workspace.path / "corpus.txt")], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(workspace.path / "hf")
    tokenizer.save_pretrained(workspace.path / "hf")
    return "hf"


def test_sample_score_and_resume(
    folder: str,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert workspace.train("baoa", "--model", folder, "--eval") == 0
    record = workspace.json("run/run.json")
    assert record["model"]["family"] == "huggingface"
    names = [p["name"] for p in record["parameters"]]
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names  # tied, so it is there once
    predictors = workspace.json("run/bayesian_eval_*.json")["splits"]["val"]["predictors"]
    assert predictors["bma"]["nll"] <= predictors["mean_of_draws"]["nll"]
    assert workspace.train("baoa", "--model", folder, "--resume", "run") == 0

    capsys.readouterr()
    model = transformers.GPT2LMHeadModel.from_pretrained(workspace.path / "hf")
    model.transformer.wpe.weight.data.add_(1.0)
    model.save_pretrained(workspace.path / "hf")
    assert workspace.train("baoa", "--model", folder, "--resume", "run") == 2
    assert "sha256 differs" in capsys.readouterr().err


def test_a_folder_without_a_tokenizer_says_what_to_do(
    folder: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (workspace.path / "hf").glob("*token*"):
        path.unlink()
    assert workspace.train("sgld", "--model", folder) == 2
    assert "has no tokenizer" in capsys.readouterr().err
