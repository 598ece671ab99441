"""--init-from: a run that starts where another one led to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayesgen.config import TrainSettings
from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel
from bayesgen.parameters import names_adapters
from bayesgen.posterior.opening import START, Start, sha256
from bayesgen.runs import Run
from bayesgen.runs.files import StartRecord
from bayesgen.workflow.loop import gaussian_name

ADAPTERS = ("lora_r", "lora_alpha", "lora_targets")
"""Settings that decide what a θ of adapters means."""


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
    posterior = Draws.load(name)
    theirs = record.settings
    for key in ("task", *(ADAPTERS if names_adapters(theirs["parameters"]) else ())):
        if theirs.get(key) != getattr(settings, key):
            raise UserError(
                f"`init_from`: the run '{name}' was made with"
                f" `{key}={theirs.get(key)}`; give it here, too"
            )
    classes = record.data.classes
    if posterior.layout != model.layout or classes != data.get("classes"):
        raise UserError(
            f"`init_from`: the run '{name}' moved other parameters"
            f" ({posterior.layout.size:,}, not {model.layout.size:,}) or has other classes; give"
            " its `parameters`, `model` and `data`"
        )
    if record.model.sha256 != model.info.sha256:
        raise UserError(
            f"`init_from`: the run '{name}' is of another model than '{model.info.name}' (its"
            f" sha256 differs); name that one with `model` ('{record.model.name}')"
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
    file = f"{record.sampler}_metrics.json"
    count = run.read_json(file).get("gradient_evaluations")
    if type(count) is not int:
        raise UserError(
            f"'{run.path / file}': 'gradient_evaluations' is missing or wrong; the file was damaged"
            " or written by another version: copy it back, or use that version"
        )
    before = {"run": name, "sampler": record.sampler, "sha256": sha256(theta)}
    return Start(theta, StartRecord(**before, gradient_evaluations=count))


def keep_start(run: Run, start: Start) -> None:
    """Put it into the run's folder: the other run may go."""
    run.write_tensors(START, {"theta": start.theta})
