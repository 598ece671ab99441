"""--prior-scale auto: λ by validation, from short runs on a grid, each scored by its mixture.

λ multiplies the covariance of a prior. What it should be depends on how much data there is and on
how far the task lies from where the prior comes from, so that it is chosen anew for each task
(Shwartz-Ziv et al. 2022, https://arxiv.org/abs/2205.10279, section 3.2).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesgen.config import PRIORS, EvalSettings, LoopSettings, ScoringSettings, TrainSettings
from bayesgen.data.windows import Rows
from bayesgen.errors import UserError, warn
from bayesgen.evaluation.walk import evenly_spaced, nll_of, progress_bar
from bayesgen.posterior.opening import sha256
from bayesgen.predictive import Forward, Precision, scoring_precision
from bayesgen.priors.prior_file import fingerprint
from bayesgen.reports.tables import scale_table, show
from bayesgen.runs import atomic_write, file_sha256, finite
from bayesgen.workflow.inputs import Inputs
from bayesgen.workflow.job import Job, chain_seed, make_job

TRIALS = "prior_scale_trials.json"
ASIDE = {f.name for f in (*fields(LoopSettings), *fields(EvalSettings))} - {"eval_precision"}
"""Settings that no trial depends on, but for rounding."""
MAX_ROWS = 1000
"""Validation rows (windows or examples) that a short run is scored on, evenly spaced."""
MORE = 3
"""λ beyond an end of the grid that are tried while the best of all lies there."""
FLAT = 1e-3
"""A difference in NLL, in nats, that is none."""
DRAWS = 5
"""Draws of a Gaussian posterior that a short run is scored by."""


@dataclass(frozen=True)
class Trial:
    """One λ: NLL of the mixture and of its members on validation rows, in nats per observation,
    after so many steps.

    A run that diverged has an infinite NLL.
    """

    scale: float
    steps: int
    nll: float
    mean_of_draws: float

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Trial:
        """Of what `dataclasses.asdict` and JSON made, which knows no infinity.

        Raises:
            ArithmeticError, AttributeError, KeyError, TypeError, ValueError: it is something else.
        """
        numbers = {k: math.inf if v is None else float(v) for k, v in content.items()}
        return cls(steps=int(numbers.pop("steps")), **numbers)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.nll)


@dataclass(frozen=True)
class Curve:
    """All of them, in the order of λ."""

    trials: tuple[Trial, ...]
    rows: int

    @property
    def steps(self) -> int:
        """Of each."""
        return self.trials[0].steps

    @property
    def best(self) -> Trial:
        return min(self.trials, key=lambda trial: trial.nll)

    @property
    def at_the_end(self) -> bool:
        """Whether the NLL still falls at the least or largest λ, so that a better may lie outside:
        by more than `FLAT` from the λ beside it."""
        first, second, *_ = self.trials
        *_, last_but_one, last = self.trials
        return any(
            self.best is end and not end.nll > beside.nll - FLAT
            for end, beside in ((first, second), (last, last_but_one))
        )

    @property
    def gradient_evaluations(self) -> int:
        return self.steps * len(self.trials)

    def to_json(self) -> dict[str, Any]:
        return {
            "chosen": self.best.scale,
            "steps": self.steps,
            "rows": self.rows,
            "gradient_evaluations": self.gradient_evaluations,
            "curve": [asdict(trial) for trial in self.trials],
        }


def tune_scale(
    make: Callable[[float], Job],
    grid: tuple[float, ...],
    rows: Rows,
    *,
    batch_size: int = 64,
    precision: Precision = "fp32",
    progress: str | None = None,
    known: Sequence[Trial] = (),
    keep: Callable[[Trial], None] = lambda trial: None,
) -> Curve:
    """The curve of validation NLL over λ: of a grid, and beyond its ends while they are best.

    Args:
        grid: increasing, by about the same factor; two λ at least.
        make: the short run at a λ.
        rows: validation windows or examples.
        known: what was found before, and is not looked for again.
        keep: is handed every new trial.
    """
    before = {trial.scale: trial for trial in known}
    rows = rows.take(evenly_spaced(len(rows), MAX_ROWS).numpy())

    def trial(scale: float) -> Trial:
        if scale not in before:
            job = make(scale)
            draws, forward = short_run(job), Forward(job.model, precision)
            found = nll_of(forward, job.model.likelihood, draws, rows, batch_size)
            before[scale] = Trial(scale, job.plan.steps, *found)
            keep(before[scale])
            del job, draws, forward  # and the prior, before the next is made
        advance(1)
        return before[scale]

    with progress_bar(progress, len(grid)) as advance:
        curve = Curve(tuple(trial(scale) for scale in grid), len(rows))
        while curve.at_the_end and len(curve.trials) < len(grid) + MORE:
            first, second, *_ = curve.trials
            *_, last_but_one, last = curve.trials
            if curve.best is first:
                beyond = trial(_round(first.scale**2 / second.scale))
                curve = replace(curve, trials=(beyond, *curve.trials))
            else:
                beyond = trial(_round(last.scale**2 / last_but_one.scale))
                curve = replace(curve, trials=(*curve.trials, beyond))
    return curve


def _round(scale: float) -> float:
    """To six digits: a λ that people can type."""
    return float(f"{scale:.6g}")


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
