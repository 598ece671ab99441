"""What a run is made of: a model, and data in the model's own tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from bayesgen.config import DataSettings, LabelledSettings, ScoringSettings, TrainSettings
from bayesgen.config.jobs import CheckPriorSettings
from bayesgen.data.corpora import Corpus, load_corpus, load_texts
from bayesgen.data.examples import Embedded, Examples
from bayesgen.data.labelled import LabelledCorpus, load_labelled
from bayesgen.data.masked import MaskedWindows, Masking
from bayesgen.data.tables import some
from bayesgen.data.windows import Batches, Rows, Windows
from bayesgen.errors import UserError, warn
from bayesgen.evaluation.walk import evenly_spaced
from bayesgen.models import FunctionalModel, ModelInfo, load_model, resolve_device
from bayesgen.posterior import Posterior, adapters
from bayesgen.registry import resolved
from bayesgen.workflow.job import training_batches
from bayesgen.workflow.scoring import Material, read_examples, read_material

DEFAULT_MODEL = "checkpoints/baseline/models/baseline_model_2k.pt"
DEFAULT_BLOCK = 1024  # tokens per window, at most; of an example where the model has no limit
DEFAULT_EXAMPLE = 512  # the same where a fine-tune or a similarity reads it
GIVEN = "(given in Python)"  # what settings say of data in the place of a name or path


@dataclass(frozen=True)
class Inputs:
    """A model and its data."""

    model: FunctionalModel
    data: dict[str, Any]  # name and fingerprint: what run.json says of the data
    block_size: int  # tokens of a window or example, at most
    batches: Callable[[int], Batches]  # to train chain c on
    material: Callable[[ScoringSettings, str | None], Material]
    """What is to be scored, by these settings; with a whole text of its own, or None."""

    def validation(self, most: int | None = None) -> Rows:
        """The validation rows, `most` of them at most, evenly spaced."""
        rows = self.material(ScoringSettings(eval_splits=("val",)), None).scored["val"]
        return rows.take(evenly_spaced(len(rows), most).numpy())


def model_of(
    settings: TrainSettings | CheckPriorSettings, outline: bool = False
) -> FunctionalModel:
    """The model of a new run. A head that starts at random has the classes of the data."""

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
    if model.task.labels != "class" or settings.data in (None, GIVEN) or not model.new:
        return model
    classes = read_labelled(settings, settings.task).classes
    same = classes is None or len(classes) == num_outputs(model.info)
    return model if same else load(len(classes or ()))


def read_labelled(settings: LabelledSettings, task: str) -> LabelledCorpus:
    """The labelled texts that `settings` name."""
    assert settings.data is not None
    return load_labelled(
        settings.data,
        task=task,
        data_dir=_data_dir(settings),
        validation=settings.validation,
        text_column=settings.text_column,
        label_column=settings.label_column,
        pair_column=settings.pair_column,
    )


def some_draws(posterior: Posterior, count: int | None, usual: int | None = None) -> Posterior:
    """`count` of the draws, evenly spaced; by default `usual`, or all if there are fewer."""
    if count is not None and count > len(posterior):
        name = posterior.model.info.name if posterior.run is None else posterior.run.path
        raise UserError(f"`num_draws={count}`: '{name}' has only {len(posterior)} draws")
    return posterior.thin(count or usual)


def read_inputs(
    model: FunctionalModel, settings: DataSettings, block_size: int | None = None
) -> Inputs:
    """The data of `settings`, of the kind that the model's task needs; `block_size` is that of a
    run that is read again, by default that of the settings or the model."""
    read: Callable[..., Inputs] = resolved(model.task.reader)
    return read(model, settings, block_size or settings.block_size)


def read_text(
    model: FunctionalModel,
    settings: DataSettings,
    block_size: int | None,
    corpus: Corpus | None = None,
) -> Inputs:
    """`corpus`, or that of `settings`, in windows, whose tokens are masked where the task is to
    predict masked ones."""
    length, folder = window_length(model, block_size), _data_dir(settings)
    text = corpus or load_corpus(settings.corpus, tokenizer=model.tokenizer, data_dir=folder)
    tokenizer: Any = model.tokenizer
    masking = Masking.of(tokenizer.tokenizer, model.task) if model.task.masking else None

    def tiled(tokens: Any, split: str) -> Windows | MaskedWindows:
        if masking is None:
            return Windows.tiled(tokens, length, split=split)
        return MaskedWindows.tiled(tokens, length, masking, split=split)

    @cache
    def train() -> Windows | MaskedWindows:
        windows, count = tiled(text.train, "train"), settings.train_samples
        return windows if count is None else windows.subset(count, settings.seed)

    return Inputs(
        model,
        {"name": text.name, **text.fingerprint},
        length,
        cache(lambda chain: training_batches(settings, train(), chain)),
        partial(read_material, model, text, train, tiled, folder),
    )


def read_rows(
    model: FunctionalModel,
    settings: DataSettings,
    block_size: int | None,
    corpus: LabelledCorpus | None = None,
) -> Inputs:
    """The labelled texts of `corpus`, or those of `settings`, in the model's tokens."""
    task, info, folder = model.task, model.info, _data_dir(settings)
    if corpus is None and settings.data is None:
        raise UserError(
            f"`data`: a {task.name} needs labelled data: ag_news, sst2, imdb, stsb, or the path of"
            " a file or folder"
        )
    block_size = window_length(model, block_size)
    corpus = corpus or read_labelled(settings, task.name)
    outputs, own = num_outputs(info), class_names(info)
    if corpus.classes is not None and len(corpus.classes) != outputs:
        raise UserError(
            f"`data={settings.data}`: {len(corpus.classes)} classes, but the model has {outputs};"
            " fine-tune it on these data first (bayesgen finetune)"
        )
    if own is not None and corpus.classes is not None and own != corpus.classes:
        warn(
            f"the classes of '{info.name}' are {some(own)}, those of the data"
            f" {some(corpus.classes)}: they are taken for each other in this order"
        )
    if task.compares and info.config.get("score_range") is None:
        raise UserError(
            f"`model`: '{info.name}' does not know the range of the scores; fine-tune it on"
            f" these data first (bayesgen finetune `task={task.name}`)"
        )
    tokenizer: Any = model.tokenizer
    train, count = corpus.train, settings.train_samples
    train = train if count is None else train.subset(count, settings.seed)  # before what costs time
    examples = {
        name: Examples(part, tokenizer.tokenizer, block_size, apart=task.compares)
        for name, part in {"train": train, "val": corpus.val, "test": corpus.test}.items()
        if part is not None
    }
    splits = _embedded(model, examples, folder)
    far = partial(_far_rows, model, examples["train"], folder)
    return Inputs(
        model,
        {"name": corpus.name, **corpus.fingerprint, "rows": examples["train"].describe()},
        block_size,
        cache(partial(training_batches, settings, splits["train"])),
        partial(read_examples, corpus.name, corpus.fingerprint, splits, far),
    )


def window_length(
    model: FunctionalModel,
    chosen: int | None,
    setting: str = "block_size",
    usual: int = DEFAULT_BLOCK,
) -> int:
    """Tokens of a window, or of an example at most: `chosen` by `setting`, or by default what the
    model takes (of labelled texts that of the fine-tune, which lies in its tokenizer); `usual`
    where it has no limit, or a text's window would be longer."""
    if model.tokenizer is None:
        nanogpt = model.info.family == "nanogpt"
        way_out = "give its meta.pkl with `meta_path`" if nanogpt else "save it into the folder"
        raise UserError(f"`model`: '{model.info.name}' has no tokenizer; {way_out}")
    if chosen is None:
        tuned = getattr(model.tokenizer, "max_length", None)
        limits = [model.block_size, tuned if model.task.is_labelled else usual]
        chosen = min((n for n in limits if n is not None), default=usual)
        if model.task.masking == "permute":
            chosen -= chosen % 2
    elif model.block_size is not None and chosen > model.block_size:
        raise UserError(
            f"`{setting}={chosen}` exceeds the model's longest context, {model.block_size}"
        )
    return chosen


def num_outputs(info: ModelInfo) -> int:
    """Classes of a classifier."""
    return int(info.config.get("num_labels") or len(info.config["id2label"]))


def class_names(info: ModelInfo) -> tuple[str, ...] | None:
    """The names of a classifier's classes, where a training gave it any."""
    names = info.config.get("id2label") or {}
    found = tuple(str(names[key]) for key in sorted(names, key=int))
    return None if all(name.startswith("LABEL_") for name in found) else found


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
    if not model.task.sentence:
        return splits
    from bayesgen.models.sentence import embedded, frozen_encoder

    frozen = frozen_encoder(model.module, model.layout)
    if frozen is None:
        return splits
    return {name: embedded(part, frozen, data_dir) for name, part in splits.items()}


def _data_dir(settings: LabelledSettings) -> Path | None:
    return Path(settings.data_dir) if settings.data_dir else None
