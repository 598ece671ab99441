"""One training command from settings to files: load, sample, score, report."""

from __future__ import annotations

import platform
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bayesgen.config import TrainSettings
from bayesgen.config.fields import Chosen
from bayesgen.errors import Interrupted, UserError, warn
from bayesgen.inference.preconditioning import Scales
from bayesgen.models import FunctionalModel, resolve_device
from bayesgen.posterior.opening import Start, require_same_labels, stored_start
from bayesgen.priors.base import Prior
from bayesgen.priors.prior_file import fingerprint
from bayesgen.reports.tables import (
    SUMMARY,
    predictor_caption,
    show,
    summary,
    tables_of,
)
from bayesgen.runs import Run, RunRecord, atomic_write, new_run_path
from bayesgen.runs.files import DataRecord, ModelRecord, OpeningRecord
from bayesgen.runs.run import Tracker
from bayesgen.tasks import TASKS
from bayesgen.workflow.inputs import Inputs, model_of, read_inputs
from bayesgen.workflow.job import Job, make_job
from bayesgen.workflow.loop import ChainTotals, graceful_stop, run_chain
from bayesgen.workflow.preflight import Opening, estimate, opening, require
from bayesgen.workflow.prior_scale import TRIALS, choose_scale
from bayesgen.workflow.resuming import keep_start, start_of
from bayesgen.workflow.scoring import check_draws, score_run
from bayesgen.workflow.watching import save_models, watch_of

PRECONDITIONER = "preconditioner.safetensors"
PRIOR_SCALE = "prior_scale.json"
MANY_CLIPPED = 0.01
"""Share of the steps whose gradient may be cut without a warning."""
LARGE = 2**30
"""Bytes from which on a run says what it needs before it loads the weights, which takes a while."""


def train(
    name: str,
    chosen: Chosen[TrainSettings],
    resumed: Run | None = None,
    words: Callable[[str], str] = str,
) -> Run:
    """Load what `settings` name, and run the sampler: see `run_sampler`."""
    settings = chosen.settings
    if resumed is None:
        require_resources(name, settings, model_of(settings, outline=True))
    inputs = read_inputs(model_of(settings), settings)
    return run_sampler(name, chosen, inputs, resumed, words=words)


def run_sampler(
    name: str,
    chosen: Chosen[TrainSettings],
    inputs: Inputs,
    resumed: Run | None = None,
    *,
    prior: Prior | None = None,
    words: Callable[[str], str] = str,
) -> Run:
    """Run the sampler `name`, or continue `resumed`; leave a finished run behind.

    Args:
        prior: in the place of the one that the settings name.
        words: what a text is put through before it is shown, such as `errors.as_flags`.

    Raises:
        UserError: something that the user can put right.
        Interrupted: a signal stopped it; its state was saved.
    """
    settings, model = chosen.settings, inputs.model
    if resumed is not None:
        require_same_inputs(resumed, inputs, settings)
    # whatever cannot work is refused before a folder is made
    material = inputs.material(settings, None) if settings.eval else None
    start = _start(settings, inputs, resumed)
    if start is not None:
        model.start_at(start.theta)
    curve = None
    if resumed is None:
        if settings.out is not None:
            Run.require_free(Path(settings.out))
        if _auto(settings):
            if settings.out is not None:
                Run.create(Path(settings.out))
            curve = choose_scale(name, settings, inputs)
        job = make_job(name, _with_scale(settings, curve), model, inputs.batches, prior=prior)
        if settings.eval:
            check_draws(settings, job.num_draws)
        sizes = opening(job, () if start is None else (start.row(),))
        folder = settings.out or new_run_path(Path(settings.base_dir), name)
        run = Run.create(Path(folder))
    else:
        run = resumed
        curve = _stored_scale(run) if _auto(settings) else None
        scales = _stored_scales(run, model) if settings.draws_from == "chain" else None
        at = _with_scale(settings, curve)
        job = make_job(name, at, model, inputs.batches, scales, prior=prior)
        if settings.eval:
            check_draws(settings, job.num_draws)
    watch = watch_of(settings, inputs)
    with run.locked():
        if resumed is None:
            if job.scales is not None:
                run.write_tensors(PRECONDITIONER, job.scales.tensors())
            if curve is not None:
                run.write_json(PRIOR_SCALE, curve)
            if start is not None:
                keep_start(run, start)
            run.write_json("run.json", _record(job, chosen, inputs, sizes, start).to_json())
            (run.path / TRIALS).unlink(missing_ok=True)
            _print_opening(name, run, sizes, words)
        config = run.record().settings if settings.wandb else None
        with graceful_stop() as stop, Tracker(run, config) as tracker:
            chains = [run_chain(job, run, tracker, c, stop, watch) for c in range(settings.chains)]
            if watch is not None:
                save_models(run, model, settings.chains)
        totals = _totals(job, chains, curve, start)
        _warn_of_clipping(totals, settings.task)
        try:
            evaluation = None if material is None else score_run(run, model, settings, material)
        except KeyboardInterrupt:
            raise Interrupted(signal.SIGINT, run.path, job.plan.steps) from None
        if curve is not None and evaluation is not None and "val" in evaluation["splits"]:
            warn(
                "the validation rows chose λ, too: for numbers to report score rows that"
                " nothing was chosen by (`eval_splits` test, or evaluate.py with `text`)"
            )
        text = summary(run.record(), totals, evaluation)
        atomic_write(run.path / f"{name}_summary.txt", text.encode())
        run.write_json(f"{name}_metrics.json", totals)  # last: the run is finished
    return run


def show_results(run: Run) -> None:
    """Print what a finished run found: its newest evaluation, if it has one, and where it lies."""
    evaluations = sorted(run.path.glob("bayesian_eval_*[0-9].json"))
    if evaluations:
        content = run.read_json(evaluations[-1].name)
        first, *others = tables_of({"": content}, ("predictors", *SUMMARY))
        show(first)
        print(predictor_caption(content))
        for table in others:
            print()
            show(table)
    print(f"{len(run.draw_paths())} draws in {run.path}")


def _auto(settings: TrainSettings) -> bool:
    return settings.prior_scale == "auto"


def _with_scale(settings: TrainSettings, curve: dict[str, Any] | None) -> TrainSettings:
    """`settings` with the λ that was chosen, where it had to be."""
    return settings if curve is None else replace(settings, prior_scale=curve["chosen"])


def _start(settings: TrainSettings, inputs: Inputs, resumed: Run | None) -> Start | None:
    """Where chains start, if not at the loaded weights."""
    if resumed is not None:
        return stored_start(resumed, inputs.model)
    return None if settings.init_from is None else start_of(settings, inputs.model, inputs.data)


def _totals(
    job: Job, chains: list[ChainTotals], curve: dict[str, Any] | None, start: Start | None
) -> dict[str, Any]:
    """The content of <sampler>_metrics.json."""
    steps, seconds = sum(c.steps for c in chains), sum(c.seconds for c in chains)
    before = 0 if curve is None else curve["gradient_evaluations"]
    before += 0 if start is None else start.record.gradient_evaluations
    return {
        "sampler": job.spec.name,
        "chains": len(chains),
        "steps": steps,
        "gradient_evaluations": job.gradient_evaluations + before,
        "draws": sum(c.draws for c in chains),
        "clipped_steps": sum(c.clipped for c in chains),
        "nll": sum(c.nll for c in chains) / len(chains),
        "seconds": round(seconds, 3),
        "steps_per_second": round(steps / max(seconds, 1e-9), 3),
        "peak_memory_mib": round(peak_memory_mib(), 1),
    }


def _stored_scales(run: Run, model: FunctionalModel) -> Scales:
    """What was measured before the run's first step: its coordinates φ mean nothing without."""
    stored = run.read_tensors(PRECONDITIONER)
    if stored is None:
        raise UserError(
            f"`resume`: '{run.path / PRECONDITIONER}' is missing; put it back or start a new run"
        )
    return Scales.of(stored, model.device)


def _warn_of_clipping(totals: dict[str, Any], task: str) -> None:
    """Say so where cut gradients were not the exception that they are meant to be."""
    rare = "" if TASKS[task].is_labelled else ", where many tokens are rare,"
    if totals["clipped_steps"] > MANY_CLIPPED * totals["steps"]:
        warn(
            f"the gradient was cut in {totals['clipped_steps']:,} of"
            f" {totals['steps']:,} steps: the draws are not those of the posterior; lower"
            f" `learning_rate`, raise `gradient_clip`, or{rare} raise `preconditioner_damping` to"
            " 1"
        )


def _stored_scale(run: Run) -> dict[str, Any]:
    """The λ that was chosen before the run's first step."""
    curve = run.read_json(PRIOR_SCALE)
    if not isinstance(curve.get("chosen"), float) or "gradient_evaluations" not in curve:
        raise UserError(
            f"`resume`: '{run.path / PRIOR_SCALE}' is damaged; put it back or start a new run"
        )
    return curve


def require_same_inputs(run: Run, inputs: Inputs, settings: TrainSettings) -> None:
    """Refuse to continue a run on another model, other data, or under another prior."""
    record = run.record()
    if record.model.sha256 != inputs.model.sha256:
        raise UserError(
            f"`resume`: '{inputs.model.info.name}' is not the model that the run started from (its"
            " sha256 differs); put the old one back or start a new run"
        )
    require_same_labels(record.model, inputs.model.info, str(run.path))
    if settings.prior_path is not None:
        now = fingerprint(Path(settings.prior_path))
        if record.prior.get("sha256") != now:
            raise UserError(
                f"`resume`: '{settings.prior_path}' is not the prior that the run started with (its"
                " sha256 differs); put the old one back or start a new run"
            )
    if record.data.sha256 != inputs.data["sha256"]:
        raise UserError(
            f"`resume`: the data '{inputs.data['name']}' are not those that the run started with"
            " (their sha256 differs); put the old ones back or start a new run"
        )


def _record(
    job: Job,
    chosen: Chosen[TrainSettings],
    inputs: Inputs,
    sizes: Opening,
    start: Start | None,
) -> RunRecord:
    """The content of run.json."""
    info = job.model.info
    packages = ("torch", "posteriors", "torchopt", "numpy", "safetensors", "bayesgen")
    return RunRecord(
        sampler=job.spec.name,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=sys.argv,
        settings=vars(chosen.settings),
        sources=chosen.sources,
        model=ModelRecord(
            name=info.name,
            family=info.family,
            task=info.task,
            config=dict(info.config),
            sha256=job.model.sha256,
        ),
        start=None if start is None else start.record,
        data=DataRecord(**inputs.data),
        block_size=inputs.block_size,
        num_observations=job.num_observations,
        num_parameters=job.model.num_parameters,
        num_bayesian=job.model.layout.size,
        opening=OpeningRecord(rows=sizes.rows, numbers=sizes.numbers, warnings=sizes.warnings),
        versions={"python": platform.python_version(), **{p: version(p) for p in packages}},
        machine={
            "platform": platform.platform(),
            "device": str(job.model.device),
            "threads": torch.get_num_threads(),
        },
        parameters=job.model.layout.to_json(),
        prior=job.prior.record() | _prior_file(job.settings),
    )


def _prior_file(settings: TrainSettings) -> dict[str, str]:
    """What a run keeps of the file of its prior."""
    if settings.prior_path is None:
        return {}
    return {"sha256": fingerprint(Path(settings.prior_path))}


def require_resources(name: str, settings: TrainSettings, outline: FunctionalModel) -> None:
    """Refuse what cannot fit; say what a large run needs.

    Args:
        outline: the model, or its sizes alone.
    """
    needs = estimate(name, settings, outline)
    if needs.memory >= LARGE:
        console = _console()
        console.print(f"{name} on {outline.info.name}", style="bold")
        _print_rows(console, needs.rows())
    require(needs, resolve_device(settings.device), Path(settings.out or settings.base_dir))


def _print_rows(console: Console, rows: list[tuple[str, str]]) -> None:
    for label, value in rows:
        console.print(f"  {label:<16}{value}")


def _console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def _print_opening(name: str, run: Run, sizes: Opening, words: Callable[[str], str]) -> None:
    console = _console()
    console.print(f"{name} in {run.path}", style="bold")
    known = len(sizes.needs.rows()) if sizes.needs.memory >= LARGE else 0
    _print_rows(console, sizes.rows[known:])
    for warning in sizes.warnings:
        console.print(f"  warning: {words(warning)}", style="yellow")


def peak_memory_mib() -> float:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
