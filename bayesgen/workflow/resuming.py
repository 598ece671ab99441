"""Runs that go on: with their own settings and generators, or from where another one led to."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesgen.config import EvalSettings, TrainSettings, described
from bayesgen.config.fields import Chosen, by_flag
from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models import FunctionalModel
from bayesgen.parameters import names_adapters
from bayesgen.posterior.opening import START, Start, sha256
from bayesgen.runs import Run, newest_unfinished
from bayesgen.runs.files import StartRecord

CHANGEABLE = {*described(EvalSettings), "base_dir", "device", "out", "wandb", "checkpoint_every"}
"""Settings that may differ when a run is resumed. (Another device does not give the same bits.)"""
ADAPTERS = ("lora_r", "lora_alpha", "lora_targets")
"""Settings that decide what a θ of adapters means."""


def gaussian_name(chain: int) -> str:
    """File of the Gaussian that a chain led to, in the folder of its run."""
    return f"gaussian-c{chain}.safetensors"


def run_to_resume(sampler: str, settings: TrainSettings, resume: str | None) -> Run | None:
    """The run to continue; None for a new one.

    Args:
        resume: a run's folder, or `auto`: the run in `out`, or the newest that is not finished.

    Raises:
        UserError: there is no run in the folder that is named.
    """
    if resume is None:
        return None
    if resume != "auto":
        return Run.open(resume)
    if settings.out is not None:
        out = Path(settings.out)
        return Run(out) if (out / "run.json").is_file() else None
    return newest_unfinished(Path(settings.base_dir), sampler)


def resumed_settings(run: Run, sampler: str, given: Mapping[str, Any]) -> Chosen[TrainSettings]:
    """The run's own settings, with what may change changed.

    Args:
        given: settings that were chosen for this time.

    Raises:
        UserError: one of them contradicts the run, or another version wrote it.
    """
    record = run.record()
    if record.sampler != sampler:
        raise UserError(f"`sampler={sampler}`: '{run.path}' is a run of {record.sampler}")
    if "out" in given and Path(given["out"]).resolve() != run.path.resolve():
        raise UserError(f"`out={given['out']}`: a resumed run stays in its folder, '{run.path}'")
    cls = SAMPLERS[sampler].settings
    values = continued(cls, record.settings, given, CHANGEABLE, run.path, "run")
    changed = by_flag(name for name in given if name in CHANGEABLE)
    return Chosen(cls(**values), record.sources | changed)


def continued(
    cls: type,
    record: Mapping[str, Any],
    given: Mapping[str, Any],
    changeable: Container[str],
    folder: Path,
    what: str,
) -> dict[str, Any]:
    """The settings in `record`, of the run or fine-tune in `folder`, with those of `given`.

    Raises:
        UserError: a setting that may not change is given another value, or the names are not those
            of `cls`.
    """
    stored = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    known = described(cls)
    if stored.keys() != known.keys():
        odd = min(stored.keys() ^ known.keys())
        raise UserError(
            f"`resume`: '{folder}' was written by another version (setting '{odd}'); continue it"
            " with that version"
        )
    for name, value in given.items():
        if name not in changeable and stored[name] != value:
            raise UserError(
                f"`{name}={value}`: '{folder}' was started with {stored[name]}; a resumed {what}"
                " keeps its settings, start a new one to change them"
            )
    return {**stored, **given}


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


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The global generators' states, as tensors of bytes."""
    state = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["rng.cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["rng.mps"] = torch.mps.get_rng_state()
    return state


def restore_rng(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the generators back to what `rng_state` found."""
    torch.set_rng_state(tensors["rng.cpu"])
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
    elif device.type == "mps" and "rng.mps" in tensors:
        torch.mps.set_rng_state(tensors["rng.mps"])
