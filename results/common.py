"""What the scripts here share."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bayesgen.cli.main import door
from bayesgen.runs import Run


def call(command: str, *flags: str) -> None:
    """Give a command of bayesgen."""
    if door(command, list(flags)):
        raise SystemExit(f"'bayesgen {command} {' '.join(flags)}' failed")


def finetune(out: Path, *flags: str) -> Path:
    """Fine-tune into `out`, or take or continue what is there."""
    if (out / "unfinished" / "finetune.json").is_file():
        call("finetune", "--resume", str(out))
    elif not (out / "finetune.json").is_file():
        call("finetune", *flags, "--out", str(out))
    return out


def sample(out: Path, *flags: str) -> Path:
    """Sample into `out` and score, or take or continue what is there."""
    if not (out / "run.json").is_file():
        call("train", *flags, "--out", str(out))
    elif not Run(out).finished:
        call("train", "--resume", str(out))
    return out


def report(out: Path, split: str) -> dict[str, Any] | None:
    """What the run's own evaluation says of a split; None where the run is not finished."""
    if not Run(out).finished:
        return None
    # later ones may be of a part of the split
    evaluation = min(out.glob("bayesian_eval_*[0-9].json"))
    content: dict[str, Any] = json.loads(evaluation.read_text())["splits"][split]
    return content


def mean_sd(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation, of more than one value."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def interval(d: Mapping[str, float]) -> str:
    """A difference with its 95 % interval."""
    return f"{d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]"
