"""`bayesgen finetune`: the deterministic fine-tune that posteriors start from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bayesgen.cli.command import Command, Given, Word, typed
from bayesgen.config.jobs import FinetuneSettings
from bayesgen.errors import memory_guard


def _run(given: Given[FinetuneSettings]) -> str:
    settings, resume = given.settings, given.words.get("resume")
    if resume is None:
        settings.validate(given.flags)

    from bayesgen.workflow.finetune import finetune, new_folder, stored_settings

    folder = new_folder(settings) if resume is None else Path(resume)
    if resume is not None:
        settings = stored_settings(folder, given.flags)
        settings.validate(given.flags)
    began = time.monotonic()
    with memory_guard(_less_memory(settings)):
        record = finetune(settings, folder, resumed=resume is not None)
    _show(record)
    print(
        f"{folder}: step {record['best_step']}, validation loss {record['best_val_loss']:.4f}, peak"
        f" memory {record['peak_memory_mib']:.0f} MiB ({time.monotonic() - began:.0f} s)"
    )
    return typed(
        "train", "--task", settings.task, "--model", folder, "--data", settings.data, "--eval"
    )


def _less_memory(settings: FinetuneSettings) -> str:
    """What makes a fine-tune need less memory beside what it was given already."""
    switches = ("gradient_checkpointing", "bf16")
    ways = [f"`{name}`" for name in switches if not getattr(settings, name)]
    ways += [
        "a smaller `per_device_train_batch_size` with more `gradient_accumulation_steps`",
        "a smaller `max_length` or `per_device_eval_batch_size`",
        "`freeze`",
    ]
    return f"take {', '.join(ways)}"


def _show(record: dict[str, Any]) -> None:
    """A row for each evaluation, the best in bold, and one for the test split."""
    from rich import box
    from rich.table import Table

    from bayesgen.reports.tables import show

    def cells(found: dict[str, float | None], loss: str) -> list[str]:
        values = (found[name] for name in (loss, *scores))
        return ["-" if value is None else f"{value:.4f}" for value in values]

    curve, test = record["curve"], record["test"]
    scores = [name for name in curve[0] if name not in {"step", "epoch", "train_loss", "val_loss"}]
    table = Table(box=box.SIMPLE)
    for name in ("epoch", "train loss", "validation loss", *scores):
        table.add_column(name.replace("_", " "), justify="right")
    for row in curve:
        style = "bold" if row["step"] == record["best_step"] else ""
        numbers = f"{row['epoch']:.4g}", f"{row['train_loss']:.4f}", *cells(row, "val_loss")
        table.add_row(*numbers, style=style)
    if test:
        table.add_section()
        table.add_row("test", "", *cells(test, "loss"))
    show(table)


COMMAND = Command(
    name="finetune",
    description="Fine-tune a pretrained model on labelled texts with transformers' Trainer: the"
    " best checkpoint by validation loss, in a folder that --model takes.",
    settings=FinetuneSettings,
    run=_run,
    words={"--resume": Word("FOLDER", "continue the one in this result folder", "training")},
    examples="""
# an encoder on AG News, stopped when the validation loss rises, scored on the test file
bayesgen finetune --model models/all-MiniLM-L6-v2 --data ag_news --max-length 64 \\
    --num-train-epochs 5 --early-stopping-patience 1 --eval-test
# how alike two texts are, by the cosine of their embeddings
bayesgen finetune --model models/all-MiniLM-L6-v2 --data stsb --task sentence-similarity
# embeddings of a frozen encoder, read once, and a head with a layer of 25 on top
bayesgen finetune --model models/all-MiniLM-L6-v2 --data imdb --max-length 256 \\
    --task sentence-classification --head-hidden-size 25 --freeze 'encoder.*' \\
    --learning-rate 1e-3
# your own rows, a rare class, the embeddings as they are
bayesgen finetune --model MODEL --data mails.csv --class-weights balanced --freeze '*embeddings*'
""",
)
