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
from bayesgen.inference.preconditioning import Scales
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models import FunctionalModel
from bayesgen.parameters import names_adapters
from bayesgen.posterior import Start, require_same_labels, sha256
from bayesgen.priors.prior_file import fingerprint
from bayesgen.runs import Run, newest_unfinished
from bayesgen.runs.files import StartRecord, wrong
from bayesgen.workflow.inputs import Inputs

CHANGEABLE = {*described(EvalSettings), "base_dir", "device", "out", "wandb", "checkpoint_every"}
"""Settings that may differ when a run is resumed. (Another device does not give the same bits.)"""
PRECONDITIONER = "preconditioner.safetensors"
PRIOR_SCALE = "prior_scale.json"
ADAPTERS = ("lora_r", "lora_alpha", "lora_targets")
"""Settings that decide what a θ of adapters means."""


def gaussian_name(chain: int) -> str:
    """File of the Gaussian that a chain led to, in the folder of its run."""
    return f"gaussian-c{chain}.safetensors"


def run_to_resume(sampler: str, settings: TrainSettings, resume: str | None) -> Run | None:
    """The run to continue: in the folder `resume`, or for `auto` the run in `out`, or the newest
    that is not finished; None for a new one."""
    if resume != "auto":
        return None if resume is None else Run.open(resume)
    if settings.out is not None:
        out = Path(settings.out)
        return Run(out) if (out / "run.json").is_file() else None
    return newest_unfinished(Path(settings.base_dir), sampler)


def resumed_settings(run: Run, sampler: str, given: Mapping[str, Any]) -> Chosen[TrainSettings]:
    """The run's own settings, changed by those that were `given` this time."""
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
    """The settings in `record`, of the run or fine-tune (`what`) in `folder`, with those that were
    `given`, which may contradict them where they are `changeable` only."""
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


def require_same(of: str, what: str, name: str, before: str | None, now: str | None) -> None:
    """Refuse to continue a run or fine-tune (`of`) on another model, data or prior (`what`)."""
    if before != now:
        raise UserError(
            f"`resume`: '{name}' is not the {what} that the {of} started with (its sha256 differs);"
            f" put that one back or start a new {of}"
        )


def require_same_inputs(run: Run, inputs: Inputs, settings: TrainSettings) -> None:
    """Refuse to continue a run on another model, other data, or under another prior."""
    record, model, path = run.record(), inputs.model, settings.prior_path
    require_same("run", "model", model.info.name, record.model.sha256, model.sha256)
    require_same_labels(record.model, model.info, str(run.path))
    if path is not None:
        require_same("run", "prior", path, record.prior.get("sha256"), fingerprint(Path(path)))
    require_same("run", "data", inputs.data["name"], record.data.sha256, inputs.data["sha256"])


def stored_scales(run: Run, model: FunctionalModel) -> Scales:
    """What was measured before the run's first step: its coordinates φ mean nothing without."""
    stored = run.read_tensors(PRECONDITIONER)
    if stored is None:
        path = run.path / PRECONDITIONER
        raise UserError(f"`resume`: '{path}' is missing; put it back or start a new run")
    return Scales.of(stored, model.device)


def stored_scale(run: Run) -> dict[str, Any]:
    """The λ that was chosen before the run's first step."""
    curve = run.read_json(PRIOR_SCALE)
    if not isinstance(curve.get("chosen"), float) or "gradient_evaluations" not in curve:
        path = run.path / PRIOR_SCALE
        raise UserError(f"`resume`: '{path}' is damaged; put it back or start a new run")
    return curve


def start_of(
    settings: TrainSettings, model: FunctionalModel, data: Mapping[str, Any]
) -> Start | None:
    """The mean weights of the run that `init_from` names, if any, where it leads to a start for
    chains on `model` and on `data`, as run.json will describe them."""
    name = settings.init_from
    if name is None:
        return None
    run = Run.open(name, setting="`init_from`")
    record = run.record()
    theirs, start = record.settings, f"`init_from`: the run '{name}'"
    if not run.finished:
        raise UserError(f"{start} is not finished; continue it with `resume='{name}'`")
    posterior = Draws.load(name)
    for key in ("task", *(ADAPTERS if names_adapters(theirs["parameters"]) else ())):
        if theirs.get(key) != getattr(settings, key):
            raise UserError(f"{start} was made with `{key}={theirs.get(key)}`; give it here, too")
    if posterior.layout != model.layout or record.data.classes != data.get("classes"):
        raise UserError(
            f"{start} moved other parameters ({posterior.layout.size:,}, not"
            f" {model.layout.size:,}) or has other classes; give its `parameters`, `model` and"
            " `data`"
        )
    if record.model.sha256 != model.sha256:
        raise UserError(
            f"{start} is of another model than '{model.info.name}' (its sha256 differs); name that"
            f" one with `model` ('{record.model.name}')"
        )
    if theirs.get("chains") != 1:
        raise UserError(
            f"{start} has several chains, whose mean may lie in no mode; name a run of one"
        )
    gaussian = run.read_tensors(gaussian_name(0))
    theta = posterior.mean() if gaussian is None else gaussian.get("mean")
    if theta is None or theta.shape != model.loaded.shape:
        raise UserError(f"'{run.path / gaussian_name(0)}' is damaged; copy it back")
    file = f"{record.sampler}_metrics.json"
    count = run.read_json(file).get("gradient_evaluations")
    if type(count) is not int:
        raise wrong(run.path / file, "gradient_evaluations")
    of = {"run": name, "sampler": record.sampler, "sha256": sha256(theta)}
    return Start(theta, StartRecord(**of, gradient_evaluations=count))


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the global random generators, as tensors of bytes: to resume is to draw on."""
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
