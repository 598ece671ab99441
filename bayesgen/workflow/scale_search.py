"""--prior-scale auto: the λ of a run, from short runs that are scored on its validation data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bayesgen.config import PRIORS, EvalSettings, LoopSettings, ScoringSettings, TrainSettings
from bayesgen.errors import UserError, warn
from bayesgen.posterior.opening import sha256
from bayesgen.predictive import scoring_precision
from bayesgen.priors.prior_file import fingerprint
from bayesgen.reports.tables import scale_table, show
from bayesgen.runs import atomic_write, file_sha256, finite
from bayesgen.workflow.inputs import Inputs
from bayesgen.workflow.job import Job, make_job
from bayesgen.workflow.prior_scale import Trial, tune_scale

TRIALS = "prior_scale_trials.json"
ASIDE = {f.name for f in (*fields(LoopSettings), *fields(EvalSettings))} - {"eval_precision"}
"""Settings that no trial depends on, but for rounding."""


@dataclass
class Trials:
    """The trials of a command so far, for when it is stopped and given again.

    Attributes:
        path: where they are kept; None where the command names no --out.
        of: all that a trial depends on, plain data.
    """

    path: Path | None
    of: dict[str, Any]
    found: list[Trial] = field(default_factory=list)

    @classmethod
    def read(cls, folder: str | None, of: dict[str, Any]) -> Trials:
        """What is in `folder`, if it is of the same."""
        trials = cls(None if folder is None else Path(folder) / TRIALS, json.loads(json.dumps(of)))
        if trials.path is None:
            return trials
        try:
            content = json.loads(trials.path.read_text())
            if content["of"] == trials.of:
                trials.found = [Trial.from_json(trial) for trial in content["trials"]]
        except (OSError, ArithmeticError, ValueError, TypeError, KeyError, AttributeError):
            pass  # none, or damaged: they are made again
        return trials

    def keep(self, trial: Trial) -> None:
        self.found.append(trial)
        if self.path is None:
            return
        content = {"of": self.of, "trials": [asdict(trial) for trial in self.found]}
        atomic_write(self.path, json.dumps(finite(content)).encode())


def choose_scale(name: str, settings: TrainSettings, inputs: Inputs) -> dict[str, Any]:
    """Choose λ and show the curve; what a run keeps of it.

    Trials are kept in --out, which is there, and taken from it.

    Raises:
        UserError: every short run diverged.
    """
    rows = inputs.material(ScoringSettings(eval_splits=("val",)), None).scored["val"]
    # half a pass over the data is not half of what a pass leads to
    steps = None if settings.per_example else settings.prior_scale_steps
    moments = None

    def make(scale: float) -> Job:
        nonlocal moments
        at = replace(settings, prior_scale=scale, chains=1)
        job = make_job(name, at, inputs.model, inputs.batches, steps=steps, moments=moments)
        moments = job.moments  # of the likelihood alone: measured once
        return job

    kept = Trials.read(settings.out, _identity(name, settings, inputs))
    curve = tune_scale(
        make,
        PRIORS[settings.prior].scales,
        rows,
        batch_size=settings.eval_batch_size,
        precision=scoring_precision(settings.eval_precision, inputs.model),
        progress="choosing λ",
        known=tuple(kept.found),
        keep=kept.keep,
    )
    if not curve.best.finite:
        raise UserError(
            "`prior_scale=auto`: the short runs of all λ diverged; lower `learning_rate`, or give"
            " λ as a number"
        )
    found = curve.to_json()
    found["gradient_evaluations"] += settings.measured_batches
    show(scale_table(found))
    if curve.at_the_end:
        warn(
            f"the best λ, {curve.best.scale:g}, is at an end of the grid: a better one may"
            " lie beyond; try it as `prior_scale`"
        )
    return found


def _identity(name: str, settings: TrainSettings, inputs: Inputs) -> dict[str, Any]:
    """All that a trial depends on."""
    prior, model = settings.prior_path, inputs.model
    variances = vars(settings).get("preconditioner", "")
    return {
        "sampler": name,
        "settings": {k: v for k, v in vars(settings).items() if k not in ASIDE},
        "model": [model.info.sha256, dict(model.info.config), str(model.device)],
        "start": sha256(model.theta) if model.elsewhere else None,
        "data": [inputs.data, inputs.block_size],
        "prior": None if prior is None else fingerprint(Path(prior)),
        "preconditioner": file_sha256(Path(variances)) if Path(variances).is_file() else None,
        "versions": [version(package) for package in ("bayesgen", "torch")],
    }
