"""`bayesgen finetune`: the deterministic fine-tune that posteriors start from."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesgen.cli.options import Parser, add_flags, flag, parse
from bayesgen.config import FinetuneSettings, check_ranges, described
from bayesgen.config.provenance import combine
from bayesgen.errors import UserError
from bayesgen.tasks import TASKS, tasks_that
from bayesgen.workflow.memory import memory_guard

if TYPE_CHECKING:
    import torch

    from bayesgen.data.labelled import LabelledCorpus
    from bayesgen.models import FunctionalModel

EXAMPLES = """
examples:
  an encoder on AG News, stopped when the validation loss rises, scored on the test file:
    python scripts/finetune.py --model models/all-MiniLM-L6-v2 --data ag_news --max-length 64 \\
        --num-train-epochs 5 --early-stopping-patience 1 --eval-test
  a score for each pair of sentences:
    python scripts/finetune.py --model models/all-MiniLM-L6-v2 --data stsb --task regression
  one embedding for each text, a head with a layer of 25 on top, the encoder as it is (each text
  is read once, and never again for any other head):
    python scripts/finetune.py --model models/all-MiniLM-L6-v2 --data imdb --max-length 256 \\
        --task sentence-classification --head-hidden-size 25 --freeze 'encoder.*' \\
        --learning-rate 1e-3
  how alike two texts are, by the cosine of their embeddings:
    python scripts/finetune.py --model models/all-MiniLM-L6-v2 --data stsb \\
        --task sentence-similarity
  your own rows, a rare class, the embeddings as they are:
    python scripts/finetune.py --model MODEL --data mails.csv --class-weights balanced \\
        --freeze '*embeddings*'
  one that was killed:
    python scripts/finetune.py --resume checkpoints/finetuned/all-MiniLM-L6-v2_ag_news
"""

RECORD = "finetune.json"

UNFINISHED = "unfinished"
"""Subfolder of the result in which checkpoints live until the result is there."""

CHANGEABLE = {"data", "data_dir", "device", "eval_test", "model"}
"""What may be different where a fine-tune is continued; data and model are known by their hash."""

CLASSIFIERS_ONLY = ("class_weights", "label_smoothing_factor")
HEADS_ONLY = ("head_hidden_size", "head_activation", "head_dropout")


@dataclass(frozen=True)
class Command:
    """A command line, understood; `resumed` says that `folder` holds an unfinished fine-tune."""

    settings: FinetuneSettings
    folder: Path
    resumed: bool


def choose(argv: list[str]) -> Command:
    """Understand a command line; a fine-tune that is continued brings its own settings."""
    parser = Parser(
        prog="finetune.py",
        description="Fine-tune a pretrained model on labelled texts with transformers' Trainer: the"
        " best checkpoint by validation loss, in a folder that --model takes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--resume", metavar="FOLDER", help="continue the one in this result folder")
    add_flags(parser, FinetuneSettings)
    flags = parse(parser, argv, {})
    resume = flags.pop("resume", None)
    if resume is None:
        settings = combine(FinetuneSettings, flags, {}, "").settings
        _refuse(settings, flags)
        return Command(settings, _new_folder(settings), resumed=False)
    settings = _stored(Path(resume), flags)
    _refuse(settings, flags)
    return Command(settings, Path(resume), resumed=True)


def main(argv: list[str]) -> int:
    command = choose(argv)
    with memory_guard(_less_memory(command.settings)):
        run(command)
    return 0


def _less_memory(settings: FinetuneSettings) -> str:
    """What makes a fine-tune need less memory beside what it was given already."""
    ways = [
        ("--gradient-checkpointing", not settings.gradient_checkpointing),
        ("--bf16", not settings.bf16),
        ("a smaller --per-device-train-batch-size with more --gradient-accumulation-steps", True),
        ("a smaller --max-length or --per-device-eval-batch-size", True),
        ("--freeze", True),
    ]
    return "take " + ", ".join(way for way, helps in ways if helps)


def run(command: Command) -> None:
    """Train, or continue, and leave the result in the command's folder.

    Raises:
        UserError: something that the user can put right.
        Interrupted: a signal stopped it; a checkpoint was written.
    """
    try:
        from bayesgen.workflow.finetune import curve, make_trainer, rows, score, set_noise, train
    except ImportError as error:
        raise UserError("finetune needs transformers; pip install 'bayesgen[hf]'") from error
    from bayesgen.models.device import resolve_device
    from bayesgen.runs import Run
    from bayesgen.workflow.loop import graceful_stop

    began = time.monotonic()
    settings, folder = command.settings, command.folder
    device = resolve_device(settings.device)
    corpus, model = _load(settings)
    if settings.eval_test and corpus.test is None:
        raise UserError(f"--eval-test: '{settings.data}' has no test split; leave the flag out")
    work = Run(folder / UNFINISHED)
    record = _record(settings, corpus, model)
    if command.resumed:
        _same_inputs(work.read_json(RECORD), record)
    with graceful_stop() as stop:
        trainer = make_trainer(settings, model, corpus, work.path, device, stop)
        _open(folder, trainer)
        with work.locked():
            work.write_json(RECORD, record)
            train(trainer, settings.task)
        test = None
        if settings.eval_test and corpus.test is not None:
            test = score(trainer, rows(corpus.test, model, settings))
    table = curve(trainer.state.log_history)
    best = next(row for row in table if row["step"] == trainer.state.best_global_step)
    record |= {
        "rows": len(trainer.train_dataset),
        "curve": table,
        "best_step": best["step"],
        "best_val_loss": best["val_loss"],
        "test": test,
        "peak_memory_mib": round(_peak_memory_mib(device), 1),
    }
    if TASKS[settings.task].labels == "number":
        record["noise_std"] = set_noise(trainer.model.config, best["val_loss"])
    _write(folder, trainer, model, record)
    _show(record)
    print(
        f"{folder}: step {best['step']}, validation loss {best['val_loss']:.4f}, peak memory"
        f" {record['peak_memory_mib']:.0f} MiB ({time.monotonic() - began:.0f} s)"
    )


def _refuse(settings: FinetuneSettings, flags: dict[str, Any]) -> None:
    """Refuse settings that are missing, out of range, or without effect beside the others."""
    check_ranges(settings)
    for name, example in (("model", "the folder of a pretrained model"), ("data", "ag_news")):
        if getattr(settings, name) is None:
            raise UserError(f"{flag(name)} is missing: name {example}")
    if "max_steps" in flags and "num_train_epochs" in flags:
        raise UserError("--max-steps stands in the place of --num-train-epochs: give one of them")
    if settings.lr_scheduler_type == "constant" and "warmup_steps" in flags:
        raise UserError("--warmup-steps needs another --lr-scheduler-type than constant")
    idle: dict[str, str] = {}
    if TASKS[settings.task].labels == "number":
        idle |= dict.fromkeys(CLASSIFIERS_ONLY, " or ".join(tasks_that("finetune", "class")))
    if not TASKS[settings.task].can("head"):
        idle |= dict.fromkeys(HEADS_ONLY, " or ".join(tasks_that("head")))
    for name, task in idle.items():
        if getattr(settings, name) != described(FinetuneSettings)[name].default:
            raise UserError(f"{flag(name)} needs --task {task}")
    if settings.head_activation is not None and not settings.head_hidden_size:
        raise UserError("--head-activation needs a --head-hidden-size above 0")


def _new_folder(settings: FinetuneSettings) -> Path:
    """Where the result goes: a folder that is empty or not there yet."""
    if settings.out is not None:
        folder = Path(settings.out)
    else:
        model, data = (Path(str(p)).resolve().name for p in (settings.model, settings.data))
        name = f"{model}_{data.split('.')[0]}"
        folder = Path(settings.base_dir) / "checkpoints" / "finetuned" / name
    if (folder / UNFINISHED / RECORD).is_file() and not (folder / RECORD).is_file():
        raise UserError(
            f"--out: '{folder}' holds an unfinished fine-tune; continue it with --resume"
            f" '{folder}', or delete it"
        )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f"--out: '{folder}' is there already; name a folder that is empty or new, or delete it"
        )
    return folder


def _stored(folder: Path, flags: dict[str, Any]) -> FinetuneSettings:
    """The settings of the unfinished fine-tune in `folder`, with what may change changed.

    Raises:
        UserError: there is none, a flag contradicts it, or another version wrote it.
    """
    from bayesgen.runs import Run

    if (folder / RECORD).is_file():
        raise UserError(f"--resume: the fine-tune in '{folder}' is finished")
    if not (folder / UNFINISHED / RECORD).is_file():
        raise UserError(f"--resume: no unfinished fine-tune in '{folder}'")
    stored = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in Run(folder / UNFINISHED).read_json(RECORD).get("settings", {}).items()
    }
    known = described(FinetuneSettings)
    if stored.keys() != known.keys():
        odd = min(stored.keys() ^ known.keys())
        raise UserError(
            f"--resume: '{folder}' was written by another version (setting '{odd}'); continue it"
            " with that version"
        )
    for key, value in flags.items():
        if key not in CHANGEABLE and stored[key] != value:
            raise UserError(
                f"{flag(key)} {value}: '{folder}' was started with {stored[key]}; a resumed"
                " fine-tune keeps its settings, start a new one to change them"
            )
    return FinetuneSettings(**(stored | flags))


def _load(settings: FinetuneSettings) -> tuple[LabelledCorpus, FunctionalModel]:
    """The data, and the model with a head for their classes."""
    from bayesgen.data.labelled import load_labelled
    from bayesgen.models import Head, load_model

    corpus = load_labelled(
        str(settings.data),
        task=settings.task,
        data_dir=Path(settings.data_dir) if settings.data_dir else None,
        validation=settings.validation,
        text_column=settings.text_column,
        label_column=settings.label_column,
        pair_column=settings.pair_column,
    )
    labels = None if corpus.classes is None else len(corpus.classes)
    head = Head(settings.head_hidden_size, settings.head_activation, settings.head_dropout)
    model = load_model(
        str(settings.model),
        task=settings.task,
        num_labels=labels,
        head=head if TASKS[settings.task].can("head") else None,
    )
    return corpus, model


def _record(
    settings: FinetuneSettings, corpus: LabelledCorpus, model: FunctionalModel
) -> dict[str, Any]:
    """What finetune.json holds from the start."""
    import platform
    from importlib.metadata import version

    packages = ("torch", "transformers", "accelerate", "tokenizers", "bayesgen")
    return {
        "settings": vars(settings),
        "model": {"name": model.info.name, "sha256": model.info.sha256},
        "data": {"name": corpus.name, **corpus.fingerprint},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
    }


def _same_inputs(stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to continue with other data or another model."""
    for key in ("data", "model"):
        if stored[key]["sha256"] != now[key]["sha256"]:
            raise UserError(
                f"{flag(key)}: '{now[key]['name']}' is not what the fine-tune was started with (its"
                " sha256 differs); put that one back, or start a new one"
            )


def _open(folder: Path, trainer: Any) -> None:
    """Say what is about to be trained on what."""
    sizes = [
        sum(p.numel() for p in trainer.model.parameters() if p.requires_grad or frozen_too)
        for frozen_too in (False, True)
    ]
    print(f"finetune in {folder}: {sizes[0]:,} of {sizes[1]:,} parameters", file=sys.stderr)
    for data in (trainer.train_dataset, trainer.eval_dataset):
        print(f"  {data.examples.describe()}", file=sys.stderr)


def _write(folder: Path, trainer: Any, model: FunctionalModel, record: dict[str, Any]) -> None:
    """Make `folder` what `load_model` takes, and clean up.

    Its config.json comes last: before, the folder is no model.
    """
    from bayesgen.models.hf_tokenizer import HuggingFaceTokenizer
    from bayesgen.models.logging import quiet
    from bayesgen.runs import Run

    staging = folder / UNFINISHED / "result"
    assert isinstance(model.tokenizer, HuggingFaceTokenizer)
    with quiet():
        trainer.model.save_pretrained(staging)
        # whoever takes the model cuts texts where it was trained to see them cut
        model.tokenizer.tokenizer.model_max_length = trainer.train_dataset.examples.max_length
        model.tokenizer.tokenizer.save_pretrained(staging)
    Run(staging).write_json(RECORD, record)
    for file in sorted(staging.iterdir(), key=lambda file: file.name == "config.json"):
        file.replace(folder / file.name)
    shutil.rmtree(folder / UNFINISHED)


def _peak_memory_mib(device: torch.device) -> float:
    """Of the GPU if there is one, else of this process."""
    import torch

    from bayesgen.workflow.session import peak_memory_mib

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory_mib()


def _show(record: dict[str, Any]) -> None:
    """A row for each evaluation, the best in bold, and one for the test split."""
    from rich import box
    from rich.table import Table

    from bayesgen.reports.tables import show

    curve = record["curve"]
    scores = [name for name in curve[0] if name not in {"step", "epoch", "train_loss", "val_loss"}]
    table = Table(box=box.SIMPLE)
    for name in ("epoch", "train loss", "validation loss", *scores):
        table.add_column(name.replace("_", " "), justify="right")
    for row in curve:
        table.add_row(
            f"{row['epoch']:.4g}",
            *(_number(row[name]) for name in ("train_loss", "val_loss", *scores)),
            style="bold" if row["step"] == record["best_step"] else "",
        )
    if record["test"]:
        test = record["test"]
        table.add_section()
        table.add_row("test", "", *(_number(test[name]) for name in ("loss", *scores)))
    show(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
