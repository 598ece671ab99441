"""Priors from files: what an upstream run learned, a check before any data, and an import."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bayesgen.config import EvalSettings, LoopSettings, described
from bayesgen.config.jobs import CheckPriorSettings, PriorImportSettings
from bayesgen.errors import UserError, warn
from bayesgen.evaluation.prior_predictive import PriorPredictive, prior_predictive
from bayesgen.inference.sampler import Learned
from bayesgen.models import FunctionalModel
from bayesgen.priors import published
from bayesgen.priors.build import FAR, build_prior
from bayesgen.priors.learned import LearnedPrior, listed
from bayesgen.priors.prior_file import FILE, write_prior
from bayesgen.runs import Run
from bayesgen.runs.files import file_sha256
from bayesgen.workflow.inputs import model_of, read_inputs
from bayesgen.workflow.job import Job, weights_of
from bayesgen.workflow.preflight import prior_rows

ASIDE = {*described(LoopSettings), *described(EvalSettings)}
"""Settings that a prior does not depend on."""
FILES = {"mean": "mean", "variance": "variance", "deviations": "covmat", "model_file": "model"}
"""Setting -> what the name of a published file ends with, before .pt."""
NEEDED = ("mean", "variance", "deviations")


def keep_learned(job: Job, run: Run, chain: int, learned: Learned) -> None:
    """Put the prior that chain `chain` learned into the folder of its run."""
    record, model = run.record(), job.model
    idle = {*ASIDE, *job.spec.without_effect(job.settings)}
    chosen = {k: v for k, v in vars(job.settings).items() if v is not None and k not in idle}
    mean, start = learned.mean.cpu(), model.loaded.cpu()
    origin = {
        "model": {
            "name": model.info.name,
            "sha256": model.info.sha256,
            "family": model.info.family,
            "type": model.info.config.get("model_type"),
            "base": model.base,
        },
        "upstream": {
            "method": learned.method,
            "task": model.info.task,
            "data": record.data.to_json(),
            "block_size": record.block_size,
            "num_observations": job.num_observations,
            "steps": job.plan.steps,
            "collected": learned.collected,
            "settings": chosen,
            "shift": float((mean - start).norm() / start.norm()),
            "run": str(run.path),
        },
    }
    variance, deviations = learned.variance.cpu(), learned.deviations.cpu()
    prior = LearnedPrior(mean, variance, deviations, model.layout, origin)
    write_prior(prior, run.path / (FILE if chain == 0 else f"prior-c{chain}.safetensors"))


def check_prior(settings: CheckPriorSettings) -> tuple[list[str], PriorPredictive]:
    """Draw weights from the prior of `settings`, and predict validation rows by them: what was
    drawn from and what was predicted, in lines; and the predictions."""
    model = model_of(settings)
    inputs = read_inputs(model, settings)
    rows = inputs.validation(settings.num_samples)
    prior = build_prior(settings, weights_of(model))
    torch.manual_seed(settings.seed)
    draws = torch.stack([prior.sample() for _ in range(settings.num_draws)])
    found = prior_predictive(model, draws, rows)
    if found.uniform is not None and not found.nll <= found.uniform:
        warn(
            f"the mixture is worse ({found.nll:.3f}) than knowing nothing ({found.uniform:.3f}):"
            " these weights are sure of what they cannot know; lower `prior_scale` (or"
            " `prior_std`), or `head_prior_std`"
        )
    size, data = model.layout.size, inputs.data["name"]
    lines = [
        f"prior: {prior.describe()}; the weights' own sd is {float(model.theta.std()):.3g}",
        f"of {size:,} parameters ({model.num_parameters - size:,} others stay)",
        *(f"{title}: {text}" for title, text in prior_rows(prior.record())),
        f"{len(draws)} draws on {rows.num_targets:,} labels of {data}'s validation",
    ]
    return lines, found


def check_files(settings: PriorImportSettings) -> PriorImportSettings:
    """`settings` with the files that `published` stands for, where all that is needed is there, and
    nothing without effect."""
    given = [name for name in (*FILES, "rows", "order") if getattr(settings, name) is not None]
    stem, state = settings.published, settings.swag_state
    if state is not None and stem is not None:
        raise UserError("`published` and `swag_state`: give one of them")
    if state is not None and given:
        raise UserError(f"`{given[0]}` has no effect beside `swag_state`; give one of them")
    if stem is not None and set(given) & set(FILES):
        raise UserError(f"`{given[0]}` has no effect beside `published`, which names it")
    missing = [name for name in NEEDED if name not in given]
    if state is None and stem is None and missing:
        raise UserError(
            f"`{missing[0]}` is missing: name `mean`, `variance` and `deviations`, or `published`,"
            " or `swag_state`"
        )
    if settings.model is None:
        raise UserError("`model` is missing: name the model that the prior was learned from")
    if settings.out is None:
        raise UserError("`out` is missing: name the file to write")
    if Path(settings.out).exists():
        raise UserError(f"`out`: '{settings.out}' is there already; name a file that is not")
    return settings if stem is None else replace(settings, **_published_files(stem))


def _published_files(stem: str) -> dict[str, Any]:
    """The files whose path begins with `stem`, or that lie in the folder."""
    if Path(stem).is_dir():
        stems = sorted(str(p).removesuffix("_mean.pt") for p in Path(stem).glob("*_mean.pt"))
        if len(stems) != 1:
            what = "no *_mean.pt" if not stems else f"{len(stems)} priors, such as '{stems[0]}'"
            raise UserError(f"`published`: '{stem}' holds {what}; name the files up to the _")
        stem = stems[0]
    paths = {name: f"{stem}_{end}.pt" for name, end in FILES.items()}
    there = {name: path for name, path in paths.items() if Path(path).is_file()}
    for name in NEEDED:
        if name not in there:
            raise UserError(f"`published`: no file at '{paths[name]}'")
    return there


def import_prior(settings: PriorImportSettings, model: FunctionalModel) -> LearnedPrior:
    """The prior in the files of `settings`, of parameters of `model`."""
    named = {name: getattr(settings, name) for name in (*FILES, "swag_state")}
    paths = {name: Path(path) for name, path in named.items() if path is not None}
    read = {name: published.read_pt(path, f"`{name}`") for name, path in paths.items()}
    imported = {path.name: file_sha256(path) for path in paths.values()}
    upstream: dict[str, Any] = {"method": "swag", "imported": imported}
    identity = {"name": model.info.name, "sha256": model.info.sha256}
    record = {"model": identity, "upstream": upstream}
    if settings.swag_state is not None:
        state = published.swag_state(read["swag_state"])
        upstream["collected"] = published.collected(state)
        prior = published.import_swag_state(
            state, model.module, parameters=settings.parameters, record=record
        )
        extra = [name for name in published.stems(state) if name not in prior.layout.names]
        if extra:
            warn(f"left out, not among the chosen parameters: {listed(extra)}")
        return prior
    upstream["rows"] = settings.rows
    weights = read.pop("model_file", None)
    prior = published.import_published(
        **read,
        module=model.module,
        divided=settings.rows == "divided",  # of fewer than 3 deviations both are the same
        parameters=settings.parameters,
        order=settings.order,
        weights=None if weights is None else published.weights_of(weights, "`model_file`"),
        record=record,
    )
    _judge_rows(settings.rows, prior)
    return prior


def _judge_rows(rows: str | None, prior: LearnedPrior) -> None:
    """Compare `rows`, whether the deviations are divided by √(K − 1), with what the numbers
    themselves say; refuse to go on without it where it makes a difference: from K = 3 on."""
    rank = prior.rank
    if rank < 3 and rows is not None:
        raise UserError(f"`rows={rows}`: has no effect on {rank} deviations; leave the setting out")
    if rank < 3:
        return
    ratio = published.spread_ratio(prior.variance, prior.deviations)
    found, likely = "the variances do not show it", rows
    if ratio is not None:
        raw = ratio if rows == "divided" else ratio * (rank - 1)
        likely = "divided" if raw < math.sqrt(rank - 1) else "undivided"
        found = (
            f"their squares sum to {raw:.3g} times the variances, where about 1 is expected of"
            f" divided rows and about {rank - 1} of others"
        )
    if rows is None:
        raise UserError(
            "`rows`: say whether the deviations are divided by √(K − 1) already (divided, as by the"
            f" code of the published priors) or not (undivided); {found}"
        )
    if likely != rows:
        warn(f"`rows={rows}`: {found}")


def distance(prior: LearnedPrior, model: FunctionalModel) -> float:
    """Of the prior's mean from the model's own weights, over the length of these; warns where it is
    that of another model."""
    weights = prior.layout.ravel(dict(model.module.named_parameters()))
    length = float(weights.norm())
    found = float((prior.mean - weights).norm()) / length if length else math.inf
    if found > FAR:
        warn(
            "`model`: its weights are not near the prior's mean; is it the model that the prior was"
            " learned from?"
        )
    return found
