"""Runs that are scored by the command, and what it left."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from bayesgen.cli.main import run_command

HOT = ("--learning-rate", "3", "--ramp-fraction", "0", "--temperature", "30")
"""Draws that differ enough to be told apart."""


def evaluate(*argv: str) -> int:
    return run_command("evaluate", list(argv))


def evaluation(run: Path) -> dict[str, Any]:
    """The only evaluation in a run."""
    (path,) = run.glob("bayesian_eval_*[0-9].json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def forget(run: Path) -> None:
    """Take away everything that an evaluation left."""
    for path in run.glob("bayesian_eval_*"):
        path.unlink()
    shutil.rmtree(run / "token_scores", ignore_errors=True)


def files(run: Path) -> dict[str, int]:
    """When each file below was last written; locks stay behind, empty."""
    found = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in found}


def cells(printed: str) -> list[list[str]]:
    """The rows of the printed tables."""
    return [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines() if line.strip(" ─")]


def refused(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error, and nothing else."""
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def scores(content: dict[str, Any], split: str = "val") -> dict[str, float]:
    """Every headline number of a split."""
    predictors = content["splits"][split]["predictors"]
    return {f"{name}.{k}": v for name, row in predictors.items() for k, v in row.items()}
