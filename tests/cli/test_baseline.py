"""Baselines of every architecture through each command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from bayesgen.cli.main import run_command
from bayesgen.models import load_model
from tests.workspace import Workspace

TINY = ("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "8",
        "--batch-size", "4", "--max-iters", "12", "--eval-interval", "6",
        "--eval-iters", "2")  # fmt: skip
FOLDER = Path("checkpoints/baseline/models")


def baseline(*flags: str) -> int:
    return run_command("baseline", ["--corpus", "corpus.txt", *TINY, *flags])


@pytest.fixture
def gpt2_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.environ.get("BAYESGEN_TEST_DATA")
    if not data:
        pytest.skip("BAYESGEN_TEST_DATA is not set: no vocabulary of gpt2")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(data) / "tiktoken-cache"))


def sampled_scored_and_generated_from(
    model: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sghmc", "--model", model) == 0
    assert run_command("evaluate", ["run"]) == 0
    predictors = workspace.json("run/bayesian_eval_*.json")["splits"]["val"]["predictors"]
    assert set(predictors) == {
        "deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma",
    }  # fmt: skip
    capsys.readouterr()
    flags = ["--prompt", "the quick", "--max-new-tokens", "5", "--json"]
    for source in ("run", model):
        assert run_command("generate", [source, *flags]) == 0
        (text,) = json.loads(capsys.readouterr().out)["texts"]
        assert len(text["tokens"]) == 5


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("tokenizer", ["char", "gpt2"])
def test_a_hugging_face_model_end_to_end(
    architecture: str,
    tokenizer: str,
    workspace: Workspace,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("transformers")
    if tokenizer == "gpt2":
        request.getfixturevalue("gpt2_vocabulary")
    assert baseline("--architecture", architecture, "--tokenizer", tokenizer) == 0
    pieces = "_bpe" if tokenizer == "gpt2" else ""
    folder = FOLDER / f"baseline_{architecture}{pieces}_12"
    assert f"{folder}: step 12, validation loss" in capsys.readouterr().out
    assert {p.name for p in FOLDER.iterdir()} == {folder.name}
    record = json.loads((folder / "training.json").read_text())
    assert record["config"]["architecture"] == architecture
    assert record["config"]["data"]["tokenizer"] == tokenizer
    sampled_scored_and_generated_from(str(folder), workspace, capsys)
    assert workspace.json("run/run.json")["data"]["sha256"] == record["config"]["data"]["sha256"]


@pytest.mark.usefixtures("gpt2_vocabulary")
def test_nanogpt_on_byte_pairs_end_to_end(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert baseline("--tokenizer", "gpt2") == 0
    path = FOLDER / "baseline_model_bpe_12.pt"
    assert {p.name for p in FOLDER.iterdir()} == {path.name}  # no meta.pkl: nanoGPT has tiktoken
    model = load_model(path)
    assert model.tokenizer is not None
    assert (model.tokenizer.name, model.tokenizer.vocab_size) == ("gpt2", 50257)
    sampled_scored_and_generated_from(str(path), workspace, capsys)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_hugging_face_model_is_the_same_by_seed(architecture: str, workspace: Workspace) -> None:
    pytest.importorskip("transformers")
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        flags = ("--dropout", "0.1", "--seed", seed, "--out", out)
        assert baseline("--architecture", architecture, *flags) == 0
    a, b, c = (load_model(out).theta for out in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--architecture", "mamba"], "--architecture"),
        (["--architecture", "gpt2", "--n-head", "3"], "--n-head 3 does not divide --n-embd 16"),
        (["--architecture", "llama", "--n-head", "16"], "needs an even number"),
        (["--architecture", "gpt2", "--no-bias"], "--bias: a gpt2 always has biases"),
        (["--architecture", "gpt2", "--out", "model.pt"], "is written to a folder"),
        (["--architecture", "llama", "--out", "corpus.txt"], "is written to a folder"),
        (["--out", "."], "is written to a file"),
    ],
)
def test_errors_are_one_line(
    argv: list[str], says: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    assert baseline(*argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert says in shown.err
    assert {p.name for p in workspace.path.iterdir()} == {"corpus.txt", "model.pt"}
