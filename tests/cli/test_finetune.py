"""`bayesgen finetune` as a program: the folder it leaves, killed and continued, and its errors."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bayesgen.cli.main import run_command
from bayesgen.data.examples import Examples
from bayesgen.data.labelled import load_labelled
from bayesgen.models import load_model
from bayesgen.workflow import trainer
from tests.encoder import save_encoder, write_rows, write_scores
from tests.processes import ended

pytest.importorskip("transformers")

TINY = ("--model", "encoder", "--data", "rows", "--device", "cpu", "--learning-rate", "1e-2",
        "--num-train-epochs", "3", "--per-device-train-batch-size", "4")  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an encoder, rows in splits of their own, and scored pairs."""
    for variable in ("BASE_DIR", "MODEL_PATH", "DATA_DIR", "DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    save_encoder(tmp_path / "encoder")
    (tmp_path / "rows").mkdir()
    for seed, (split, count) in enumerate({"train": 24, "val": 10, "test": 12}.items()):
        write_rows(tmp_path / "rows" / f"{split}.tsv", count, seed=seed)
    write_scores(tmp_path / "pairs.tsv", 30)
    return tmp_path


def finetune(*flags: str) -> int:
    return run_command("finetune", [*TINY, *flags])


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "finetune.json").read_text())
    return content


def test_a_folder_that_other_commands_take(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune("--eval-test") == 0
    folder = place / "checkpoints/finetuned/encoder_rows"
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "finetune.json",
    }  # fmt: skip
    found = record(folder)
    assert found["settings"]["learning_rate"] == 1e-2
    assert found["data"]["train_rows"] == found["rows"] == 24
    assert found["data"]["classes"] == ["animals", "plants", "stones"]
    assert [row["step"] for row in found["curve"]] == [6, 12, 18]
    assert found["best_val_loss"] == min(row["val_loss"] for row in found["curve"])
    assert set(found["test"]) == {"loss", "accuracy", "macro_f1"}
    assert found["peak_memory_mib"] > 0
    assert {"torch", "transformers", "bayesgen"} <= found["versions"].keys()
    shown = capsys.readouterr()
    for word in ("epoch", "validation loss", "macro f1", "test", f"step {found['best_step']}"):
        assert word in shown.out
    assert "24 examples of rows/train" in shown.err
    loaded = load_model(folder, task="sequence-classification")
    assert loaded.new == frozenset()
    assert loaded.tokenizer is not None
    data = load_labelled("rows", task="sequence-classification").val
    batch = Examples(data, loaded.tokenizer.tokenizer, 32).batch(range(len(data)))
    logits = loaded(loaded.theta, batch)
    nll = torch.nn.functional.cross_entropy(logits, batch["labels"]).item()
    assert nll == pytest.approx(found["best_val_loss"], rel=1e-5)
    assert loaded.module.config.id2label == {0: "animals", 1: "plants", 2: "stones"}
    assert finetune() == 2
    assert "already exists" in capsys.readouterr().err
    assert run_command("finetune", ["--resume", str(folder)]) == 2
    assert "is finished" in capsys.readouterr().err
    # one that is fine-tuned already starts from its head
    assert finetune("--model", str(folder), "--out", "further", "--max-steps", "1",
                    "--num-train-epochs", "1") == 2  # fmt: skip
    assert "give one of them" in capsys.readouterr().err
    assert finetune("--model", str(folder), "--out", "further") == 0


def test_a_regression(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--data", "pairs.tsv", "--task", "regression", "--out", "out", "--train-samples", "20")
    assert finetune(*flags) == 0
    found = record(place / "out")
    assert found["rows"] == 20
    assert {"spearman", "pearson"} < found["curve"][0].keys()
    assert "spearman" in capsys.readouterr().out


def killed(*flags: str) -> int:
    """`finetune` in a process that is killed in its ninth step."""
    before = trainer.Flow.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        before(self, args, state, control, **rest)

    trainer.Flow.on_step_end = on_step_end  # type: ignore[method-assign]
    return finetune(*flags)


def test_one_that_is_killed_continues_to_the_same_weights(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--eval-steps", "4", "--early-stopping-patience", "9")
    assert finetune("--out", "whole", *flags) == 0
    done = ended(lambda: killed("--out", "killed", *flags), place)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert {p.name for p in (place / "killed").iterdir()} == {"unfinished"}
    capsys.readouterr()
    for argv, says in (
        ([*TINY, "--out", "killed"], "continue it with --resume 'killed'"),
        (
            ["--resume", "killed", "--learning-rate", "1"],
            "--learning-rate 1.0: 'killed' was started",
        ),
    ):
        assert run_command("finetune", argv) == 2
        assert says in capsys.readouterr().err
    rows = (place / "rows/val.tsv").read_text()
    (place / "rows/val.tsv").write_text(rows.replace("the", "a"))
    assert run_command("finetune", ["--resume", "killed"]) == 2
    assert "sha256 differs" in capsys.readouterr().err
    (place / "rows/val.tsv").write_text(rows)
    (place / "killed").rename(place / "moved")
    assert run_command("finetune", ["--resume", "moved", "--eval-test"]) == 0
    whole, resumed = record(place / "whole"), record(place / "moved")
    assert [row["step"] for row in whole["curve"]] == [4, 8, 12, 16, 18]
    assert resumed["curve"] == whole["curve"]
    assert resumed["best_step"] == whole["best_step"]
    assert resumed["test"]
    first, second = (load_file(place / f / "model.safetensors") for f in ("whole", "moved"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (place / "moved/unfinished").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--lerning-rate", "1"], "did you mean --learning-rate"),
        (["--data", "ag_new"], "--data ag_new"),
        (["--model", "missing/folder/here"], "--model"),
        (["--num-train-epochs", "0"], "--num-train-epochs must be above 0"),
        (["--seed", str(2**32)], "--seed must be at most"),
        (["--max-steps", "3"], "--max-steps stands in the place of --num-train-epochs"),
        (["--lr-scheduler-type", "constant", "--warmup-steps", "5"], "--warmup-steps needs"),
        (["--lr-scheduler-type", "zigzag"], "--lr-scheduler-type: invalid choice"),
        (["--task", "regression", "--class-weights", "balanced"], "--class-weights needs --task"),
        (["--data", "rows/train.tsv", "--task", "regression"], "is a label and no score"),
        (["--data", "pairs.tsv", "--task", "regression", "--eval-test"], "--eval-test"),
        (["--validation", "5"], "--validation 5"),
        (["--data", "rows/train.tsv", "--validation", "24"], "--validation 24"),
        (["--freeze", "nothing.*"], "--freeze: 'nothing.*' matches no parameter"),
        (["--train-samples", "25"], "--train-samples 25"),
        (["--max-length", "99"], "--max-length 99 exceeds"),
        (["--out", "rows"], "--out: 'rows' already exists"),
        (["--device", "warp"], "--device"),
        (["--resume", "nowhere"], "--resume: no unfinished fine-tune in 'nowhere'"),
    ],
)
def test_errors_are_one_line(
    flags: list[str], says: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    assert finetune(*flags) == 2
    shown = capsys.readouterr()
    (line,) = [row for row in shown.err.splitlines() if row.startswith("error: ")]
    assert says in line
    assert "Traceback" not in shown.err
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("name", ["model", "data"])
def test_what_is_missing_is_named(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = list(TINY)
    del argv[argv.index(f"--{name}") : argv.index(f"--{name}") + 2]
    assert run_command("finetune", argv) == 2
    assert capsys.readouterr().err.startswith(f"error: --{name} is missing")
