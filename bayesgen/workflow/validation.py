"""Looks at the validation loss of a run while it moves, and the best weights that were seen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bayesgen.runs import Run
from bayesgen.runs.run import Tracker


@dataclass(frozen=True)
class Watch:
    """What is looked at.

    Attributes:
        every: steps from one look to the next.
        nll: of θ [P] on validation data, in nats per observation; draws no random numbers from the
            global generators.
    """

    every: int
    nll: Callable[[Tensor], float]


@dataclass
class Best:
    """The least validation NLL so far of one chain, and where it was."""

    chain: int
    nll: float = math.inf
    last: float = math.nan

    @classmethod
    def of(cls, run: Run, chain: int) -> Best:
        """What the lines of metrics say so far."""
        best = cls(chain)
        for line in run.metrics.read_text("utf-8").splitlines():
            row = json.loads(line)
            if row["chain"] == chain and row.get("val_nll") is not None:
                best.nll, best.last = min(best.nll, row["val_nll"]), row["val_nll"]
        return best

    def look(self, watch: Watch, theta: Tensor, step: int, run: Run, tracker: Tracker) -> None:
        """Measure θ, log it, and keep it where it is the best."""
        self.last = watch.nll(theta)
        if self.last < self.nll:
            self.nll = self.last
            run.write_tensors(best_name(self.chain), {"theta": theta})
        tracker.log({"chain": self.chain, "step": step, "val_nll": self.last})


def best_name(chain: int) -> str:
    """File of a chain's best weights, in the folder of its run."""
    return f"best-c{chain}.safetensors"
