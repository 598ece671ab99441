"""--init-from: a run that starts where another one led to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel
from bayesgen.posterior import Posterior
from bayesgen.runs import Run

START = "start.safetensors"


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


def start_of(name: str, model: FunctionalModel) -> Start:
    """The mean weights of the run `name`.

    Raises:
        UserError: no run is there, or it does not lead to a start for chains on `model`.
    """
    run = Run.open(name, flag="--init-from")
    record = run.record()
    totals = run.path / f"{record['sampler']}_metrics.json"
    if not totals.is_file():
        raise UserError(
            f"--init-from: the run '{name}' is not finished; continue it with --resume '{name}'"
        )
    if record["model"]["sha256"] != model.info.sha256:
        raise UserError(
            f"--init-from: the run '{name}' is of another model than '{model.info.name}' (its"
            f" sha256 differs); name that one with --model ('{record['model']['name']}')"
        )
    if record["settings"].get("chains", 1) > 1:
        raise UserError(
            f"--init-from: the run '{name}' has several chains, whose mean may lie in no mode; name"
            " a run of one"
        )
    posterior = Posterior.load(name)
    if record["settings"]["task"] != model.info.task or posterior.layout != model.layout:
        raise UserError(
            f"--init-from: the run '{name}' moved other parameters ({posterior.layout.size:,}, not"
            f" {model.layout.size:,}) or did another task; give its --task"
            f" {record['settings']['task']}, --data and --parameters"
            f" {record['settings']['parameters']}"
        )
    theta = posterior.mean()
    count = run.read_json(totals.name).get("gradient_evaluations")
    if type(count) is not int:
        raise UserError(
            f"'{totals}': 'gradient_evaluations' is missing or wrong; the file was damaged or"
            " written by another version: copy it back, or use that version"
        )
    return Start(
        theta,
        {
            "run": name,
            "sampler": record["sampler"],
            "sha256": sha256(theta),
            "gradient_evaluations": count,
        },
    )


def stored_start(run: Run, model: FunctionalModel) -> Start | None:
    """Where the chains of `run` started; None where that is the loaded weights.

    Raises:
        UserError: what the run kept of it is missing or damaged.
    """
    record = run.record().get("start")
    if record is None:
        return None
    tensors = run.read_tensors(START)
    theta = None if tensors is None else tensors.get("theta")
    if theta is None or theta.shape != model.loaded.shape or sha256(theta) != record["sha256"]:
        raise UserError(f"'{run.path / START}' is missing or damaged; copy it back")
    return Start(theta, record)


def sha256(theta: Tensor) -> str:
    """Hash of θ's bytes."""
    return hashlib.sha256(theta.cpu().numpy().tobytes()).hexdigest()


def keep_start(run: Run, start: Start) -> None:
    """Put it into the run's folder: the other run may go."""
    run.write_tensors(START, {"theta": start.theta})
