"""`bayesgen train`: sample a posterior over a model's weights, and score it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesgen.cli.options import (
    Chosen,
    Parser,
    add_flags,
    combine,
    flag,
    nearest,
    parse,
    read_config,
)
from bayesgen.errors import UserError
from bayesgen.settings import SAMPLERS, EvalSettings, TrainSettings, described, validate

if TYPE_CHECKING:
    from bayesgen.runs import Run

DEFAULT_MODEL = "checkpoints/baseline/models/baseline_model_2k.pt"
EXAMPLES = """
examples:
  a posterior over the baseline's weights by SGHMC, and its perplexity:
    python scripts/bayesian_training_script.py --sampler sghmc --eval
  the last layer only, a Gaussian by Laplace, on TinyShakespeare:
    python scripts/bayesian_training_script.py --sampler laplace --parameters last-layer \\
        --corpus shakespeare --eval
  a nanoGPT checkpoint, four chains, days in tmux; the same line again after a reboot continues:
    python scripts/bayesian_training_script.py --sampler baoa --model out/ckpt.pt \\
        --corpus data/my_corpus --chains 4 --sampling-steps 1000000 --resume auto
  the flags of another sampler:
    python scripts/bayesian_training_script.py --sampler vi --help
"""
CHANGEABLE = set(described(EvalSettings)) | {
    "base_dir",
    "device",
    "out",
    "wandb",
    "checkpoint_every",
}
"""Settings that may differ when a run is resumed: none of them changes a draw."""


def choose(argv: list[str]) -> tuple[str, dict[str, Any], Chosen[TrainSettings], str | None]:
    """(sampler, flags given, settings, value of --resume) of a command line."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--sampler", default="sghmc")
    name = first.parse_known_args(argv)[0].sampler
    if name not in SAMPLERS:
        raise UserError(
            f"--sampler: unknown sampler '{name}'{nearest(name, SAMPLERS)} ({', '.join(SAMPLERS)})"
        )
    cls = SAMPLERS[name]
    parser = Parser(
        prog="bayesian_training_script.py",
        description=f"Sample a posterior over a model's weights, and score it. Flags of {name}:",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--sampler", metavar="NAME", help=f"one of {', '.join(SAMPLERS)} (default: sghmc)"
    )
    parser.add_argument("--config", metavar="FILE", help="presets to use (default: ./config.py)")
    parser.add_argument(
        "--resume", metavar="RUN", help="continue a run's folder; auto: the newest unfinished one,"
        " or a new run where there is none",
    )  # fmt: skip
    add_flags(parser, cls)
    owners: dict[str, list[str]] = {}
    for other, settings in SAMPLERS.items():
        for key in described(settings):
            owners.setdefault(key, []).append(other)
    elsewhere = {
        flag(key): f"is not a setting of {name}; it belongs to {', '.join(names)}"
        for key, names in owners.items()
        if name not in names
    }
    flags = parse(parser, argv, elsewhere)
    resume = flags.pop("resume", None)
    flags.pop("sampler", None)
    presets, source = read_config(flags.pop("config", None))
    preset = f"CONFIG_{name.upper()}"
    chosen = combine(cls, flags, presets.get(preset, {}), f"{source} {preset}")
    validate(chosen.settings)
    return name, flags, chosen, resume


def main(argv: list[str]) -> int:
    name, flags, chosen, resume = choose(argv)
    run = _run_to_resume(name, chosen, resume)
    if run is not None:
        name, chosen = _resumed(run, name, flags, explicit="--sampler" in " ".join(argv))

    from bayesgen.cli.session import train
    from bayesgen.inference.loop import Interrupted

    try:
        train(name, chosen, run)
    except Interrupted as stop:
        where = f" --resume '{run.path}'" if run else " --resume auto"
        print(f"{stop}; continue with{where}", file=sys.stderr)
        return 128 + stop.signum
    return 0


def _run_to_resume(name: str, chosen: Chosen[TrainSettings], resume: str | None) -> Run | None:
    if resume is None:
        return None
    from bayesgen.runs import Run, newest_unfinished

    if resume != "auto":
        return Run.open(resume)
    if chosen.settings.out is not None:
        out = Path(chosen.settings.out)
        return Run(out) if (out / "run.json").is_file() else None
    return newest_unfinished(Path(chosen.settings.base_dir), name)


def _resumed(
    run: Run, name: str, flags: dict[str, Any], explicit: bool
) -> tuple[str, Chosen[TrainSettings]]:
    """The run's own settings, with what may change changed.

    Raises:
        UserError: a flag contradicts the run.
    """
    record = run.read_json("run.json")
    if explicit and record["sampler"] != name:
        raise UserError(f"--sampler {name}: '{run.path}' is a run of {record['sampler']}")
    cls = SAMPLERS[record["sampler"]]
    stored = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in record["settings"].items()
    }
    for key, value in flags.items():
        if key not in CHANGEABLE and stored.get(key) != value:
            raise UserError(
                f"{flag(key)} {value}: '{run.path}' was started with {stored.get(key)}; a resumed"
                " run keeps its settings, start a new one to change them"
            )
    changed = {key: value for key, value in flags.items() if key in CHANGEABLE}
    sources = record["sources"] | {key: f"flag {flag(key)}" for key in changed}
    return record["sampler"], Chosen(cls(**(stored | changed)), sources)
