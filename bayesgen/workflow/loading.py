"""What a new run starts with: its model, and labelled data where it has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesgen.config import LABELS, CheckPriorSettings, DataSettings, TrainSettings
from bayesgen.data.labelled import LabelledCorpus, load_labelled
from bayesgen.models import FunctionalModel, Lora, ModelInfo, load_model
from bayesgen.parameters import names_adapters
from bayesgen.workflow.job import resolve_device

DEFAULT_MODEL = "checkpoints/baseline/models/baseline_model_2k.pt"


def model_of(
    settings: TrainSettings | CheckPriorSettings, outline: bool = False
) -> FunctionalModel:
    """The model of a new run. A head that starts at random has the classes of the data.

    Raises:
        UserError: see `load_model`.
    """

    def load(num_labels: int | None = None) -> FunctionalModel:
        return load_model(
            settings.model or Path(settings.base_dir) / DEFAULT_MODEL,
            task=settings.task,
            parameters=settings.parameters,
            lora=adapters(vars(settings)),
            num_labels=num_labels,
            meta_path=settings.meta_path,
            device=str(resolve_device(settings.device)),
            outline=outline,
        )

    model = load()
    if LABELS.get(settings.task) != "class" or settings.data is None or not model.new:
        return model
    classes = read_labelled(settings, settings.task).classes
    same = classes is None or len(classes) == num_outputs(model.info)
    return model if same else load(len(classes or ()))


def num_outputs(info: ModelInfo) -> int:
    """Classes of a classifier."""
    return int(info.config.get("num_labels") or len(info.config["id2label"]))


def read_labelled(settings: DataSettings, task: str) -> LabelledCorpus:
    """The data of `settings`.

    Raises:
        UserError: see `load_labelled`.
    """
    assert settings.data is not None
    return load_labelled(
        settings.data,
        task=task,
        data_dir=Path(settings.data_dir) if settings.data_dir else None,
        validation=settings.validation,
        text_column=settings.text_column,
        label_column=settings.label_column,
        pair_column=settings.pair_column,
    )


def adapters(settings: Mapping[str, Any]) -> Lora | None:
    """The adapters that a run's settings ask for; None if none."""
    if not names_adapters(settings["parameters"]):
        return None
    targets = settings["lora_targets"]
    return Lora(
        settings["lora_r"],
        settings["lora_alpha"],
        None if targets is None else tuple(t.strip() for t in targets.split(",")),
    )
