"""Finished runs scored again, without sampling, and side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bayesgen.config import DataSettings, EvaluateSettings
from bayesgen.errors import UserError, warn
from bayesgen.models import FunctionalModel
from bayesgen.posterior import open_posterior
from bayesgen.runs import Run
from bayesgen.tasks import TASKS
from bayesgen.workflow.inputs import read_inputs
from bayesgen.workflow.scoring import Material, check_draws, has_scores, score_run


def evaluate_runs(names: Sequence[str], settings: EvaluateSettings) -> dict[str, dict[str, Any]]:
    """Score the runs in the folders `names`; the content of each evaluation file, by a short name.

    Raises:
        UserError: a run cannot be scored, which is found before any is, or is named twice, or runs
            of classes and of real numbers are compared.
    """
    if len({Path(name).resolve() for name in names}) < len(names):
        raise UserError("a run is named twice; name each once")
    for name in names:
        if not (Path(name) / "run.json").is_file():
            raise UserError(f"'{name}' is not the folder of a run (it holds no run.json)")
    prepared = {name: _prepare(name, settings) for name in names}
    real = [name for name, (_, model, _) in prepared.items() if has_scores(model)]
    if real and len(real) < len(names):
        other = next(name for name in names if name not in real)
        raise UserError(
            f"the labels of '{real[0]}' are real numbers and those of '{other}' are classes, which"
            " have no score in common: evaluate them separately"
        )
    for name, (run, *_) in prepared.items():
        if not run.finished:
            warn(
                f"the run '{name}' is not finished: its draws so far are scored; continue"
                f" it with `resume='{name}'`"
            )
    short = _short(names)
    contents = {
        short[name]: score_run(run, model, settings, material)
        for name, (run, model, material) in prepared.items()
    }
    if len({content["corpus"]["sha256"] for content in contents.values()}) > 1:
        warn("the runs are of different corpora: compare within each only")
    tasks = {model.info.task for _, model, _ in prepared.values()}
    if len(tasks) > 1 and not all(TASKS[task].is_labelled for task in tasks):
        warn(
            f"the runs are of different tasks ({', '.join(sorted(tasks))}), which have no"
            " tokens in common: compare within each only"
        )
    return contents


def _prepare(name: str, settings: EvaluateSettings) -> tuple[Run, FunctionalModel, Material]:
    """A run, its model, and what is to be scored."""
    posterior = open_posterior(name, model=settings.model, device=settings.device)
    assert posterior.run is not None
    record = posterior.run.record()
    stored = {f.name: record.settings.get(f.name, f.default) for f in fields(DataSettings)}
    moved = {key: getattr(settings, key) or stored[key] for key in ("data_dir", "corpus", "data")}
    inputs = read_inputs(posterior.model, DataSettings(**(stored | moved)), record.block_size)
    if inputs.data["sha256"] != record.data.sha256:
        raise UserError(
            f"`corpus`, `data`: '{inputs.data['name']}' is not what the run '{name}' was made on"
            " (its sha256 differs)"
        )
    check_draws(settings, len(posterior))
    return posterior.run, posterior.model, inputs.material(settings, settings.text)


def _short(names: Sequence[str]) -> dict[str, str]:
    """The shortest ends of the paths that differ."""
    for parts in range(1, 20):
        short = {name: "/".join(Path(name).absolute().parts[-parts:]) for name in names}
        if len(set(short.values())) == len(names):
            return short
    return {name: name for name in names}
