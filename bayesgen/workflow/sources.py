"""What a command is pointed at: a run, or a checkpoint that stands for a posterior of one draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayesgen.config import LABELS
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel, ModelInfo, load_model
from bayesgen.posterior import Posterior
from bayesgen.runs import Run
from bayesgen.workflow.job import resolve_device
from bayesgen.workflow.loading import adapters
from bayesgen.workflow.starting import stored_start

LABEL_SETTINGS = ("noise_std", "score_range")
"""What a model's config.json says of its labels, which no weight shows."""


@dataclass(frozen=True)
class Source:
    """A model and draws of its weights.

    Attributes:
        name: the path that was given.
        run: None for a checkpoint.
    """

    name: str
    model: FunctionalModel
    posterior: Posterior
    run: Run | None


def open_source(
    name: str, *, model: str | None = None, device: str = "auto", task: str = "causal-lm"
) -> Source:
    """Open a run's folder with the model that it started from, or a model alone.

    Args:
        model: where a run's model lies now, if not where it was.
        task: of a model alone; a run knows its own.

    Raises:
        UserError: neither a run nor a model is there, or the model is not the run's.
    """
    on = str(resolve_device(device))
    if not (Path(name) / "run.json").is_file():
        if not Path(name).exists():
            raise UserError(f"'{name}' is not there; name a run's folder or a model's")
        if model is not None:
            raise UserError(f"`model` goes with a run, and '{name}' is none")
        alone = load_model(name, task=task, device=on)
        return Source(name, alone, Posterior.from_draws(alone.theta[None], alone.layout), None)
    run = Run.open(name, setting="RUN")
    posterior = Posterior.load(name)
    record = run.record()
    settings, stored = record["settings"], record["model"]
    classes = LABELS.get(settings["task"]) == "class"
    place = Path(stored["name"])
    if model is None and not place.exists() and (place.suffix or len(place.parts) > 2):
        raise UserError(
            f"the model of the run '{name}' is not at '{place}' any more; say with `model` where it"
            " is"
        )
    loaded = load_model(
        model or stored["name"],
        task=settings["task"],
        parameters=settings["parameters"],
        lora=adapters(settings),
        num_labels=len(stored["config"]["id2label"]) if classes else None,
        meta_path=settings["meta_path"],
        device=on,
    )
    if loaded.info.sha256 != stored["sha256"]:
        raise UserError(
            f"'{loaded.info.name}' is not the model that the run '{name}' started from (its sha256"
            " differs); name that one with `model`"
        )
    require_same_labels(stored, loaded.info, name)
    if loaded.layout != posterior.layout:
        raise UserError(
            f"'{name}': the parameters in its run.json are not those of '{loaded.info.name}'; the"
            " file was damaged or written by another version: copy it back, or use that version"
        )
    start = stored_start(run, loaded)
    if start is not None:
        loaded.start_at(start.theta)
    return Source(name, loaded, posterior, run)


def require_same_labels(stored: Mapping[str, Any], now: ModelInfo, run: str) -> None:
    """Refuse a model with the weights of `run` but other scores or another noise.

    Args:
        stored: what run.json says of the model.

    Raises:
        UserError: its config.json was changed.
    """
    for key in LABEL_SETTINGS:
        before, found = stored["config"].get(key), now.config.get(key)
        if before != found:
            raise UserError(
                f"`model`: {key} in the config.json of '{now.name}' is {found}, and the run"
                f" '{run}' was made with {before}; put that back, or start a new run"
            )
