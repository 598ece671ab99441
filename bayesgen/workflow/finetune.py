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

from bayesgen.config.jobs import FinetuneSettings
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel, Head, load_model, resolve_device
from bayesgen.runs import Run, require_empty
from bayesgen.tasks import TASKS
from bayesgen.workflow.inputs import read_labelled
from bayesgen.workflow.loop import graceful_stop
from bayesgen.workflow.objectives import set_noise
from bayesgen.workflow.resuming import continued, require_same
from bayesgen.workflow.session import peak_memory_mib

RECORD = "finetune.json"
UNFINISHED = "unfinished"  # subfolder for checkpoints
CHANGEABLE = {"data", "data_dir", "device", "eval_test", "model"}
"""What may differ when a fine-tune is continued; data and model are known by their hash."""


def finetune(settings: FinetuneSettings, folder: Path, resumed: bool = False) -> dict[str, Any]:
    """Train, or continue what is unfinished in `folder`, and leave the best model there; returns
    its record. A signal is Interrupted, behind a checkpoint."""
    try:
        from bayesgen.workflow.trainer import curve, make_trainer, rows, score, train
    except ImportError as error:
        raise UserError("finetune needs transformers; pip install 'bayesgen[hf]'") from error

    device = resolve_device(settings.device)
    corpus, task = read_labelled(settings, settings.task), TASKS[settings.task]
    head = Head(settings.head_hidden_size, settings.head_activation, settings.head_dropout)
    model = load_model(
        str(settings.model),
        task=settings.task,
        num_labels=None if corpus.classes is None else len(corpus.classes),
        head=head if task.can("head") else None,
    )
    held = corpus.test if settings.eval_test else None
    if settings.eval_test and held is None:
        raise UserError(f"`eval_test`: '{settings.data}' has no test split; leave it out")
    packages = ("torch", "transformers", "accelerate", "tokenizers", "bayesgen")
    record: dict[str, Any] = {
        "settings": vars(settings),
        "model": {"name": model.info.name, "sha256": model.info.sha256},
        "data": {"name": corpus.name, **corpus.fingerprint},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
    }
    work = Run(folder / UNFINISHED)
    if resumed:
        before = work.read_json(RECORD)
        for what in ("data", "model"):
            now = record[what]
            require_same("fine-tune", what, now["name"], before[what]["sha256"], now["sha256"])
    with graceful_stop() as stop:
        trainer = make_trainer(settings, model, corpus, work.path, device, stop)
        module = trainer.model
        counts = (module.num_parameters(only_trainable=only) for only in (True, False))
        print("finetune in {}: {:,} of {:,} parameters".format(folder, *counts), file=sys.stderr)
        for data in (trainer.train_dataset, trainer.eval_dataset):
            print(f"  {data.describe()}", file=sys.stderr)
        with work.locked():
            work.write_json(RECORD, record)
            train(trainer, settings.task)
        test = None if held is None else score(trainer, rows(held, model, settings))
    table = curve(trainer.state.log_history)
    best = next(row for row in table if row["step"] == trainer.state.best_global_step)
    of_gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    record |= {
        "rows": len(trainer.train_dataset),
        "curve": table,
        "best_step": best["step"],
        "best_val_loss": best["val_loss"],
        "test": test,
        "peak_memory_mib": round(of_gpu or peak_memory_mib(), 1),
    }
    if task.labels == "number":
        record["noise_std"] = set_noise(trainer.model.config, best["val_loss"])
    _write(folder, trainer, model, record)
    return record


def new_folder(settings: FinetuneSettings) -> Path:
    """Where the result goes: a folder that must be empty or new."""
    model, data = (Path(str(p)).resolve().name for p in (settings.model, settings.data))
    usual = Path("checkpoints", "finetuned", f"{model}_{data.split('.')[0]}")
    folder = settings.base_dir / usual if settings.out is None else Path(settings.out)
    if (folder / UNFINISHED / RECORD).is_file() and not (folder / RECORD).is_file():
        raise UserError(
            f"`out`: '{folder}' holds an unfinished fine-tune; continue it with"
            f" `resume='{folder}'`, or delete it"
        )
    require_empty(folder)
    return folder


def stored_settings(folder: Path, given: Mapping[str, Any]) -> FinetuneSettings:
    """The settings of the unfinished fine-tune in `folder`, with those of `given` that may change
    changed."""
    if (folder / RECORD).is_file():
        raise UserError(f"`resume`: the fine-tune in '{folder}' is finished")
    if not (folder / UNFINISHED / RECORD).is_file():
        raise UserError(f"`resume`: no unfinished fine-tune in '{folder}'")
    stored = Run(folder / UNFINISHED).read_json(RECORD).get("settings", {})
    values = continued(FinetuneSettings, stored, given, CHANGEABLE, folder, "fine-tune")
    return FinetuneSettings(**values)


def _write(folder: Path, trainer: Any, model: FunctionalModel, record: dict[str, Any]) -> None:
    """Make `folder` what `load_model` takes (by its config.json, which comes last), and remove the
    checkpoints."""
    from bayesgen.models.hf_interface import HuggingFaceTokenizer, quiet

    staging = folder / UNFINISHED / "result"
    assert isinstance(model.tokenizer, HuggingFaceTokenizer)
    with quiet():
        trainer.model.save_pretrained(staging)
        # whoever takes the model cuts texts where it was trained to see them cut
        model.tokenizer.tokenizer.model_max_length = trainer.train_dataset.max_length
        model.tokenizer.tokenizer.save_pretrained(staging)
    Run(staging).write_json(RECORD, record)
    for file in sorted(staging.iterdir(), key=lambda file: file.name == "config.json"):
        file.replace(folder / file.name)
    shutil.rmtree(folder / UNFINISHED)
