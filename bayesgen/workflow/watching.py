"""The validation loss of an upstream run while it moves, and what it leaves as models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from bayesgen.config import ScoringSettings, TrainSettings
from bayesgen.evaluation.walk import evenly_spaced, nll_of
from bayesgen.models import FunctionalModel
from bayesgen.models.networks import save_model
from bayesgen.parameters import ADAPTER
from bayesgen.predictive import Forward, scoring_precision
from bayesgen.runs import Run
from bayesgen.runs.run import Tracker
from bayesgen.workflow.inputs import Inputs
from bayesgen.workflow.resuming import gaussian_name


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


@runtime_checkable
class Watched(Protocol):
    """Settings of a sampler whose validation loss may be watched."""

    @property
    def validation_every(self) -> int: ...

    @property
    def validation_samples(self) -> int: ...


def watch_of(settings: TrainSettings, inputs: Inputs) -> Watch | None:
    """What is looked at, and how often; None where nothing is."""
    if not isinstance(settings, Watched) or not settings.validation_every:
        return None
    rows = inputs.material(ScoringSettings(eval_splits=("val",)), None).scored["val"]
    rows = rows.take(evenly_spaced(len(rows), settings.validation_samples).numpy())
    model = inputs.model
    forward = Forward(model, scoring_precision(settings.precision, model))

    def nll(theta: Tensor) -> float:
        mixed, _ = nll_of(forward, model.likelihood, theta[None], rows, settings.eval_batch_size)
        return mixed

    return Watch(settings.validation_every, nll)


def save_models(run: Run, model: FunctionalModel, chains: int) -> None:
    """Leave in the run's folder, as models: `mean`, where each chain's prior has its centre, and
    `best`, its best weights on the validation data. Not of adapters, which are no model."""
    if any(ADAPTER in name for name in model.layout.names):
        return
    for chain in range(chains):
        kept = {"best": (best_name(chain), "theta"), "mean": (gaussian_name(chain), "mean")}
        for name, (file, key) in kept.items():
            found = run.read_tensors(file)
            assert found is not None
            save_model(model, found[key], run.path / (name if chain == 0 else f"{name}-c{chain}"))
