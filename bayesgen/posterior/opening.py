"""The model of a run, as it was when the run began."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel, Lora, ModelInfo, load_model, resolve_device
from bayesgen.parameters import names_adapters
from bayesgen.runs import Run
from bayesgen.runs.files import ModelRecord, RunRecord, StartRecord
from bayesgen.tasks import TASKS

LABEL_SETTINGS = ("noise_std", "score_range")
"""What a model's config.json says of its labels, which no weight shows."""
START = "start.safetensors"
CUSTOM = "custom"
"""Family of a network of the user's own, which no file holds."""


@dataclass(frozen=True)
class Start:
    """Where chains start if not at the loaded weights: θ [P], the run that led there, and the
    gradients that it took, all before among them."""

    theta: Tensor
    record: StartRecord

    def row(self) -> tuple[str, str]:
        """For the pre-flight table."""
        of = self.record
        count = f"{of.gradient_evaluations:,} gradients"
        return "start", f"mean weights of '{of.run}' ({of.sampler}, {count})"


def model_of_run(
    run: Run, model: str | FunctionalModel | None = None, device: str = "auto"
) -> FunctionalModel:
    """The model that `run` started from, its weights where the chains started.

    `model` is where it lies now, if not where it was, or a network of one's own as it was then.
    """
    record = run.record()
    stored = record.model
    loaded = model if isinstance(model, FunctionalModel) else _loaded(run, record, model, device)
    if loaded.sha256 != stored.sha256:
        raise UserError(
            f"'{loaded.info.name}' is not the model that the run '{run.path}' started from (its"
            " sha256 differs); name that one with `model`"
        )
    require_same_labels(stored, loaded.info, str(run.path))
    if loaded.layout.to_json() != record.parameters:
        raise UserError(
            f"'{run.path}': the parameters in its run.json are not those of '{loaded.info.name}';"
            " the file was damaged or written by another version: copy it back, or use that version"
        )
    start = stored_start(run, loaded)
    if start is not None:
        loaded.start_at(start.theta)
    return loaded


def _loaded(run: Run, record: RunRecord, model: str | None, device: str) -> FunctionalModel:
    settings, stored = record.settings, record.model
    if stored.family == CUSTOM:
        raise UserError(
            f"the run '{run.path}' is of a network of your own, which it cannot load: `model`: give"
            " the FunctionalModel that it was made with"
        )
    place = Path(stored.name)
    if model is None and not place.exists() and (place.suffix or len(place.parts) > 2):
        raise UserError(
            f"the model of the run '{run.path}' is not at '{place}' any more; say with `model`"
            " where it is"
        )
    task = TASKS[settings["task"]]
    classes = stored.config.get("id2label") if task.labels == "class" else None
    return load_model(
        model or stored.name,
        task=settings["task"],
        parameters=settings["parameters"],
        lora=adapters(settings),
        num_labels=len(classes) if classes else None,
        meta_path=settings["meta_path"],
        device=str(resolve_device(device)),
    )


def require_same_labels(stored: ModelRecord, now: ModelInfo, run: str) -> None:
    """Refuse a model with the weights of `run`, but with other scores or another noise than the
    `stored` one in its config.json."""
    for key in LABEL_SETTINGS:
        before, found = stored.config.get(key), now.config.get(key)
        if before != found:
            raise UserError(
                f"`model`: {key} in the config.json of '{now.name}' is {found}, and the run"
                f" '{run}' was made with {before}; put that back, or start a new run"
            )


def adapters(settings: Mapping[str, Any]) -> Lora | None:
    """The adapters that a run's settings ask for; None if none."""
    if not names_adapters(settings["parameters"]):
        return None
    targets = settings["lora_targets"]
    return Lora(
        settings["lora_r"],
        settings["lora_alpha"],
        None if targets is None else tuple(t.strip() for t in targets.split(",")),
    )


def stored_start(run: Run, model: FunctionalModel) -> Start | None:
    """Where the chains of `run` started; None where that is the loaded weights."""
    start = run.record().start
    if start is None:
        return None
    theta = (run.read_tensors(START) or {}).get("theta")
    if theta is None or theta.shape != model.loaded.shape or sha256(theta) != start.sha256:
        raise UserError(f"'{run.path / START}' is missing or damaged; copy it back")
    return Start(theta, start)


def sha256(theta: Tensor) -> str:
    """Hash of θ's bytes."""
    return hashlib.sha256(theta.cpu().numpy().tobytes()).hexdigest()
