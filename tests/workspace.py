"""Commands run in a folder of their own, on a tiny model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayesgen.cli.main import door

BLOCK = 8
SHORT = {
    "sgld": ("--warmup-steps", "4", "--sampling-steps", "8", "--thinning", "4"),
    "pass": ("--train-samples", "24", "--epochs", "1"),
}
CHAINS = ("sgld", "sghmc", "baoa", "sgnht", "sglrw")


@dataclass(frozen=True)
class Workspace:
    """Runs commands in `path`, which holds model.pt and corpus.txt."""

    path: Path

    def train(self, sampler: str, *flags: str) -> int:
        """The training command on the tiny model, a few steps long; later flags win."""
        short = SHORT["sgld" if sampler in CHAINS else "pass"]
        return door(
            "train",
            ["--sampler", sampler, "--model", "model.pt", "--corpus", "corpus.txt", "--out", "run",
             "--batch-size", "4", *short, *flags],
        )  # fmt: skip

    def json(self, pattern: str) -> dict[str, Any]:
        (found,) = self.path.glob(pattern)
        content: dict[str, Any] = json.loads(found.read_text())
        return content
