"""The validation loss of an upstream run, and what it leaves as models."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from bayesgen.config import ScoringSettings, TrainSettings
from bayesgen.evaluation.nll import nll_of
from bayesgen.evaluation.walk import evenly_spaced
from bayesgen.models import FunctionalModel
from bayesgen.models.networks import save_model
from bayesgen.parameters import ADAPTER
from bayesgen.predictive import Forward, scoring_precision
from bayesgen.runs import Run
from bayesgen.workflow.inputs import Inputs
from bayesgen.workflow.loop import gaussian_name
from bayesgen.workflow.validation import Watch, best_name


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
