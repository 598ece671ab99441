"""`bayesgen train`: sample a posterior over a model's weights, and score it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesgen.cli.options import Parser, add_flags, flag, parse
from bayesgen.config import EvalSettings, TrainSettings, described
from bayesgen.config.provenance import Chosen, combine, read_config
from bayesgen.errors import UserError, as_flags
from bayesgen.inference.registry import SAMPLERS, settings_classes
from bayesgen.tasks import TASKS
from bayesgen.workflow.memory import memory_guard

if TYPE_CHECKING:
    from bayesgen.runs import Run

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
  an encoder goes on with its pretraining on the texts of labelled data:
    python scripts/bayesian_training_script.py --task masked-lm --model models/bert \\
        --corpus ag_news --sampler swag --learning-rate 1e-4 --block-size 64 --eval
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
"""Settings that may differ when a run is resumed. (Another device does not give the same bits.)"""


@dataclass(frozen=True)
class Command:
    """A command line that was understood.

    Attributes:
        flags: what was given as a flag, by setting.
        run: the run to continue, or None for a new one.
    """

    sampler: str
    flags: dict[str, Any]
    chosen: Chosen[TrainSettings]
    run: Run | None


@dataclass(frozen=True)
class Door:
    """How this command presents itself: there are several ways in.

    Attributes:
        sampler: the only one there is here; None leaves the choice.
        defaults: that stand in the place of the sampler's own.
    """

    prog: str
    description: str
    examples: str
    sampler: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


TRAIN = Door(
    "bayesian_training_script.py",
    "Sample a posterior over a model's weights, and score it. Flags of {sampler}:",
    EXAMPLES,
)


def choose(argv: list[str], door: Door = TRAIN) -> Command:
    """Understand a command line; a run that is continued brings its own settings."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--sampler")
    first.add_argument("--resume")
    first.add_argument("--task")
    first.add_argument("--prior")
    first.add_argument("--init-from")
    early = first.parse_known_args(argv)[0]
    if door.sampler is not None and early.sampler is not None:
        raise UserError(f"--sampler has no effect here: this is always {door.sampler}")
    name = door.sampler or early.sampler or _sampler_of(early.resume) or "sghmc"
    spec = SAMPLERS[name]
    cls = spec.settings
    task = early.task if early.task in TASKS else cls.task  # an unknown one is refused below
    labelled = TASKS[task].is_labelled

    def base(given: Mapping[str, Any]) -> dict[str, Any]:
        if door.sampler is not None:
            return dict(door.defaults)
        of = {key: given.get(key) for key in ("prior", "init_from")}
        return {**spec.defaults(task, **of), **door.defaults}

    parser = Parser(
        prog=door.prog,
        description=door.description.format(sampler=f"{name} ({spec.summary})"),
        epilog=door.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if door.sampler is None:
        parser.add_argument(
            "--sampler", metavar="NAME", help=f"one of {', '.join(SAMPLERS)} (default: sghmc)"
        )
    parser.add_argument("--config", metavar="FILE", help="presets to use (default: ./config.py)")
    parser.add_argument(
        "--resume", metavar="RUN", help="continue a run's folder; auto: the newest unfinished one,"
        " or a new run where there is none",
    )  # fmt: skip
    add_flags(parser, cls, base(vars(early)))
    owners: dict[str, list[str]] = {}
    for other, settings in settings_classes().items():
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
    presets, source = read_config(flags.pop("config", None), settings_classes())
    preset = f"CONFIG_{name.upper()}" + ("_LABELLED" if labelled else "")
    config = presets.get(preset, {})
    usual = base({**config, **flags})
    chosen = combine(cls, flags, config, f"{source} {preset}", usual)
    run = _run_to_resume(name, chosen, resume)
    if run is not None:
        chosen = _resumed(run, name, flags)
    spec.validate(chosen.settings)
    for key, why in spec.without_effect(chosen.settings).items():
        if key in flags:
            raise UserError(f"{flag(key)} {why}")
    return Command(name, flags, chosen, run)


def main(argv: list[str], door: Door = TRAIN) -> int:
    command = choose(argv, door)

    from bayesgen.workflow.session import show_results, train

    with memory_guard(_less_memory(command.chosen.settings)):
        show_results(train(command.sampler, command.chosen, command.run, as_flags))
    return 0


def _less_memory(settings: TrainSettings) -> str:
    """What makes a run need less memory beside what it was given already."""
    ways = [
        ("--gradient-checkpointing", not settings.gradient_checkpointing),
        ("--precision bf16", settings.precision == "fp32"),
        ("more --gradient-accumulation", not settings.per_example),
        ("a smaller --batch-size or --block-size", True),
        ("fewer --parameters", True),
        ("a smaller --eval-batch-size", settings.eval),
    ]
    return "take " + ", ".join(way for way, helps in ways if helps)


def _sampler_of(resume: str | None) -> str | None:
    """The sampler of the run that is named by --resume."""
    if resume is None or resume == "auto":
        return None
    from bayesgen.runs import Run

    return Run.open(resume).record().sampler


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


def _resumed(run: Run, name: str, flags: dict[str, Any]) -> Chosen[TrainSettings]:
    """The run's own settings, with what may change changed.

    Raises:
        UserError: a flag contradicts the run, or another version wrote it.
    """
    record = run.record()
    if record.sampler != name:
        raise UserError(f"--sampler {name}: '{run.path}' is a run of {record.sampler}")
    cls = SAMPLERS[name].settings
    known = described(cls)
    stored: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in record.settings.items()
    }
    if stored.keys() != known.keys():
        odd = sorted(stored.keys() ^ known.keys())[0]
        raise UserError(
            f"--resume: '{run.path}' was written by another version (setting '{odd}');"
            " continue it with that version"
        )
    if "out" in flags and Path(flags["out"]).resolve() != run.path.resolve():
        raise UserError(f"--out {flags['out']}: a resumed run stays in its folder, '{run.path}'")
    for key, value in flags.items():
        if key not in CHANGEABLE and stored[key] != value:
            raise UserError(
                f"{flag(key)} {value}: '{run.path}' was started with {stored[key]}; a resumed run"
                " keeps its settings, start a new one to change them"
            )
    changed = {key: value for key, value in flags.items() if key in CHANGEABLE}
    sources = record.sources | {key: f"flag {flag(key)}" for key in changed}
    return Chosen(cls(**(stored | changed)), sources)
