"""`bayesgen evaluate`: score finished runs again, without sampling, and set them side by side."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from bayesgen.cli.options import Parser, add_flags, parse
from bayesgen.config import DataSettings, EvaluateSettings, check_ranges
from bayesgen.config.provenance import combine
from bayesgen.errors import UserError, warn
from bayesgen.tasks import TASKS

if TYPE_CHECKING:
    from bayesgen.models import FunctionalModel
    from bayesgen.runs import Run
    from bayesgen.workflow.scoring import Material

EXAMPLES = """
examples:
  a run on the validation split, every token once:
    python scripts/evaluate.py checkpoints/samplers/sghmc_sampler/run_20260101-120000
  two runs side by side, with BLEU and ROUGE of 100 continuations each:
    python scripts/evaluate.py RUN RUN --eval-num-text-samples 100
  does the posterior know what it does not know?
    python scripts/evaluate.py RUN --ood-corpus python-docs
  the same of a classifier, on texts of another kind:
    python scripts/evaluate.py RUN --ood-data sst2
  both splits, ten draws, and a text of your own:
    python scripts/evaluate.py RUN --eval-splits val train --eval-num-posterior-samples 10 \\
        --text my.txt
"""


def choose(argv: list[str]) -> tuple[list[str], EvaluateSettings]:
    """The runs that were named, and the settings."""
    parser = Parser(
        prog="evaluate.py",
        usage="evaluate.py RUN [RUN ...] [flags]",
        description="Score the draws of finished runs. What the networks said of every token is"
        " kept in the run: a second look is cheap.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs")
    add_flags(parser, EvaluateSettings)
    flags = parse(parser, argv, {})
    runs = list(flags.pop("runs"))
    # a run knows its own model: MODEL_PATH is that of new runs
    settings = combine(EvaluateSettings, flags, {}, "", without={"model"}).settings
    check_ranges(settings)
    return runs, settings


def main(argv: list[str]) -> int:
    names, settings = choose(argv)
    if len({Path(name).resolve() for name in names}) < len(names):
        raise UserError("a run is named twice; name each once")
    for name in names:
        if not (Path(name) / "run.json").is_file():
            raise UserError(f"'{name}' is not the folder of a run (it holds no run.json)")

    from bayesgen.reports.tables import TABLES, predictor_caption, show, tables_of
    from bayesgen.workflow.scoring import has_scores, score_run

    # whatever cannot be scored is refused before anything is computed
    prepared = [_prepare(name, settings) for name in names]
    real = [name for name, (_, model, _) in zip(names, prepared, strict=True) if has_scores(model)]
    if real and len(real) < len(names):
        other = next(name for name in names if name not in real)
        raise UserError(
            f"the labels of '{real[0]}' are real numbers and those of '{other}' are classes, which"
            " have no score in common: evaluate them apart"
        )
    for name, (run, *_) in zip(names, prepared, strict=True):
        if not run.finished:
            warn(
                f"the run '{name}' is not finished: its draws so far are scored; continue"
                f" it with --resume '{name}'"
            )
    contents = {
        name: score_run(run, model, settings, material)
        for name, (run, model, material) in zip(names, prepared, strict=True)
    }
    if len({content["corpus"]["sha256"] for content in contents.values()}) > 1:
        warn("the runs are of different corpora: compare within each only")
    tasks = {model.info.task for _, model, _ in prepared}
    if len(tasks) > 1 and not all(TASKS[task].is_labelled for task in tasks):
        warn(
            f"the runs are of different tasks ({', '.join(sorted(tasks))}), which have no"
            " tokens in common: compare within each only"
        )
    labels = _labels(names)
    shown = {labels[name]: content for name, content in contents.items()}
    first, *others = tables_of(shown, TABLES)
    show(first)
    for label, content in shown.items():
        print(f"{label}: {predictor_caption(content)}")
    for table in others:
        print()
        show(table)
    return 0


def _prepare(name: str, settings: EvaluateSettings) -> tuple[Run, FunctionalModel, Material]:
    """A run, its model, and what is to be scored.

    Raises:
        UserError: something is missing, or not what the run was made with.
    """
    from bayesgen.workflow.inputs import read_inputs
    from bayesgen.workflow.scoring import check_draws
    from bayesgen.workflow.sources import open_source

    source = open_source(name, model=settings.model, device=settings.device)
    assert source.run is not None
    record = source.run.record()
    stored = {f.name: record.settings.get(f.name, f.default) for f in fields(DataSettings)}
    elsewhere = {
        "data_dir": settings.data_dir or stored["data_dir"],
        "corpus": settings.corpus or stored["corpus"],
        "data": settings.data or stored["data"],
    }
    data = DataSettings(**(stored | elsewhere))
    inputs = read_inputs(source.model, data, record.block_size)
    if inputs.data["sha256"] != record.data.sha256:
        raise UserError(
            f"--corpus, --data: '{inputs.data['name']}' is not what the run '{name}' was made on"
            " (its sha256 differs)"
        )
    check_draws(settings, len(source.posterior))
    material = inputs.material(settings, settings.text)
    return source.run, source.model, material


def _labels(names: list[str]) -> dict[str, str]:
    """The shortest ends of the paths that tell the runs apart."""
    for parts in range(1, 20):
        short = {name: "/".join(Path(name).absolute().parts[-parts:]) for name in names}
        if len(set(short.values())) == len(set(names)):
            return short
    return {name: name for name in names}
