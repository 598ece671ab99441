"""What a new run starts with: its model, and labelled data where it has them."""

from __future__ import annotations

from pathlib import Path

from bayesgen.config import CheckPriorSettings, LabelledSettings, TrainSettings
from bayesgen.data.labelled import LabelledCorpus, load_labelled
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel, ModelInfo, load_model, resolve_device
from bayesgen.posterior import Posterior
from bayesgen.posterior.opening import adapters

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
    if model.task.labels != "class" or settings.data is None or not model.new:
        return model
    classes = read_labelled(settings, settings.task).classes
    same = classes is None or len(classes) == num_outputs(model.info)
    return model if same else load(len(classes or ()))


def some_draws(posterior: Posterior, count: int | None, usual: int | None = None) -> Posterior:
    """`count` of the draws, evenly spaced; by default `usual`, or all if there are fewer.

    Raises:
        UserError: there are fewer than `count`.
    """
    if count is not None and count > len(posterior):
        name = posterior.model.info.name if posterior.run is None else posterior.run.path
        raise UserError(f"`num_draws={count}`: '{name}' has only {len(posterior)} draws")
    return posterior.thin(count or usual)


def num_outputs(info: ModelInfo) -> int:
    """Classes of a classifier."""
    return int(info.config.get("num_labels") or len(info.config["id2label"]))


def read_labelled(settings: LabelledSettings, task: str) -> LabelledCorpus:
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
