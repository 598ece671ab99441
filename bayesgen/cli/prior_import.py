"""`bayesgen prior import`: a prior that another program learned, with the names that it lacks."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesgen.cli.options import Parser, add_flags, flag, parse
from bayesgen.config import PriorImportSettings, check_ranges
from bayesgen.config.provenance import combine
from bayesgen.errors import UserError, warn

if TYPE_CHECKING:
    from bayesgen.models import FunctionalModel
    from bayesgen.priors.learned import LearnedPrior

EXAMPLES = """
examples:
  the published prior of a ResNet-50 (four files), for a ResNet of transformers:
    bayesgen prior import --published priors/resnet50_ssl_prior --rows divided \\
        --model microsoft/resnet-50 --parameters 'resnet.*' --out prior.safetensors
  files by their names, of an encoder with the head of masked tokens:
    bayesgen prior import --mean mean.pt --variance variance.pt --deviations covmat.pt \\
        --rows undivided --model bert-base-uncased --task masked-lm --out prior.safetensors
  the state dict of a SWAG module of swa_gaussian, of a nanoGPT:
    bayesgen prior import --swag-state swag-300.pt --model ckpt.pt --task causal-lm \\
        --out prior.safetensors

The code of the published priors makes N(μ, λ diag(v) + λ² QᵀQ + ε I) of the first rows of Q: λ
stands on the factor where √λ belongs and SWAG's ½ is missing; here it is N(μ, λ ½ (diag(v) + QᵀQ)
+ ε I) of all rows.
"""
FILES = {"mean": "mean", "variance": "variance", "deviations": "covmat", "model_file": "model"}
"""Setting -> what the name of a published file ends with, before .pt."""


def choose(argv: list[str]) -> PriorImportSettings:
    """Understand a command line; --published is put into the flags that it stands for."""
    parser = Parser(
        prog="bayesgen prior import",
        usage="bayesgen prior import (--published PATH | --mean F --variance F --deviations F |"
        " --swag-state F) --model M --out FILE [flags]",
        description="Make one prior file of those that another program left, for --prior swag."
        " Nothing in them is executed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, PriorImportSettings)
    flags = parse(parser, argv, {})
    settings = combine(PriorImportSettings, flags, {}, "", without={"model"}).settings
    check_ranges(settings)
    _refuse(settings)
    return settings if settings.published is None else _found(settings)


def _refuse(settings: PriorImportSettings) -> None:
    """Refuse flags that are missing, or have no effect beside the others."""
    given = [name for name in (*FILES, "rows", "order") if getattr(settings, name) is not None]
    if settings.swag_state is not None and settings.published is not None:
        raise UserError("--published and --swag-state: give one of them")
    if settings.swag_state is not None and given:
        raise UserError(f"{flag(given[0])} has no effect beside --swag-state; give one of them")
    if settings.published is not None and set(given) & set(FILES):
        raise UserError(f"{flag(given[0])} has no effect beside --published, which names it")
    if settings.swag_state is None and settings.published is None:
        for name in ("mean", "variance", "deviations"):
            if getattr(settings, name) is None:
                raise UserError(
                    f"{flag(name)} is missing: name --mean, --variance and --deviations, or"
                    " --published, or --swag-state"
                )
    if settings.model is None:
        raise UserError("--model is missing: name the model that the prior was learned from")
    if settings.out is None:
        raise UserError("--out is missing: name the file to write")
    if Path(settings.out).exists():
        raise UserError(f"--out: '{settings.out}' is there already; name a file that is not")


def _found(settings: PriorImportSettings) -> PriorImportSettings:
    """`settings` with the files that --published stands for.

    Raises:
        UserError: they are not there, or several priors are.
    """
    stem = str(settings.published)
    if Path(stem).is_dir():
        stems = sorted(str(p).removesuffix("_mean.pt") for p in Path(stem).glob("*_mean.pt"))
        if len(stems) != 1:
            what = "no *_mean.pt" if not stems else f"{len(stems)} priors, such as '{stems[0]}'"
            raise UserError(f"--published: '{stem}' holds {what}; name the files up to the _")
        stem = stems[0]
    paths: dict[str, Any] = {name: f"{stem}_{end}.pt" for name, end in FILES.items()}
    if not Path(paths["model_file"]).is_file():
        paths["model_file"] = None
    for name in ("mean", "variance", "deviations"):
        if not Path(paths[name]).is_file():
            raise UserError(f"--published: no file at '{paths[name]}'")
    return replace(settings, **paths)


def main(argv: list[str]) -> int:
    settings = choose(argv)

    from bayesgen.models import load_model

    model = load_model(str(settings.model), task=settings.task)
    prior = _of_state(settings, model) if settings.swag_state else _of_files(settings, model)
    out = Path(str(settings.out))
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    prior.write(out)
    print(
        f"{out}: {prior.layout.size:,} numbers in {len(prior.layout.entries)} tensors, rank"
        f" {prior.rank}, {out.stat().st_size / 2**20:.1f} MiB"
    )
    _tell_distance(prior, model)
    print(f"explained by: bayesgen prior show {out}")
    return 0


def _of_files(settings: PriorImportSettings, model: FunctionalModel) -> LearnedPrior:
    """The prior of --mean, --variance and --deviations."""
    from bayesgen.priors.foreign import read_pt
    from bayesgen.priors.published import import_published, weights_of

    names = ("mean", "variance", "deviations")
    tensors = {name: read_pt(Path(getattr(settings, name)), flag(name)) for name in names}
    weights = None
    if settings.model_file is not None:
        weights = weights_of(read_pt(Path(settings.model_file), "--model-file"), "--model-file")
    prior = import_published(
        **tensors,
        module=model.module,
        # of fewer than 3 deviations both are the same
        divided=settings.rows == "divided",
        parameters=settings.parameters,
        order=settings.order,
        weights=weights,
        record=_record(settings, model, rows=settings.rows),
    )
    _judge_rows(settings.rows, prior)
    return prior


def _of_state(settings: PriorImportSettings, model: FunctionalModel) -> LearnedPrior:
    """The prior of --swag-state."""
    from bayesgen.priors.foreign import read_pt
    from bayesgen.priors.placed import listed
    from bayesgen.priors.swag_state import collected, import_swag_state, left_out, swag_state

    state = swag_state(read_pt(Path(str(settings.swag_state)), "--swag-state"))
    prior = import_swag_state(
        state,
        model.module,
        parameters=settings.parameters,
        record=_record(settings, model, collected=collected(state)),
    )
    extra = left_out(state, prior)
    if extra:
        print(f"left out, not among the chosen parameters: {listed(extra)}", file=sys.stderr)
    return prior


def _record(
    settings: PriorImportSettings, model: FunctionalModel, **more: Any
) -> dict[str, dict[str, Any]]:
    """What the prior says of its model and its origin."""
    from bayesgen.runs import file_sha256

    named = {name: getattr(settings, name) for name in (*FILES, "swag_state")}
    files = {Path(path).name: file_sha256(Path(path)) for path in named.values() if path}
    return {
        "model": {"name": model.info.name, "sha256": model.info.sha256},
        "upstream": {"method": "swag", "imported": files, **more},
    }


def _judge_rows(rows: str | None, prior: LearnedPrior) -> None:
    """Say what the numbers themselves tell of --rows; refuse to go on without the flag.

    Raises:
        UserError: the deviations are three or more, and nobody said whether they are divided.
    """
    from bayesgen.priors.published import spread_ratio

    if prior.rank < 3:
        if rows is not None:
            raise UserError(
                f"--rows {rows}: has no effect on {prior.rank} deviations; leave the flag out"
            )
        return
    ratio = spread_ratio(prior.variance, prior.deviations)
    if ratio is None:
        told, likely = "the variances tell nothing of it", rows
    else:
        raw = ratio if rows == "divided" else ratio * (prior.rank - 1)
        told = (
            f"their squares sum to {raw:.3g} times the variances, where about 1 is expected of"
            f" divided rows and about {prior.rank - 1} of others"
        )
        likely = "divided" if raw < math.sqrt(prior.rank - 1) else "undivided"
    if rows is None:
        raise UserError(
            "--rows: say whether the deviations are divided by √(K − 1) already (divided, as by the"
            f" code of the published priors) or not (undivided); {told}"
        )
    if likely != rows:
        warn(f"--rows {rows}: {told}")


def _tell_distance(prior: LearnedPrior, model: FunctionalModel) -> None:
    """Say how far the mean lies from the model's own weights: far is another model."""
    from bayesgen.priors import FAR

    named = dict(model.module.named_parameters())
    weights = prior.layout.ravel(named)
    length = float(weights.norm())
    distance = float((prior.mean - weights).norm()) / length if length else math.inf
    print(f"the mean lies {100 * distance:.2g} % of the length of --model's weights from them")
    if distance > FAR:
        warn(
            "--model: its weights are not near the prior's mean; is it the model that the"
            " prior was learned from?"
        )
