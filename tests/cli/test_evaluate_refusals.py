"""Runs that cannot be scored, looks that are stopped, and what a look finds done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bayesgen.cli.main import run_command
from bayesgen.predictive import Forward
from tests.cli.evaluating import HOT, evaluate, evaluation, files, refused
from tests.workspace import Workspace, furnished

# -- what it refuses -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, what can be wrong with one, and texts that cannot be scored."""
    path = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert furnished(path).train("sgld") == 0
    for name in ("young", "damaged", "truncated"):
        shutil.copytree(path / "run", path / name)
    shutil.rmtree(path / "young" / "draws")
    (path / "damaged" / "run.json").write_text("{")
    shard = path / "truncated" / "draws" / "c0-000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    (path / "greek.txt").write_text("Ωμέγα\n" * 20)
    (path / "foreign.txt").write_text("nineteen letters a.\n" * 20)
    (path / "short.txt").write_text("the cat")
    (path / "one.txt").write_text("the cat a")
    (path / "latin1.txt").write_bytes("the café ".encode("latin-1") * 9)
    (path / "empty.txt").write_text("")
    content = torch.load(path / "model.pt", weights_only=True)
    content["iter_num"] += 1
    torch.save(content, path / "other.pt")
    return path


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "the following arguments are required: RUN"),
        (["nowhere"], "'nowhere' is not the folder of a run (it holds no run.json)"),
        (["model.pt"], "'model.pt' is not the folder of a run"),
        (["run", "nowhere"], "'nowhere' is not the folder of a run"),
        (["run", "young"], "'young' has no draws yet"),  # before the first is scored
        (["young"], "'young' has no draws yet; continue it with --resume 'young'"),
        (["damaged"], "run.json' is missing or damaged"),
        (["truncated"], "is not a readable shard of draws"),
        (["run", "--eval-num-posterior-samples", "3"], "3: there are only 2 draws"),
        (["run", "--eval-num-posterior-samples", "0"], "must be at least 1"),
        (["run", "--eval-batch", "3"], "did you mean --eval-batch-size?"),
        (["run", "--learning-rate", "3"], "unknown flag --learning-rate"),
        (["run", "--eval"], "unknown flag --eval"),
        (["run", "--eval-splits", "test"], "--eval-splits test: the data have no such split"),
        (["run", "--eval-precision", "fp8"], "--eval-precision: invalid choice"),
        (["run", "--eval-max-samples", "0"], "--eval-max-samples must be at least 1"),
        (["run", "--eval-num-text-samples", "-1"], "must be at least 0"),
        (["run", "--eval-num-text-samples", "11"], "val has only 10 whole windows"),
        (["run", "--ood-corpus", "greek.txt"], "--ood-corpus greek.txt: the tokenizer knows none"),
        (["run", "--ood-corpus", "gone.txt"], "--ood-corpus gone.txt: neither a path nor"),
        (["run", "--ood-corpus", "short.txt"], "too few"),
        (["run", "--ood-corpus", "one.txt"], "needs two windows of each text: not so --ood-corpus"),
        (["run", "--ood-corpus", "latin1.txt"], "not UTF-8"),
        (
            ["run", "--ood-corpus", "corpus.txt", "--eval-max-samples", "1"],
            "not so --eval-max-samples 1",
        ),
        (["run", "--text", "foreign.txt"], "--text foreign.txt: 5.00% of its characters"),
        (["run", "--text", "greek.txt"], "--text greek.txt: the tokenizer knows none"),
        (["run", "--text", "empty.txt"], "empty"),
        (["run", "--text", "short.txt"], "too few"),
        (["run", "--model", "gone.pt"], "no checkpoint at 'gone.pt'"),
        (["run", "--model", "other.pt"], "is not the model that the run 'run' started from"),
        (["run", "--model", "corpus.txt"], "--model"),
        (["run", "--corpus", "one.txt"], "--corpus"),
        (["run", "--corpus", "gone.txt"], "--corpus gone.txt: neither a path nor"),
        (["run", "--device", "toaster"], "--device"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_no_trace(
    argv: list[str],
    says: str,
    shelf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(shelf)
    before = files(shelf)
    assert says in refused(evaluate(*argv), capsys)
    assert files(shelf) == before


def test_a_corpus_that_has_changed_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld") == 0
    with (workspace.path / "corpus.txt").open("a") as file:
        file.write("the end.")
    before = files(workspace.path)
    capsys.readouterr()
    line = refused(evaluate("run"), capsys)
    assert "'corpus.txt' is not what the run 'run' was made on" in line
    assert files(workspace.path) == before


@pytest.mark.parametrize("at", [1, 6, 12])
def test_ctrl_c_leaves_no_half_of_anything(
    at: int, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workspace.train("sgld") == 0
    before = files(workspace.path)
    calls, inner = 0, Forward.outputs

    def stopping(self: Forward, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return inner(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Forward, "outputs", stopping)
        assert evaluate("run", "--eval-batch-size", "4") == 130
    assert files(workspace.path) == before
    assert evaluate("run") == 0


def test_the_environment_names_the_model_of_new_runs_only(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workspace.train("sgld", *HOT) == 0
    monkeypatch.setenv("MODEL_PATH", "another.pt")
    assert evaluate("run", "--eval-max-samples", "2") == 0
    assert run_command("generate", ["run", "--prompt", "the", "--max-new-tokens", "2"]) == 0
    assert run_command("generate", ["model.pt", "--prompt", "the", "--max-new-tokens", "2"]) == 0


def test_a_second_look_computes_nothing_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.path / "far.txt").write_text("xyz! dog; cat? (quick) " * 8)
    flags = ("--eval-num-text-samples", "3", "--ood-corpus", "far.txt")
    assert workspace.train("sgld", *HOT) == 0
    assert evaluate("run", *flags) == 0
    first = evaluation(workspace.path / "run")
    for path in (workspace.path / "run").glob("bayesian_eval_*"):
        path.unlink()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Forward, "log_probs", never)
    for name in (
        "bayesgen.evaluation.selective.window_intervals",
        "bayesgen.workflow.scoring.sample_texts",
        "bayesgen.workflow.scoring.detect_shift",
    ):
        monkeypatch.setattr(name, never)
    assert evaluate("run", *flags) == 0
    assert evaluation(workspace.path / "run") == first


def test_a_run_is_named_once(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert workspace.train("sgld") == 0
    capsys.readouterr()
    assert evaluate("run", "run/") == 2
    assert capsys.readouterr().err == "error: a run is named twice; name each once\n"


def test_runs_of_different_corpora_are_told_apart(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (workspace.path / "corpus.txt").read_text()
    (workspace.path / "other.txt").write_text(text[::-1])
    assert workspace.train("sgld", "--out", "a") == 0
    assert workspace.train("sgld", "--out", "b", "--corpus", "other.txt") == 0
    capsys.readouterr()
    assert evaluate("a", "b") == 0
    shown = capsys.readouterr()
    assert "warning: the runs are of different corpora" in shown.err
    assert "a: corpus.txt, val" in shown.out
    assert "b: other.txt, val" in shown.out
