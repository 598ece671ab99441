"""Everything a user can get wrong: status 2, one line that names the way out, no traceback."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from bayesgen.cli.main import main, run_command
from tests.workspace import Workspace


def refused(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    assert code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--lerning-rate", "1"], "did you mean --learning-rate"),
        (["--epochs", "3"], "it belongs to ekf, laplace, vi, map"),
        (["--sampler", "sghcm"], "did you mean sghmc"),
        (["--thinning", "0"], "--thinning must be at least 1"),
        (["--prior-std", "0"], "--prior-std must be at least"),
        (["--temperature", "nan"], "--temperature must be a finite number"),
        (["--learning-rate", "fast"], "--learning-rate: invalid float value"),
        (["--schedule", "zigzag"], "--schedule: invalid choice"),
        (["--prior", "swag"], "--prior-path FILE"),
        (["--prior-path", "x"], "needs --prior swag"),
        (["--prior-scale", "0"], "--prior-scale must be at least"),
        (["--prior-scale", "some"], "must be FLOAT|auto"),
        (["--prior-scale-steps", "5"], "needs --prior-scale auto"),
        (["--prior-epsilon", "1e-6"], "needs --prior swag"),
        (["--prior", "swag", "--prior-path", "nowhere"], "no file at"),
        (["--eval-num-text-samples", "4"], "needs --eval"),
        (["--ood-corpus", "python-docs"], "needs --eval"),
        (["--eval", "--eval-num-text-samples", "11"], "val has only 10 whole windows"),
        (["--eval", "--eval-num-posterior-samples", "3"], "3: there are only 2 draws"),
        (["--eval", "--ood-corpus", "gone.txt"], "--ood-corpus gone.txt: neither a path nor"),
        (["--eval", "--eval-precision", "fp8"], "--eval-precision: invalid choice"),
        (["--data", "ag_news"], "--data needs --task sequence-classification"),
        (["--task", "sequence-classification"], "--corpus has no effect on sequence"),
        (["stray"], "unexpected argument 'stray'"),
        (["--thinning", "100"], "lower --thinning"),
        (["--schedule", "cyclical", "--cycle-exploration", "1"], "--cycle-exploration"),
        (["--parameters", "nothing.*"], "matches no parameter"),
        (["--block-size", "9"], "longest context"),
        (["--train-samples", "100000"], "--train-samples"),
        (["--model", "missing.pt"], "bayesgen baseline"),
        (["--model", "truncated.pt"], "damaged, truncated"),
        (["--model", "folder"], "--model"),
        (["--model", "evil.pt"], "--model"),
        (["--corpus", "missing.txt"], "missing.txt"),
        (["--corpus", "empty.txt"], "empty"),
        (["--corpus", "short.txt"], "block"),
        (["--corpus", "latin1.txt"], "UTF-8"),
        (["--corpus", "foreign.txt"], "'é'"),
        (["--corpus", "otherbin"], "val.bin"),
        (["--out", "corpus.txt/run"], "--out"),
        (["--resume", "nowhere"], "no run at 'nowhere'"),
        (["--config", "nowhere.py"], "no file at 'nowhere.py'"),
        (["--preconditioner", "nowhere.safetensors"], "--preconditioner"),
        (["--preconditioner", "adam"], "--preconditioner"),
        (["--seed", "-1"], "--seed"),
        (["--device", "toaster"], "--device"),
        (["--device", "mps"], "--device"),
        (["--cycles", "2"], "needs --schedule cyclical"),
        (["--schedule", "constant", "--final-fraction", "0.5"], "constant"),
        (
            ["--preconditioner", "none", "--gradient-clip", "0", "--preconditioner-batches", "2"],
            "needs --preconditioner",
        ),
        (["--eval-batch-size", "2"], "needs --eval"),
        (["--sampling-steps", "1000000000", "--thinning", "1000000"], "too long"),
        (["--sampling-steps", "1000000000000000", "--thinning", "1"], "the disk of 'run' has"),
        (["--lora-r", "4"], "--lora-r needs --parameters lora"),
        (["--parameters", "lora", "--lora-targets", "attention"], "no layer of the model is"),
        (["--gradient-checkpointing", "--parameters", "*ln_f*"], "has no effect beside these"),
        (["--parameters", "layers=7"], "the model has 1 blocks in 'transformer.h'"),
        (["--parameters", "*.nothing"], "the nearest name is"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    flags: list[str], says: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workspace.path
    whole = (path / "model.pt").read_bytes()
    (path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (path / "folder").mkdir()
    (path / "evil.pt").write_bytes(pickle.dumps({"model": Path("x")}))
    (path / "empty.txt").write_text("")
    (path / "short.txt").write_text("the fox")
    (path / "latin1.txt").write_bytes("the café".encode("latin-1") * 50)
    (path / "foreign.txt").write_text("the café " * 50)
    (path / "otherbin").mkdir()
    for split in ("train", "val"):
        ids = np.full(500, 60_000 if split == "val" else 1, np.uint16)
        ids.tofile(path / "otherbin" / f"{split}.bin")
    sampler = flags[1] if flags[0] == "--sampler" else "sgld"
    line = refused(workspace.train(sampler, *flags), capsys)
    assert says in line
    assert not (path / "run").exists()


def test_an_existing_run_is_not_overwritten(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld") == 0
    capsys.readouterr()
    assert "already holds a run" in refused(workspace.train("sgld"), capsys)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("CONFIG_SGLD = {'learning_rat': 1.0}", "did you mean learning_rate"),
        ("CONFIG_SGDL = {}", "did you mean CONFIG_SGLD"),
        ("CONFIG_SGLD = {'thinning': 'often'}", "must be of type int"),
        ("CONFIG_SGLD = {'wandb': 1}", "must be of type bool"),
        ("CONFIG_SGLD = {'schedule': 'zigzag'}", "must be one of"),
        ("CONFIG_SGLD = {'eval_splits': ['dev']}", "must be one of"),
        ("CONFIG_SGLD = {'eval_splits': 5}", "must be a list"),
        ("CONFIG_SGLD = {3: 5}", "no setting '3'"),
        ("CONFIG_SGLD = 5", "must be a dict"),
        ("CONFIG_SGLD = {", "SyntaxError"),
    ],
)
def test_a_bad_config_is_one_line(
    config: str, says: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.path / "config.py").write_text(config + "\n")
    assert says in refused(workspace.train("sgld"), capsys)


def test_a_bad_environment_variable_is_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_AVAILABLE", "perhaps")
    assert "WANDB_AVAILABLE must be true or false" in refused(workspace.train("sgld"), capsys)


@pytest.mark.parametrize(
    ("sampler", "flags", "says"),
    [
        ("laplace", ["--learning-rate", "0.1"], "no effect on laplace"),
        ("laplace", ["--chains", "2"], "no effect on laplace"),
        ("map", ["--temperature", "0.1"], "no effect on map"),
        ("ekf", ["--gradient-accumulation", "2"], "no effect on ekf"),
        (
            "vi",
            ["--gradient-checkpointing", "--parameters", "transformer.ln_f*"],
            "--gradient-checkpointing has no effect",
        ),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(
    sampler: str,
    flags: list[str],
    says: str,
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert says in refused(workspace.train(sampler, *flags), capsys)


def test_a_dotenv_that_is_not_text_is_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.path / ".env").write_bytes(b"BASE_DIR=\xff\n")
    assert ".env" in refused(workspace.train("sgld"), capsys)


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"sampler": "sgld"}'])
def test_a_damaged_run_is_one_line(
    content: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld") == 0
    capsys.readouterr()
    (workspace.path / "run" / "run.json").write_text(content)
    assert "damaged" in refused(run_command("train", ["--resume", "run"]), capsys)


def test_a_full_disk_is_one_line(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused(workspace.train("sgld"), capsys)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--max-iter", "3"], "did you mean --max-iters"),
        (["--thinning", "3"], "not of the baseline"),
        (["--stop-at", "5000"], "--stop-at"),
        (["--n-head", "3"], "--n-head"),
    ],
)
def test_baseline_errors_are_one_line(
    argv: list[str], says: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(run_command("baseline", ["--corpus", "corpus.txt", *argv]), capsys)


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean train" in refused(main(["trian"]), capsys)


def test_a_missing_default_checkpoint_says_how_to_make_it(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_command("train", ["--corpus", "corpus.txt"])
    assert "bayesgen baseline" in refused(code, capsys)


def test_a_meta_pkl_larger_than_the_model_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    characters = [chr(i) for i in range(65, 195)]
    meta = {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {c: i for i, c in enumerate(characters)},
    }
    (workspace.path / "meta.pkl").write_bytes(pickle.dumps(meta))
    assert "meta.pkl" in refused(workspace.train("sgld", "--meta-path", "meta.pkl"), capsys)


def test_a_checkpoint_with_foreign_weights_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(workspace.path / "model.pt", weights_only=True)
    content["model_args"]["n_embd"] = 32
    torch.save(content, workspace.path / "model.pt")
    assert "do not fit" in refused(workspace.train("sgld"), capsys)
