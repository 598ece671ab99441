"""--prior-scale auto: the λ of a run, from short runs that are scored on its validation data."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from bayesgen.cli.inputs import Inputs
from bayesgen.errors import UserError
from bayesgen.evaluation.prior_scale import GRIDS, tune_scale
from bayesgen.inference.job import Job, make_job
from bayesgen.predictive.mixture import scoring_precision
from bayesgen.reports.tables import scale_table, show
from bayesgen.samplers.preconditioning import needs_pass
from bayesgen.settings import ChainSettings, PerExampleSettings, ScoringSettings, TrainSettings


def choose_scale(name: str, settings: TrainSettings, inputs: Inputs) -> dict[str, Any]:
    """Choose λ and show the curve; what a run keeps of it.

    Raises:
        UserError: every short run diverged.
    """
    rows = inputs.material(ScoringSettings(eval_splits=("val",)), None).scored["val"]
    # half a pass over the data is not half of what a pass leads to
    steps = None if isinstance(settings, PerExampleSettings) else settings.prior_scale_steps
    moments = None

    def make(scale: float) -> Job:
        nonlocal moments
        at = replace(settings, prior_scale=scale, chains=1)
        job = make_job(name, at, inputs.model, inputs.batches, steps=steps, moments=moments)
        moments = job.moments  # of the likelihood alone: measured once
        return job

    curve = tune_scale(
        make,
        GRIDS[settings.prior],
        rows,
        batch_size=settings.eval_batch_size,
        precision=scoring_precision(settings.eval_precision, inputs.model),
        progress="--prior-scale auto",
    )
    if not curve.best.finite:
        raise UserError(
            "--prior-scale auto: the short runs of all λ diverged; lower --learning-rate, or give"
            " λ as a number"
        )
    found = curve.to_json()
    if isinstance(settings, ChainSettings) and needs_pass(settings):
        found["gradient_evaluations"] += settings.preconditioner_batches
    show(scale_table(found))
    if curve.at_the_end:
        print(
            f"warning: the best λ, {curve.best.scale:g}, is at an end of the grid: a better one may"
            " lie beyond; try it as --prior-scale",
            file=sys.stderr,
        )
    return found
