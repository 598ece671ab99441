"""What the scripts here share: fine-tunes and runs that are made once, and numbers as text."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bayesgen
from bayesgen.config.jobs import BaselineSettings, FinetuneSettings
from bayesgen.errors import Interrupted, UserError
from bayesgen.runs import Run
from bayesgen.workflow import baseline as baselines
from bayesgen.workflow import finetune as finetunes

PREDICTORS = ("deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma")
DATA_DIR = os.environ.get("DATA_DIR")
"""Default of --data-dir."""


def script(main: Callable[[], None]) -> None:
    """Run a script; an error that its user can put right is one line, and so is a stop."""
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except Interrupted as stop:
        print(f"{stop}, or give this command again", file=sys.stderr)
        raise SystemExit(128 + stop.signum) from None


def baseline(**settings: Any) -> None:
    """Train a network by nanoGPT's recipe."""
    baselines.make_baseline(BaselineSettings(**settings))


def finetune(out: Path, **settings: Any) -> Path:
    """Fine-tune into `out`; what is there is continued, or taken as it is."""
    if (out / "unfinished" / "finetune.json").is_file():
        finetunes.finetune(finetunes.stored_settings(out, {}), out, resumed=True)
    elif not (out / "finetune.json").is_file():
        chosen = FinetuneSettings(**settings, out=str(out))
        finetunes.finetune(chosen, finetunes.new_folder(chosen))
    return out


def sample(out: Path, **settings: Any) -> Path:
    """Sample into `out`, as `bayesgen.sample` does; what is there is continued, or taken as it is.

    A finished run is not compared with the settings, which would load its model and data again.
    """
    if not Run(out).finished:
        bayesgen.sample(out=out, **settings)
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
