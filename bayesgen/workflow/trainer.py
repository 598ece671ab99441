"""The deterministic fine-tune that posteriors start from, by transformers' `Trainer`.

The loop, the optimizer (AdamW, without decay on norms and biases), the schedule, early stopping and
checkpoints are Trainer's. Here are the rows that it gets, and a checkpoint at every evaluation,
from which a killed fine-tune continues to the same weights.
"""

from __future__ import annotations

import fnmatch
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from bayesgen.config.jobs import FinetuneSettings
from bayesgen.data.examples import Embedded, Examples
from bayesgen.data.labelled import Labelled, LabelledCorpus
from bayesgen.errors import Interrupted, UserError
from bayesgen.evaluation.walk import new_bar
from bayesgen.models import FunctionalModel, load_model
from bayesgen.models.hf_interface import quiet
from bayesgen.models.sentence import embedded, frozen_encoder
from bayesgen.tasks import TASKS
from bayesgen.workflow.inputs import DEFAULT_EXAMPLE, window_length
from bayesgen.workflow.loop import StopRequest
from bayesgen.workflow.objectives import Scores, objective

SAME_NAME = (
    "learning_rate", "num_train_epochs", "per_device_train_batch_size",
    "per_device_eval_batch_size", "gradient_accumulation_steps", "warmup_steps",
    "lr_scheduler_type", "weight_decay", "max_grad_norm", "bf16", "seed",
)  # fmt: skip
"""Settings that go to TrainingArguments as they are."""
CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
"""What TrainingArguments calls `gradient_checkpointing`; the second name is the older one."""
SCORES = ("accuracy", "macro_f1", "spearman", "pearson")
LOG_EVERY = 10
"""Optimizer steps between losses on the bar, and between checks that they are finite."""


class Flow(TrainerCallback):  # type: ignore[misc]
    """A loss with every checkpoint, no loss that is not finite, and a clean stop on a signal."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # the end of an epoch brings its evaluation: a checkpoint before that would skip it
        within = state.epoch % 1 > 0 and not control.should_training_stop
        self._save(control, within and self.stop.signum is not None)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._save(control, self.stop.signum is not None)

    def _save(self, control: Any, stops: bool) -> None:
        control.should_save |= stops
        # Trainer keeps no running loss in a checkpoint: what it has is logged before
        control.should_log |= control.should_save or control.should_evaluate

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        losses = (logs[name] for name in ("loss", "eval_loss") if name in logs)
        if not all(map(math.isfinite, losses)):
            raise UserError(
                f"the loss is not finite at step {state.global_step}: lower `learning_rate`"
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.stop.signum is not None:
            folder = Path(args.output_dir).parent
            raise Interrupted(self.stop.signum, folder, state.global_step)


class Bar(TrainerCallback):  # type: ignore[misc]
    """Optimizer steps, with the last losses."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.losses: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.total = state.max_steps
        self.bar.n = self.bar.initial = state.global_step
        self.bar.refresh()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        for name, shown in (("loss", "train"), ("eval_loss", "val")):
            if name in logs:
                self.losses[shown] = f"{logs[name]:.4f}"
        self.bar.set_postfix(self.losses, refresh=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update()


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Train all parameters of `module` but those whose names fit one of the shell patterns."""
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(
                f"`freeze`: '{pattern}' matches no parameter; names look like '{names[0]}' and"
                f" '{names[-1]}'"
            )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not any(fnmatch.fnmatchcase(name, p) for p in patterns))
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise UserError("`freeze` leaves no parameter to train")


def make_trainer(
    settings: FinetuneSettings,
    model: FunctionalModel,
    corpus: LabelledCorpus,
    work: Path,
    device: torch.device,
    stop: StopRequest | None = None,
) -> Trainer:
    """A Trainer of `model` on `corpus`; its checkpoints go to `work`, a subfolder of the result."""
    module: Any = model.module
    freeze(module, settings.freeze or ())
    if settings.gradient_checkpointing:
        if frozen_encoder(module) is not None:
            raise UserError(
                "`gradient_checkpointing` has no effect beside `freeze`: the encoder stays as it is"
                " and reads each text once"
            )
        if not module.supports_gradient_checkpointing:
            raise UserError(
                f"`gradient_checkpointing`: transformers has none for a {type(module).__name__};"
                " leave it out, and take more `gradient_accumulation_steps` or `bf16`"
            )
    chosen = rows(corpus.train, model, settings, settings.train_samples)
    loss, scores = objective(settings, chosen.data, module.config)
    callbacks: list[Any] = [Flow(stop or StopRequest())]
    if settings.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience))
    trainer = Trainer(
        model=module,
        args=_arguments(settings, work, device),
        train_dataset=chosen,
        eval_dataset=rows(corpus.val, model, settings),
        data_collator=lambda batch: batch,  # rows come as a batch
        compute_loss_func=loss,
        compute_metrics=scores,
        preprocess_logits_for_metrics=_logits,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _logits(found: Any, _: Tensor) -> Any:
    return found[0] if isinstance(found, tuple) else found  # hidden states after the logits


def rows(
    data: Labelled, model: FunctionalModel, settings: FinetuneSettings, samples: int | None = None
) -> Examples:
    """`data`, or `samples` of its rows drawn by seed, in the tokens of `model`; as embeddings where
    its encoder is not trained."""
    chosen = settings.max_length or model.block_size or DEFAULT_EXAMPLE
    length, wrapped = window_length(model, chosen, "max_length"), cast(Any, model.tokenizer)
    if samples is not None:
        data = data.subset(samples, settings.seed)  # before what costs time
    apart = TASKS[settings.task].compares
    examples = Examples(data, wrapped.tokenizer, length, apart=apart)
    frozen, folder = frozen_encoder(model.module), settings.data_dir
    if frozen is None:
        return examples
    return embedded(examples, frozen, Path(folder) if folder else None)


def _arguments(settings: FinetuneSettings, work: Path, device: torch.device) -> Any:
    """Trainer's own settings."""
    if device.index:
        raise UserError(
            f"`device={device}`: a fine-tune takes the first GPU; choose which one that is with"
            " CUDA_VISIBLE_DEVICES"
        )
    checkpointing = next(n for n in CHECKPOINTING if hasattr(TrainingArguments, n))
    every = "epoch" if settings.eval_steps is None else "steps"
    # the order of the rows in epoch e is that of seed + e: spread, so that no two seeds share one
    order = np.random.SeedSequence(settings.seed).generate_state(1)
    try:
        arguments = TrainingArguments(
            output_dir=str(work),
            **{name: getattr(settings, name) for name in SAME_NAME},
            max_steps=settings.max_steps or -1,
            **{checkpointing: settings.gradient_checkpointing},
            eval_strategy=every,
            eval_steps=settings.eval_steps,
            save_strategy=every,
            save_steps=settings.eval_steps or 1,
            save_total_limit=2,  # the best and the last; with 1, the last goes when training ends
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=False,
            restore_callback_states_from_checkpoint=True,
            logging_steps=LOG_EVERY,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            report_to="none",
            remove_unused_columns=False,
            data_seed=int(order[0]),
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda",
        )
    except ValueError as error:
        if not settings.bf16:
            raise
        raise UserError(f"`bf16`: {device} has no bfloat16; leave it out") from error
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device, as everywhere: no DataParallel
    return arguments


def train(trainer: Any, task: str) -> None:
    """Begin, or continue from the last checkpoint; leave `trainer` with the best weights. A signal
    is Interrupted, behind a checkpoint."""
    work = Path(trainer.args.output_dir)
    last, state = last_checkpoint(work) or (None, None)
    # a training that had come to its end, early or not, says so
    if state and state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
        trainer.state = state
    else:
        for data in (trainer.train_dataset, trainer.eval_dataset):
            if isinstance(data, Embedded):
                data.read()  # under a bar of its own
        with quiet(), new_bar("finetune") as bar:
            trainer.add_callback(Bar(bar))
            trainer.train(resume_from_checkpoint=last and str(last))
    best = load_model(work / f"checkpoint-{trainer.state.best_global_step}", task=task)
    trainer.model.load_state_dict(best.module.state_dict())


def last_checkpoint(folder: Path) -> tuple[Path, Any] | None:
    """The newest whole checkpoint in `folder` with its state; those that are not are removed."""
    found = folder.glob("checkpoint-*")
    for path in sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:  # the state is what Trainer writes last
            return path, TrainerState.load_from_json(str(path / "trainer_state.json"))
        except (OSError, ValueError, TypeError):
            shutil.rmtree(path)
    return None


def curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Trainer's log, one row for each evaluation: "step", "epoch", "train_loss" (the mean since the
    evaluation before), "val_loss" and the scores."""
    table: list[dict[str, Any]] = []
    total, first, last = 0.0, 0, 0
    for entry in history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
        elif "eval_loss" in entry:
            row = {"step": entry["step"], "epoch": entry["epoch"]}
            row |= {"train_loss": total / (last - first), "val_loss": entry["eval_loss"]}
            row |= {name: entry[f"eval_{name}"] for name in SCORES if f"eval_{name}" in entry}
            table.append(row)
            total, first = 0.0, last
    return table


def score(trainer: Any, data: Examples) -> Scores:
    """The loss and the scores of `data`."""
    found = trainer.predict(data).metrics
    return {name: found[f"test_{name}"] for name in ("loss", *SCORES) if f"test_{name}" in found}
