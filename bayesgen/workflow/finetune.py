"""A fine-tune from settings to a folder that `load_model` takes, continued after a kill.

The folder holds checkpoints in a subfolder until the result is there; `workflow.trainer` trains.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bayesgen.config import FinetuneSettings
from bayesgen.data.labelled import LabelledCorpus
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel, Head, load_model, resolve_device
from bayesgen.runs import Run
from bayesgen.tasks import TASKS
from bayesgen.workflow.inputs import read_labelled
from bayesgen.workflow.loop import graceful_stop
from bayesgen.workflow.objectives import set_noise
from bayesgen.workflow.resuming import continued
from bayesgen.workflow.session import peak_memory_mib

RECORD = "finetune.json"

UNFINISHED = "unfinished"
"""Subfolder of the result in which checkpoints lie until the result is there."""

CHANGEABLE = {"data", "data_dir", "device", "eval_test", "model"}
"""What may differ when a fine-tune is continued; data and model are known by their hash."""


def finetune(settings: FinetuneSettings, folder: Path, resumed: bool = False) -> dict[str, Any]:
    """Train, or continue, and leave the best model in `folder`; returns its record.

    Args:
        resumed: whether `folder` holds an unfinished fine-tune of these settings.

    Raises:
        UserError: something that the user can put right.
        Interrupted: a signal stopped it; a checkpoint was written.
    """
    try:
        from bayesgen.workflow.trainer import curve, make_trainer, rows, score, train
    except ImportError as error:
        raise UserError("finetune needs transformers; pip install 'bayesgen[hf]'") from error

    device = resolve_device(settings.device)
    corpus, model = _load(settings)
    if settings.eval_test and corpus.test is None:
        raise UserError(f"`eval_test`: '{settings.data}' has no test split; leave it out")
    work = Run(folder / UNFINISHED)
    record = _record(settings, corpus, model)
    if resumed:
        _same_inputs(work.read_json(RECORD), record)
    with graceful_stop() as stop:
        trainer = make_trainer(settings, model, corpus, work.path, device, stop)
        _announce(folder, trainer)
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
    return record


def new_folder(settings: FinetuneSettings) -> Path:
    """Where the result goes: a folder that is empty or not there yet.

    Raises:
        UserError: it holds something.
    """
    if settings.out is not None:
        folder = Path(settings.out)
    else:
        model, data = (Path(str(p)).resolve().name for p in (settings.model, settings.data))
        name = f"{model}_{data.split('.')[0]}"
        folder = Path(settings.base_dir) / "checkpoints" / "finetuned" / name
    if (folder / UNFINISHED / RECORD).is_file() and not (folder / RECORD).is_file():
        raise UserError(
            f"`out`: '{folder}' holds an unfinished fine-tune; continue it with"
            f" `resume='{folder}'`, or delete it"
        )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f"`out`: '{folder}' already exists; name a folder that is empty or new, or delete it"
        )
    return folder


def stored_settings(folder: Path, given: Mapping[str, Any]) -> FinetuneSettings:
    """The settings of the unfinished fine-tune in `folder`, with what may change changed.

    Raises:
        UserError: there is none, one of `given` contradicts it, or another version wrote it.
    """
    if (folder / RECORD).is_file():
        raise UserError(f"`resume`: the fine-tune in '{folder}' is finished")
    if not (folder / UNFINISHED / RECORD).is_file():
        raise UserError(f"`resume`: no unfinished fine-tune in '{folder}'")
    stored = Run(folder / UNFINISHED).read_json(RECORD).get("settings", {})
    values = continued(FinetuneSettings, stored, given, CHANGEABLE, folder, "fine-tune")
    return FinetuneSettings(**values)


def _load(settings: FinetuneSettings) -> tuple[LabelledCorpus, FunctionalModel]:
    """The data, and the model with a head for their classes."""
    corpus = read_labelled(settings, settings.task)
    head = Head(settings.head_hidden_size, settings.head_activation, settings.head_dropout)
    model = load_model(
        str(settings.model),
        task=settings.task,
        num_labels=None if corpus.classes is None else len(corpus.classes),
        head=head if settings.task == "sentence-classification" else None,
    )
    return corpus, model


def _record(
    settings: FinetuneSettings, corpus: LabelledCorpus, model: FunctionalModel
) -> dict[str, Any]:
    """What finetune.json holds from the start."""
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
                f"`{key}`: '{now[key]['name']}' is not what the fine-tune was started with (its"
                " sha256 differs); put that one back, or start a new one"
            )


def _announce(folder: Path, trainer: Any) -> None:
    """Say what is about to be trained, and on what."""
    sizes = [
        sum(p.numel() for p in trainer.model.parameters() if p.requires_grad or frozen_too)
        for frozen_too in (False, True)
    ]
    print(f"finetune in {folder}: {sizes[0]:,} of {sizes[1]:,} parameters", file=sys.stderr)
    for data in (trainer.train_dataset, trainer.eval_dataset):
        print(f"  {data.examples.describe()}", file=sys.stderr)


def _write(folder: Path, trainer: Any, model: FunctionalModel, record: dict[str, Any]) -> None:
    """Make `folder` what `load_model` takes, and remove the checkpoints.

    Its config.json comes last: before, the folder is no model.
    """
    from bayesgen.models.hf_interface import HuggingFaceTokenizer, quiet

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
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory_mib()
