"""Priors from files: what an upstream run learned, a check before any data, and an import."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bayesgen.config import (
    CheckPriorSettings,
    EvalSettings,
    LoopSettings,
    PriorImportSettings,
    ScoringSettings,
    described,
)
from bayesgen.errors import UserError, warn
from bayesgen.evaluation.prior_predictive import PriorPredictive, prior_predictive
from bayesgen.evaluation.walk import evenly_spaced
from bayesgen.inference.sampler import Learned
from bayesgen.models import FunctionalModel
from bayesgen.priors import published
from bayesgen.priors.base import build_prior
from bayesgen.priors.learned import LearnedPrior, listed
from bayesgen.priors.prior_file import FAR, FILE, write_prior
from bayesgen.runs import Run, file_sha256
from bayesgen.workflow.inputs import model_of, read_inputs
from bayesgen.workflow.job import Job, weights_of
from bayesgen.workflow.preflight import prior_rows

ASIDE = {*described(LoopSettings), *described(EvalSettings)}
"""Settings that a prior does not depend on."""
FILES = {"mean": "mean", "variance": "variance", "deviations": "covmat", "model_file": "model"}
"""Setting -> what the name of a published file ends with, before .pt."""
NEEDED = ("mean", "variance", "deviations")


def prior_name(chain: int) -> str:
    """File of the prior that a chain learned, in the folder of its run."""
    return FILE if chain == 0 else f"prior-c{chain}.safetensors"


def keep_learned(job: Job, run: Run, chain: int, learned: Learned) -> Path:
    """Put the prior that chain `chain` learned into the folder of its run."""
    record = run.record()
    info, idle = job.model.info, {*ASIDE, *job.spec.without_effect(job.settings)}
    mean = learned.mean.cpu()
    start = job.model.loaded.cpu()
    upstream = {
        "method": learned.method,
        "task": info.task,
        "data": record.data.to_json(),
        "block_size": record.block_size,
        "num_observations": job.num_observations,
        "steps": job.plan.steps,
        "collected": learned.collected,
        "settings": {
            name: value
            for name, value in vars(job.settings).items()
            if value is not None and name not in idle
        },
        "shift": float((mean - start).norm() / start.norm()),
        "run": str(run.path),
    }
    model = {
        "name": info.name,
        "sha256": info.sha256,
        "family": info.family,
        "type": info.config.get("model_type"),
        "base": job.model.base,
    }
    prior = LearnedPrior(
        mean,
        learned.variance.cpu(),
        learned.deviations.cpu(),
        job.model.layout,
        {"model": model, "upstream": upstream},
    )
    path = run.path / prior_name(chain)
    write_prior(prior, path)
    return path


def check_prior(settings: CheckPriorSettings) -> tuple[list[str], PriorPredictive]:
    """Draw weights from the prior of `settings`, and predict validation rows by them.

    Returns:
        What was drawn from and what was predicted, in lines; and the predictions.

    Raises:
        UserError: the model, the data or the prior cannot be read, or do not go together.
    """
    model = model_of(settings)
    inputs = read_inputs(model, settings)
    rows = inputs.material(ScoringSettings(eval_splits=("val",)), None).scored["val"]
    rows = rows.take(evenly_spaced(len(rows), settings.num_samples).numpy())
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
    """`settings` with the files that `published` stands for.

    Raises:
        UserError: a setting is missing or has no effect beside the others, or a file is not there.
    """
    given = [name for name in (*FILES, "rows", "order") if getattr(settings, name) is not None]
    if settings.swag_state is not None and settings.published is not None:
        raise UserError("`published` and `swag_state`: give one of them")
    if settings.swag_state is not None and given:
        raise UserError(f"`{given[0]}` has no effect beside `swag_state`; give one of them")
    if settings.published is not None and set(given) & set(FILES):
        raise UserError(f"`{given[0]}` has no effect beside `published`, which names it")
    if settings.swag_state is None and settings.published is None:
        for name in NEEDED:
            if name not in given:
                raise UserError(
                    f"`{name}` is missing: name `mean`, `variance` and `deviations`, or"
                    " `published`, or `swag_state`"
                )
    if settings.model is None:
        raise UserError("`model` is missing: name the model that the prior was learned from")
    if settings.out is None:
        raise UserError("`out` is missing: name the file to write")
    if Path(settings.out).exists():
        raise UserError(f"`out`: '{settings.out}' is there already; name a file that is not")
    return settings if settings.published is None else _found(settings, settings.published)


def _found(settings: PriorImportSettings, stem: str) -> PriorImportSettings:
    """`settings` with the files whose path begins with `stem`, or that lie in the folder."""
    if Path(stem).is_dir():
        stems = sorted(str(p).removesuffix("_mean.pt") for p in Path(stem).glob("*_mean.pt"))
        if len(stems) != 1:
            what = "no *_mean.pt" if not stems else f"{len(stems)} priors, such as '{stems[0]}'"
            raise UserError(f"`published`: '{stem}' holds {what}; name the files up to the _")
        stem = stems[0]
    paths: dict[str, Any] = {name: f"{stem}_{end}.pt" for name, end in FILES.items()}
    if not Path(paths["model_file"]).is_file():
        paths["model_file"] = None
    for name in NEEDED:
        if not Path(paths[name]).is_file():
            raise UserError(f"`published`: no file at '{paths[name]}'")
    return replace(settings, **paths)


def import_prior(settings: PriorImportSettings, model: FunctionalModel) -> LearnedPrior:
    """The prior in the files of `settings`, of parameters of `model`.

    Raises:
        UserError: a file is damaged, or does not fit the model; or `rows` does not say whether the
            deviations are divided by √(K − 1).
    """
    read = {
        name: published.read_pt(Path(path), f"`{name}`")
        for name in (*FILES, "swag_state")
        if (path := getattr(settings, name)) is not None
    }
    files = {Path(path := getattr(settings, name)).name: file_sha256(Path(path)) for name in read}
    record: dict[str, dict[str, Any]] = {
        "model": {"name": model.info.name, "sha256": model.info.sha256},
        "upstream": {"method": "swag", "imported": files},
    }
    if settings.swag_state is not None:
        state = published.swag_state(read["swag_state"])
        record["upstream"]["collected"] = published.collected(state)
        prior = published.import_swag_state(
            state, model.module, parameters=settings.parameters, record=record
        )
        extra = published.left_out(state, prior)
        if extra:
            warn(f"left out, not among the chosen parameters: {listed(extra)}")
        return prior
    record["upstream"]["rows"] = settings.rows
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
    """Compare `rows` with what the numbers themselves say; refuse to go on without it.

    Raises:
        UserError: there are three deviations or more, and `rows` does not say whether they are
            divided.
    """
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
