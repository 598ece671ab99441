"""One training command from settings to files: load, sample, score, report."""

from __future__ import annotations

import platform
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bayesgen.config import TrainSettings
from bayesgen.config.fields import Chosen
from bayesgen.errors import Interrupted, warn
from bayesgen.models import FunctionalModel, resolve_device
from bayesgen.posterior import START, Start, stored_start
from bayesgen.priors.base import Prior
from bayesgen.priors.prior_file import fingerprint
from bayesgen.reports.tables import SUMMARY, predictor_caption, show, summary, tables_of
from bayesgen.runs import Run, Tracker, new_run_path
from bayesgen.runs.files import DataRecord, ModelRecord, OpeningRecord, RunRecord, atomic_write
from bayesgen.workflow import resuming
from bayesgen.workflow.inputs import Inputs, model_of, read_inputs
from bayesgen.workflow.job import Job, make_job
from bayesgen.workflow.loop import ChainTotals, Watch, graceful_stop, run_chain, save_models
from bayesgen.workflow.preflight import estimate, opening, require
from bayesgen.workflow.prior_scale import TRIALS, choose_scale
from bayesgen.workflow.scoring import check_draws, score_run

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
    """Load what the settings name, and run the sampler: see `run_sampler`."""
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

    `prior` stands in for the one that the settings name; warnings are put through `words`, such as
    `errors.as_flags`, before they are shown. Raises Interrupted where a signal stopped the run.
    """
    settings, model = chosen.settings, inputs.model
    auto = settings.prior_scale == "auto"
    # whatever cannot work is refused before a folder is made
    if resumed is not None:
        resuming.require_same_inputs(resumed, inputs, settings)
    material = inputs.material(settings, None) if settings.eval else None
    if resumed is not None:
        start = stored_start(resumed, model)
        curve = resuming.stored_scale(resumed) if auto else None
        scales = resuming.stored_scales(resumed, model) if settings.draws_from == "chain" else None
    else:
        start = resuming.start_of(settings, model, inputs.data)
        curve = scales = None
        if settings.out is not None:
            Run.require_free(Path(settings.out))
    if start is not None:
        model.start_at(start.theta)
    if resumed is None and auto:
        curve = choose_scale(name, settings, inputs)
    at = settings if curve is None else replace(settings, prior_scale=curve["chosen"])
    job = make_job(name, at, model, inputs.batches, scales, prior=prior)
    if settings.eval:
        check_draws(settings, job.num_draws)
    run = resumed
    if run is None:
        needs = estimate(name, settings, model)
        sizes = opening(job, needs, () if start is None else (start.row(),))
        run = Run.create(Path(settings.out or new_run_path(Path(settings.base_dir), name)))
    watch = Watch(settings, inputs)
    with run.locked():
        if resumed is None:
            if job.scales is not None:
                run.write_tensors(resuming.PRECONDITIONER, job.scales.tensors())
            if curve is not None:
                run.write_json(resuming.PRIOR_SCALE, curve)
            if start is not None:  # the run that it is of may go
                run.write_tensors(START, {"theta": start.theta})
            run.write_json("run.json", _record(job, chosen, inputs, sizes, start).to_json())
            (run.path / TRIALS).unlink(missing_ok=True)
            known = len(needs.rows()) if needs.memory >= LARGE else 0
            _print(f"{name} in {run.path}", sizes.rows[known:], map(words, sizes.warnings))
        config = run.record().settings if settings.wandb else None
        with graceful_stop() as stop, Tracker(run, config) as tracker:
            chains = [run_chain(job, run, tracker, c, stop, watch) for c in range(settings.chains)]
            if watch.every:
                save_models(run, model, settings.chains)
        totals = _totals(job, chains, curve, start)
        if totals["clipped_steps"] > MANY_CLIPPED * totals["steps"]:
            rare = "" if model.task.is_labelled else ", where many tokens are rare,"
            warn(
                f"the gradient was cut in {totals['clipped_steps']:,} of {totals['steps']:,} steps:"
                " the draws are not those of the posterior; lower `learning_rate`, raise"
                f" `gradient_clip`, or{rare} raise `preconditioner_damping` to 1"
            )
        try:
            evaluation = None if material is None else score_run(run, model, settings, material)
        except KeyboardInterrupt:
            raise Interrupted(signal.SIGINT, run.path, job.plan.steps) from None
        if curve is not None and evaluation is not None and "val" in evaluation["splits"]:
            warn(
                "the validation rows chose λ, too: for numbers to report score rows that"
                " nothing was chosen by (`eval_splits` test, or bayesgen evaluate with `text`)"
            )
        text = summary(run.record(), totals, evaluation)
        atomic_write(run.path / f"{name}_summary.txt", text.encode())
        run.write_json(f"{name}_metrics.json", totals)  # last: the run is finished
    return run


def show_results(run: Run) -> None:
    """Print what a finished run found: its newest evaluation, if it has one, and where it lies."""
    content = run.evaluation()
    if content is not None:
        first, *others = tables_of({"": content}, ("predictors", *SUMMARY))
        show(first)
        print(predictor_caption(content))
        for table in others:
            print()
            show(table)
    print(f"{len(run.draw_paths())} draws in {run.path}")


def require_resources(name: str, settings: TrainSettings, outline: FunctionalModel) -> None:
    """Refuse what cannot fit; say what a large run needs. Of the model its outline will do."""
    needs = estimate(name, settings, outline)
    if needs.memory >= LARGE:
        _print(f"{name} on {outline.info.name}", needs.rows())
    require(needs, resolve_device(settings.device), Path(settings.out or settings.base_dir))


def _print(title: str, rows: Iterable[tuple[str, str]], warnings: Iterable[str] = ()) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    console.print(title, style="bold")
    for label, value in rows:
        console.print(f"  {label:<16}{value}")
    for warning in warnings:
        console.print(f"  warning: {warning}", style="yellow")


def _totals(
    job: Job, chains: list[ChainTotals], curve: dict[str, Any] | None, start: Start | None
) -> dict[str, Any]:
    """The content of <sampler>_metrics.json."""
    steps, seconds = sum(c.steps for c in chains), sum(c.seconds for c in chains)
    before = curve["gradient_evaluations"] if curve else 0
    before += start.record.gradient_evaluations if start else 0
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


def _record(
    job: Job,
    chosen: Chosen[TrainSettings],
    inputs: Inputs,
    sizes: OpeningRecord,
    start: Start | None,
) -> RunRecord:
    """The content of run.json."""
    model, prior = job.model, job.settings.prior_path
    packages = ("torch", "posteriors", "torchopt", "numpy", "safetensors", "bayesgen")
    return RunRecord(
        sampler=job.spec.name,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=sys.argv,
        settings=vars(chosen.settings),
        sources=chosen.sources,
        model=ModelRecord(
            **vars(model.info) | {"config": dict(model.info.config), "sha256": model.sha256}
        ),
        start=None if start is None else start.record,
        data=DataRecord(**inputs.data),
        block_size=inputs.block_size,
        num_observations=job.num_observations,
        num_parameters=model.num_parameters,
        num_bayesian=model.layout.size,
        opening=sizes,
        versions={"python": platform.python_version(), **{p: version(p) for p in packages}},
        machine={
            "platform": platform.platform(),
            "device": str(model.device),
            "threads": torch.get_num_threads(),
        },
        parameters=model.layout.to_json(),
        prior=job.prior.record() | ({} if prior is None else {"sha256": fingerprint(Path(prior))}),
    )


def peak_memory_mib() -> float:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
