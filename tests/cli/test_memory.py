"""Memory that runs out is one line with the way out, in every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bayesgen.cli.main import guarded, run_command
from bayesgen.errors import ran_out
from bayesgen.inference.log_posterior import LogPosterior
from tests.encoder import save_encoder, write_rows
from tests.workspace import Workspace

TOO_MUCH = 2**44
"""Elements that no computer has room for."""


def exhaust(*_: Any, **__: Any) -> Any:
    torch.empty(TOO_MUCH)


def bad_alloc() -> None:
    raise RuntimeError("std::bad_alloc")


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize(
    "fill", [exhaust, lambda: np.empty(TOO_MUCH, np.float64), bad_alloc, on_a_gpu]
)
def test_full_memory_is_told_by_what_is_raised(fill: Callable[[], Any]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        fill()
    assert ran_out(caught.value)


def test_other_errors_are_not_mistaken_for_it() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not ran_out(caught.value)
    with pytest.raises(RuntimeError):
        guarded(lambda _: torch.ones(2) @ torch.ones(3), [])  # type: ignore[arg-type, return-value]


def error(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The line of the error, the last that was said."""
    assert code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = said.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1]


@pytest.mark.parametrize(
    ("sampler", "flags", "names", "not_named"),
    [
        (
            "sgld",
            [],
            ("--gradient-checkpointing", "--precision bf16", "--gradient-accumulation",
             "--block-size", "--batch-size", "--parameters"),
            ("--eval-batch-size",),
        ),
        (
            "sgld",
            ["--gradient-checkpointing", "--precision", "bf16", "--eval"],
            ("--gradient-accumulation", "--block-size", "--eval-batch-size"),
            ("--gradient-checkpointing", "bf16"),
        ),
        ("ekf", [], ("--gradient-checkpointing", "--block-size"), ("--gradient-accumulation",)),
    ],
)  # fmt: skip
def test_a_run_names_what_it_was_not_given(
    sampler: str,
    flags: list[str],
    names: tuple[str, ...],
    not_named: tuple[str, ...],
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(LogPosterior, "_logits", exhaust)
    line = error(workspace.train(sampler, *flags), capsys)
    assert line.startswith("error: out of memory: take ")
    assert all(name in line for name in names)
    assert not any(name in line for name in not_named)


@pytest.mark.parametrize("saved", [(), ("--gradient-checkpointing", "--bf16")])
def test_a_fine_tune_names_what_it_was_not_given(
    saved: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    save_encoder(tmp_path / "encoder")
    write_rows(tmp_path / "rows.tsv", 30)
    monkeypatch.setattr(transformers.BertModel, "forward", exhaust)
    argv = ["--model", "encoder", "--data", "rows.tsv", "--out", "out", "--device", "cpu", *saved]
    line = error(run_command("finetune", argv), capsys)
    assert "--per-device-train-batch-size" in line
    assert "--max-length" in line
    for name in ("--gradient-checkpointing", "--bf16"):
        assert (name in line) == (name not in saved)


def test_other_commands_name_their_batches(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--eval-batch-size" in error(guarded(exhaust, []), capsys)
