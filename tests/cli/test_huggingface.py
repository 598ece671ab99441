"""A Hugging Face causal language model runs through every command."""

from __future__ import annotations

import json

import pytest
import torch

from bayesgen.cli.main import run_command
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


def test_its_posterior_is_scored_again_and_writes_text(
    folder: str,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert workspace.train("baoa", "--model", folder, "--block-size", "12") == 0
    flags = ("--eval-num-text-samples", "2", "--ood-corpus", "corpus.txt")
    assert run_command("evaluate", ["run", *flags]) == 0
    val = workspace.json("run/bayesian_eval_*[0-9].json")["splits"]["val"]
    assert val["num_texts"] == 2
    capsys.readouterr()
    # so long that it passes the 16 positions, and the cache is given up on the way
    prompts = [
        "--prompt",
        "the quick",
        "--prompt",
        "lazy dog and the cat",
        "--max-new-tokens",
        "20",
    ]
    found = []
    for strategy in ("auto", "cached", "plain"):
        assert run_command("generate", ["run", *prompts, "--strategy", strategy, "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        found.append([text["continuation"] for text in content["texts"]])
        for text in content["texts"]:
            assert len(text["tokens"]) == 20
            assert text["continuation"] == "".join(token["text"] for token in text["tokens"])
    assert found[0] == found[1] == found[2]
    assert run_command("generate", ["run", *prompts, "--strategy", "stacked"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    # transformers shows its own progress above
    assert shown.err.splitlines()[-1] == (
        "error: 'run': this kind of model cannot read with strategy 'stacked'"
    )


def test_text_needs_a_tokenizer(
    folder: str,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for path in (workspace.path / folder).glob("*token*"):
        path.unlink()
    assert run_command("generate", [folder, "--prompt", "the"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[-1] == (
        f"error: '{folder}': this model has no tokenizer: it cannot read a prompt"
    )
