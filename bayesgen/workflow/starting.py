"""--init-from: a run that starts where another one led to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bayesgen.config import TrainSettings
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel
from bayesgen.parameters import names_adapters
from bayesgen.posterior import Posterior
from bayesgen.runs import Run
from bayesgen.workflow.loop import gaussian_name

START = "start.safetensors"
ADAPTERS = ("lora_r", "lora_alpha", "lora_targets")
"""Settings that decide what a θ of adapters means."""


@dataclass(frozen=True)
class Start:
    """Where chains start, and what it cost to get there.

    Attributes:
        theta: [P].
        record: what run.json says of it: the run, its sampler, hash of θ, and the gradients that
            it took, all that led to it among them.
    """

    theta: Tensor
    record: dict[str, Any]

    @property
    def gradient_evaluations(self) -> int:
        return int(self.record["gradient_evaluations"])

    def row(self) -> tuple[str, str]:
        """For the table that opens a run."""
        of, count = self.record, self.gradient_evaluations
        return "start", f"mean weights of '{of['run']}' ({of['sampler']}, {count:,} gradients)"


def start_of(settings: TrainSettings, model: FunctionalModel, data: Mapping[str, Any]) -> Start:
    """The mean weights of the run that `settings` name.

    Args:
        data: what run.json will say of the data.

    Raises:
        UserError: no run is there, or it does not lead to a start for chains on `model`.
    """
    name = str(settings.init_from)
    run = Run.open(name, setting="`init_from`")
    record = run.record()
    if not run.finished:
        raise UserError(
            f"`init_from`: the run '{name}' is not finished; continue it with `resume='{name}'`"
        )
    posterior = Posterior.load(name)
    theirs = record["settings"]
    for key in ("task", *(ADAPTERS if names_adapters(theirs["parameters"]) else ())):
        if theirs.get(key) != getattr(settings, key):
            raise UserError(
                f"`init_from`: the run '{name}' was made with"
                f" `{key}={theirs.get(key)}`; give it here, too"
            )
    classes = record["data"].get("classes")
    if posterior.layout != model.layout or classes != data.get("classes"):
        raise UserError(
            f"`init_from`: the run '{name}' moved other parameters"
            f" ({posterior.layout.size:,}, not {model.layout.size:,}) or has other classes; give"
            " its `parameters`, `model` and `data`"
        )
    if record["model"]["sha256"] != model.info.sha256:
        raise UserError(
            f"`init_from`: the run '{name}' is of another model than '{model.info.name}' (its"
            f" sha256 differs); name that one with `model` ('{record['model']['name']}')"
        )
    if theirs.get("chains") != 1:
        raise UserError(
            f"`init_from`: the run '{name}' has several chains, whose mean may lie in no mode; name"
            " a run of one"
        )
    gaussian = run.read_tensors(gaussian_name(0))
    theta = posterior.mean() if gaussian is None else gaussian.get("mean")
    if theta is None or theta.shape != model.loaded.shape:
        raise UserError(f"'{run.path / gaussian_name(0)}' is damaged; copy it back")
    totals = run.read_json(f"{record['sampler']}_metrics.json")
    start = {
        "run": name,
        "sampler": record["sampler"],
        "sha256": sha256(theta),
        "gradient_evaluations": totals.get("gradient_evaluations"),
    }
    if not _whole(start):
        raise UserError(
            f"'{run.path / record['sampler']}_metrics.json': 'gradient_evaluations' is missing or"
            " wrong; the file was damaged or written by another version: copy it back, or use that"
            " version"
        )
    return Start(theta, start)


def stored_start(run: Run, model: FunctionalModel) -> Start | None:
    """Where the chains of `run` started; None where that is the loaded weights.

    Raises:
        UserError: what the run kept of it is missing or damaged.
    """
    record = run.record()
    start = record.get("start")
    if start is None and record["settings"].get("init_from") is None:
        return None
    if start is None or not _whole(start):
        raise UserError(
            f"'{run.path / 'run.json'}': 'start' is missing or wrong; the file was damaged: copy it"
            " back"
        )
    tensors = run.read_tensors(START)
    theta = None if tensors is None else tensors.get("theta")
    if theta is None or theta.shape != model.loaded.shape or sha256(theta) != start["sha256"]:
        raise UserError(f"'{run.path / START}' is missing or damaged; copy it back")
    return Start(theta, start)


def _whole(start: Any) -> bool:
    """Whether all is there that a record of a start is read for."""
    kinds = {"run": str, "sampler": str, "sha256": str, "gradient_evaluations": int}
    return isinstance(start, dict) and all(type(start.get(k)) is kind for k, kind in kinds.items())


def sha256(theta: Tensor) -> str:
    """Hash of θ's bytes."""
    return hashlib.sha256(theta.cpu().numpy().tobytes()).hexdigest()


def keep_start(run: Run, start: Start) -> None:
    """Put it into the run's folder: the other run may go."""
    run.write_tensors(START, {"theta": start.theta})
