"""Where the numbers of a run go while it runs: metrics.jsonl, and Weights & Biases if asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from bayesgen.errors import UserError
from bayesgen.runs import Run, atomic_write, finite


class Tracker:
    """Appends one line per logged step; a context manager."""

    def __init__(self, run: Run, wandb_config: Mapping[str, Any] | None = None) -> None:
        self._run = run
        self._file = run.metrics.open("a", encoding="utf-8")
        self._wandb = _start_wandb(run, wandb_config) if wandb_config is not None else None

    def log(self, row: Mapping[str, float]) -> None:
        self._file.write(json.dumps(finite(row), allow_nan=False) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log(dict(row))

    def rewind(self, chain: int, step: int) -> float:
        """Forget the lines of `chain` after `step`: those steps will be taken again.

        Returns the NLL of its last line that is kept, NaN where there is none.
        """
        self._file.close()
        kept, nll = [], math.nan
        for line in self._run.metrics.read_text("utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a line cut by a kill
            if row["chain"] != chain or row["step"] <= step:
                kept.append(line + "\n")
                nll = row.get("nll", nll) if row["chain"] == chain else nll
        atomic_write(self._run.metrics, "".join(kept).encode())
        self._file = self._run.metrics.open("a", encoding="utf-8")
        return nll

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)


def _start_wandb(run: Run, config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "`wandb`: the package wandb is not installed; pip install 'bayesgen[wandb]' or pass"
            " `wandb=False`"
        ) from error
    try:
        return wandb.init(
            project="bayesgen",
            name=run.path.name,
            id=run.path.name,
            dir=str(run.path),
            config=dict(config),
            resume="allow",
        )
    except wandb.errors.Error as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"`wandb`: {first}; log in with 'wandb login', set WANDB_MODE=offline, or pass"
            " `wandb=False`"
        ) from error
