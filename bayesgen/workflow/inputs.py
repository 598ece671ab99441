"""What a run is made of: a model, and data in the model's own tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from bayesgen.config import (
    CheckPriorSettings,
    DataSettings,
    LabelledSettings,
    ScoringSettings,
    TrainSettings,
)
from bayesgen.data.corpora import Corpus, load_corpus, load_texts
from bayesgen.data.examples import Embedded, Examples
from bayesgen.data.labelled import LabelledCorpus, load_labelled
from bayesgen.data.masked import MaskedWindows, Masking
from bayesgen.data.tables import some
from bayesgen.data.windows import Batches, Rows, Windows
from bayesgen.errors import UserError, warn
from bayesgen.models import FunctionalModel, ModelInfo, load_model, resolve_device
from bayesgen.posterior import Posterior
from bayesgen.posterior.opening import adapters
from bayesgen.workflow.job import training_batches
from bayesgen.workflow.scoring import Material, read_examples, read_material

DEFAULT_MODEL = "checkpoints/baseline/models/baseline_model_2k.pt"
DEFAULT_BLOCK = 1024
"""Tokens per window where the model has no limit of its own, or a longer one; of an example where
it has none."""


@dataclass(frozen=True)
class Inputs:
    """A model and its data.

    Attributes:
        data: name and fingerprint: what a run's `run.json` says of the data.
        block_size: tokens of a window or example, at most.
        batches: the training data of chain c.
        material: what is to be scored, by these settings; with a whole text of its own, or None.
    """

    model: FunctionalModel
    data: dict[str, Any]
    block_size: int
    batches: Callable[[int], Batches]
    material: Callable[[ScoringSettings, str | None], Material]


def read_inputs(
    model: FunctionalModel, settings: DataSettings, block_size: int | None = None
) -> Inputs:
    """The data of `settings`, of the kind that the model's task needs.

    Args:
        block_size: of a run that is read again; by default that of the settings or the model.

    Raises:
        UserError: the data are missing, damaged or of another kind, or no tokenizer is there.
    """
    inputs: Inputs = model.task.read(model, settings, block_size or settings.block_size)
    return inputs


def read_text(model: FunctionalModel, settings: DataSettings, block_size: int | None) -> Inputs:
    """The corpus of `settings`, in windows."""
    block_size = window_length(model, block_size)
    corpus = load_corpus(settings.corpus, tokenizer=model.tokenizer, data_dir=_data_dir(settings))
    return text_inputs(model, corpus, settings, block_size)


def read_rows(model: FunctionalModel, settings: DataSettings, block_size: int | None) -> Inputs:
    """The labelled texts of `settings`."""
    if settings.data is None:
        raise UserError(
            f"`data`: a {model.info.task} needs labelled data: ag_news, sst2, imdb, stsb, or the"
            " path of a file or folder"
        )
    block_size = window_length(model, block_size)
    corpus = read_labelled(settings, model.info.task)
    return labelled_inputs(model, corpus, settings, block_size)


def window_length(model: FunctionalModel, chosen: int | None) -> int:
    """Tokens of a window, or of an example at most: `chosen`, or by default what the model takes
    (of labelled texts that of the fine-tune, which lies in its tokenizer).

    Raises:
        UserError: the model takes fewer, or has no tokenizer.
    """
    if model.tokenizer is None:
        raise UserError(
            f"`model`: '{model.info.name}' has no tokenizer; give its meta.pkl with `meta_path`"
            " (nanoGPT), or save the tokenizer into the folder (Hugging Face)"
        )
    if chosen is None:
        tuned = getattr(model.tokenizer, "max_length", None)
        limits = [model.block_size, tuned if model.task.is_labelled else DEFAULT_BLOCK]
        chosen = min((n for n in limits if n is not None), default=DEFAULT_BLOCK)
        if model.task.masking == "permute":
            chosen -= chosen % 2
    elif model.block_size is not None and chosen > model.block_size:
        raise UserError(
            f"`block_size={chosen}` exceeds the model's longest context, {model.block_size}"
        )
    return chosen


def text_inputs(
    model: FunctionalModel, corpus: Corpus, settings: DataSettings, block_size: int
) -> Inputs:
    """Windows of a text, their tokens masked where the task is to predict masked ones."""
    if model.task.masking:
        tokenizer: Any = model.tokenizer
        masking = Masking.of(tokenizer.tokenizer, model.task)

    def tiled(tokens: Any, split: str) -> Windows | MaskedWindows:
        if model.task.masking:
            return MaskedWindows.tiled(tokens, block_size, masking, split=split)
        return Windows.tiled(tokens, block_size, split=split)

    @cache
    def train() -> Windows | MaskedWindows:
        windows = tiled(corpus.train, "train")
        if settings.train_samples is None:
            return windows
        return windows.subset(settings.train_samples, settings.seed)

    return Inputs(
        model,
        {"name": corpus.name, **corpus.fingerprint},
        block_size,
        cache(lambda chain: training_batches(settings, train(), chain)),
        partial(read_material, model, corpus, train, tiled, _data_dir(settings)),
    )


def labelled_inputs(
    model: FunctionalModel, corpus: LabelledCorpus, settings: DataSettings, block_size: int
) -> Inputs:
    """Labelled texts in the model's tokens.

    Raises:
        UserError: the model has other classes, or does not know the range of the scores.
    """
    outputs = num_outputs(model.info)
    if corpus.classes is not None and len(corpus.classes) != outputs:
        raise UserError(
            f"`data={settings.data}`: {len(corpus.classes)} classes, but the model has {outputs};"
            " fine-tune it on these data first (bayesgen finetune)"
        )
    _warn_of_names(model, corpus.classes)
    if model.task.compares and model.info.config.get("score_range") is None:
        raise UserError(
            f"`model`: '{model.info.name}' does not know the range of the scores; fine-tune it on"
            f" these data first (bayesgen finetune `task={model.info.task}`)"
        )
    tokenizer: Any = model.tokenizer
    train = corpus.train
    if settings.train_samples is not None:
        train = train.subset(settings.train_samples, settings.seed)  # before what costs time
    examples = {
        name: Examples(part, tokenizer.tokenizer, block_size, apart=model.task.compares)
        for name, part in {"train": train, "val": corpus.val, "test": corpus.test}.items()
        if part is not None
    }
    splits = _embedded(model, examples, _data_dir(settings))
    return Inputs(
        model,
        {"name": corpus.name, **corpus.fingerprint, "rows": examples["train"].describe()},
        block_size,
        cache(partial(training_batches, settings, splits["train"])),
        partial(
            read_examples,
            corpus.name,
            corpus.fingerprint,
            splits,
            partial(_far_rows, model, examples["train"], _data_dir(settings)),
        ),
    )


def _warn_of_names(model: FunctionalModel, classes: tuple[str, ...] | None) -> None:
    """Say so where the model calls its classes by other names than the data."""
    named = model.info.config.get("id2label") or {}
    own = tuple(str(name) for _, name in sorted(named.items(), key=lambda item: int(item[0])))
    if classes is None or own == classes or own == tuple(f"LABEL_{i}" for i in range(len(own))):
        return
    warn(
        f"the classes of '{model.info.name}' are {some(own)}, those of the data"
        f" {some(classes)}: they are taken for each other in this order"
    )


def _far_rows(
    model: FunctionalModel, near: Examples, data_dir: Path | None, name: str
) -> tuple[Rows, dict[str, Any]]:
    """The rows of `--ood-data`, encoded as the run's own, and what they are."""
    pairs = near.data.second is not None
    split, texts = load_texts(name, pairs=pairs, data_dir=data_dir, setting="`ood_data`")
    rows = Examples(texts, near.tokenizer, near.max_length)
    described = {
        "name": texts.name.removesuffix(f"/{split}"),
        "split": split,
        "rows": len(rows),
        "sha256": texts.fingerprint,
    }
    return _embedded(model, {split: rows}, data_dir)[split], described


def _embedded(
    model: FunctionalModel, splits: Mapping[str, Examples], data_dir: Path | None
) -> Mapping[str, Examples | Embedded]:
    """`splits`, as embeddings where the encoder that makes these is not Bayesian."""
    from bayesgen.models.sentence import embedded, frozen_encoder

    frozen = frozen_encoder(model.module, model.layout)
    if frozen is None:
        return splits
    return {name: embedded(part, frozen, data_dir) for name, part in splits.items()}


def _data_dir(settings: DataSettings) -> Path | None:
    return Path(settings.data_dir) if settings.data_dir else None


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
