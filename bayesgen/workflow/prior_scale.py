"""--prior-scale auto: λ by validation, from short runs on a grid, each scored by its mixture.

λ multiplies the covariance of a prior. What it should be depends on how much data there is and on
how far the task lies from where the prior comes from, so that it is chosen anew for each task
(Shwartz-Ziv et al. 2022, https://arxiv.org/abs/2205.10279, section 3.2).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesgen.config import PRIORS, EvalSettings, LoopSettings, TrainSettings, described
from bayesgen.config.sampling import PerExampleSettings
from bayesgen.data.windows import Rows
from bayesgen.errors import UserError, warn
from bayesgen.evaluation.walk import evenly_spaced, nll_of, progress_bar
from bayesgen.posterior import sha256
from bayesgen.predictive import Forward, Precision, scoring_precision
from bayesgen.priors.prior_file import fingerprint
from bayesgen.reports.tables import scale_table, show
from bayesgen.runs import Run
from bayesgen.runs.files import atomic_write, file_sha256, finite
from bayesgen.workflow.inputs import Inputs
from bayesgen.workflow.job import Job, chain_seed, make_job

TRIALS = "prior_scale_trials.json"
ASIDE = {*described(LoopSettings), *described(EvalSettings)} - {"eval_precision"}
"""Settings that no trial depends on, but for rounding."""
MAX_ROWS = 1000  # for validation: windows or examples, evenly spaced, that a run is scored on
MORE = 3  # λ beyond an end of the grid that are tried while the best of all lies there
FLAT = 1e-3  # a difference in NLL, in nats, that is none
DRAWS = 5  # of a Gaussian posterior, that a short run is scored by


@dataclass(frozen=True)
class Trial:
    """One λ: NLL of the mixture and of its members on validation rows, in nats per observation,
    after so many steps. A run that diverged has an infinite NLL."""

    scale: float
    steps: int
    nll: float
    mean_of_draws: float


@dataclass(frozen=True)
class Curve:
    """All of them, in the order of λ, of so many validation rows."""

    trials: tuple[Trial, ...]
    rows: int

    @property
    def best(self) -> Trial:
        return min(self.trials, key=lambda trial: trial.nll)

    @property
    def beyond(self) -> float | None:
        """The λ that lies beyond the best one, to six digits, where that is the least or the
        largest and the NLL still falls there, by more than `FLAT`; else None."""
        (first, second, *_), (*_, before, last) = self.trials, self.trials
        for end, beside in ((first, second), (last, before)):
            if self.best is end and end.nll <= beside.nll - FLAT:
                return float(f"{end.scale**2 / beside.scale:.6g}")
        return None

    def to_json(self) -> dict[str, Any]:
        return {
            "chosen": self.best.scale,
            "steps": self.trials[0].steps,
            "rows": self.rows,
            "gradient_evaluations": self.trials[0].steps * len(self.trials),
            "curve": [asdict(trial) for trial in self.trials],
        }


@dataclass
class Trials:
    """The trials of a command so far, by their λ, for when it is stopped and given again."""

    path: Path | None = None  # where they are kept, if the command names --out
    of: dict[str, Any] = field(default_factory=dict)  # all that a trial depends on, plain data
    found: dict[float, Trial] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | None, of: dict[str, Any]) -> Trials:
        """What is in `folder`, if it is of the same."""
        trials = cls(None if folder is None else Path(folder) / TRIALS, json.loads(json.dumps(of)))
        # none, or damaged: they are made again
        with suppress(OSError, ArithmeticError, ValueError, TypeError, KeyError, AttributeError):
            content = {} if trials.path is None else json.loads(trials.path.read_text())
            if content["of"] == trials.of:
                for trial in content["trials"]:  # JSON knows no infinity
                    known: Any = {k: math.inf if v is None else float(v) for k, v in trial.items()}
                    found = Trial(**known | {"steps": int(trial["steps"])})
                    trials.found[found.scale] = found
        return trials

    def keep(self, trial: Trial) -> None:
        self.found[trial.scale] = trial
        if self.path is not None:
            content = {"of": self.of, "trials": [asdict(each) for each in self.found.values()]}
            atomic_write(self.path, json.dumps(finite(content)).encode())


def tune_scale(
    make: Callable[[float], Job],
    grid: tuple[float, ...],
    rows: Rows,
    *,
    batch_size: int = 64,
    precision: Precision = "fp32",
    trials: Trials | None = None,
) -> Curve:
    """The curve of validation NLL over λ by the short runs that `make` gives: of `grid`, two λ at
    least that grow by about the same factor, and beyond its ends while they are best. What is in
    `trials` is not looked for again; new ones are added."""
    kept = trials or Trials()
    rows = rows.take(evenly_spaced(len(rows), MAX_ROWS).numpy())

    def trial(scale: float) -> Trial:
        if scale not in kept.found:
            job = make(scale)
            draws, forward = short_run(job), Forward(job.model, precision)
            found = nll_of(forward, draws, rows, batch_size)
            kept.keep(Trial(scale, job.plan.steps, *found))
            del job, draws, forward  # and the prior, before the next is made
        advance(1)
        return kept.found[scale]

    with progress_bar("choosing λ", len(grid)) as advance:
        curve = Curve(tuple(trial(scale) for scale in grid), len(rows))
        while curve.beyond is not None and len(curve.trials) < len(grid) + MORE:
            found = sorted((*curve.trials, trial(curve.beyond)), key=lambda trial: trial.scale)
            curve = replace(curve, trials=tuple(found))
    return curve


def short_run(job: Job) -> Tensor:
    """The draws [S, P] of a job's first chain, in memory; none where it diverged."""
    torch.manual_seed(chain_seed(job.settings.seed, 0))
    state, batches, draws = job.sampler.init(), job.batches(0), []
    for step in range(job.plan.steps):
        batch = {k: v.to(job.model.device) for k, v in batches.batch(step).items()}
        state, _ = job.sampler.update(state, batch)
        if bool(job.plan.collect[step]) and job.sampler.gaussian is None:
            draws.append(job.sampler.theta(state))
    if job.sampler.gaussian is not None:
        gaussian = job.sampler.gaussian(state)
        draws = [gaussian.sample() for _ in range(DRAWS)]
    found = torch.stack(draws)
    return found if bool(found.isfinite().all()) else found[:0]


def choose_scale(name: str, settings: TrainSettings, inputs: Inputs) -> dict[str, Any]:
    """Choose λ and show the curve; what a run keeps of it. Trials lie in --out, which is made."""
    if settings.out is not None:
        Run.create(Path(settings.out))
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
        PRIORS[settings.prior].scales,
        inputs.validation(),
        batch_size=settings.eval_batch_size,
        precision=scoring_precision(settings.eval_precision, inputs.model),
        trials=Trials.read(settings.out, _identity(name, settings, inputs)),
    )
    if not math.isfinite(curve.best.nll):
        raise UserError(
            "`prior_scale=auto`: the short runs of all λ diverged; lower `learning_rate`, or give"
            " λ as a number"
        )
    found = curve.to_json()
    found["gradient_evaluations"] += settings.measured_batches
    show(scale_table(found))
    if curve.beyond is not None:
        warn(
            f"the best λ, {curve.best.scale:g}, is at an end of the grid: a better one may"
            " lie beyond; try it as `prior_scale`"
        )
    return found


def _identity(name: str, settings: TrainSettings, inputs: Inputs) -> dict[str, Any]:
    """All that a trial depends on."""
    prior, model = settings.prior_path, inputs.model
    variances = Path(vars(settings).get("preconditioner", ""))
    return {
        "sampler": name,
        "settings": {k: v for k, v in vars(settings).items() if k not in ASIDE},
        "model": [model.info.sha256, dict(model.info.config), str(model.device)],
        "start": sha256(model.theta) if model.elsewhere else None,
        "data": [inputs.data, inputs.block_size],
        "prior": None if prior is None else fingerprint(Path(prior)),
        "preconditioner": file_sha256(variances) if variances.is_file() else None,
        "versions": [version(package) for package in ("bayesgen", "torch")],
    }
