"""Data that a caller has in Python, in the form that a run takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from bayesgen.config import DataSettings, ScoringSettings
from bayesgen.data.choosing import drawn, held_out
from bayesgen.data.corpora import text_corpus
from bayesgen.data.labelled import Labelled, LabelledCorpus, labelled, split_rows
from bayesgen.data.own import own_rows
from bayesgen.data.windows import Rows
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel
from bayesgen.workflow.inputs import (
    Inputs,
    labelled_inputs,
    read_inputs,
    text_inputs,
    window_length,
)
from bayesgen.workflow.job import training_batches
from bayesgen.workflow.scoring import Material, read_examples

GIVEN = "(given in Python)"
"""What a run's settings say in the place of a name or path."""
SPLITS = ("train", "val", "test")
TEXT_COLUMNS = ("text", "sentence", "review", "sentence1")
PAIR_COLUMNS = ("sentence2",)
LABEL_COLUMNS = ("label", "labels", "score", "similarity")


def named(model: FunctionalModel, data: Any) -> dict[str, Any]:
    """The settings that say which data `data` are: a name or path, or that they were given."""
    key = "data" if model.task.is_labelled else "corpus"
    return {key: str(data) if isinstance(data, str | Path) else GIVEN}


def inputs_of(
    model: FunctionalModel,
    data: Any,
    settings: DataSettings,
    classes: Sequence[str] | None = None,
) -> Inputs:
    """A run's inputs from data of any kind.

    Args:
        data: a name or path (which `settings` hold), texts, rows of (text, label), a
            `datasets.Dataset`, and of a network of one's own what `own_rows` takes; or a mapping of
            the splits "train", "val" and "test" to any of these.
        classes: names in the order of their ids; by default the model's, or those that occur.

    Raises:
        UserError: they do not fit the model.
    """
    if isinstance(data, str | Path):
        return read_inputs(model, settings)
    splits = dict(data) if _is_splits(data) else {"train": data}
    if "train" not in splits:
        raise UserError("`data`: no split 'train' among those that were given; add it")
    if model.tokenizer is None:
        return rows_inputs(model, "rows", splits, settings)
    block_size = window_length(model, settings.block_size)
    if model.task.is_labelled:
        corpus = _corpus(splits, model.info.task, settings, classes or _own_names(model))
        return labelled_inputs(model, corpus, settings, block_size)
    texts = {name: "\n".join(_texts(part)) for name, part in splits.items()}
    train = texts["train"]
    val = texts.get("val")
    if val is None:
        cut = int(len(train) * 0.9)
        train, val = train[:cut], train[cut:]
    text = text_corpus("texts", train, val, model.tokenizer)
    return text_inputs(model, text, settings, block_size)


def _is_splits(data: Any) -> bool:
    return isinstance(data, Mapping) and bool(data) and set(data) <= set(SPLITS)


def _texts(part: Any) -> list[str]:
    texts = [part] if isinstance(part, str) else list(part)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UserError("`data`: a language model takes texts; give a list of strings, or a path")
    return texts


def _own_names(model: FunctionalModel) -> list[str] | None:
    """The names of a classifier's classes, where a training gave it any."""
    if model.task.labels != "class":
        return None
    names = model.info.config.get("id2label") or {}
    found = [str(names[key]) for key in sorted(names, key=int)]
    return None if all(name.startswith("LABEL_") for name in found) else found


def _corpus(
    splits: Mapping[str, Any],
    task: str,
    settings: DataSettings,
    classes: Sequence[str] | None,
) -> LabelledCorpus:
    """Labelled rows that were given, in checked splits with the same classes."""
    classes = classes or _names(splits["train"])
    train = labelled(_rows(splits["train"]), classes, task=task, name="rows/train")
    given = {
        name: labelled(_rows(part), train.classes, task=task, name=f"rows/{name}")
        for name, part in splits.items()
        if name != "train"
    }
    val: Labelled
    if "val" in given:
        val = given["val"]
    else:
        train, val = split_rows(train, settings.validation, 0)
    return LabelledCorpus("rows", task, train, val, given.get("test"))


def _names(part: Any) -> list[str] | None:
    """The names of classes that a `datasets.Dataset` states."""
    features = getattr(part, "features", None) or {}
    column = next((name for name in LABEL_COLUMNS if name in features), None)
    return getattr(features.get(column), "names", None) if column else None


def _rows(part: Any) -> Iterable[Any]:
    """Rows of (text, label) or (text, text, label)."""
    names = getattr(part, "column_names", None)
    if names is None:
        return (tuple(row) if not isinstance(row, Mapping) else _fields(row) for row in part)
    return (_fields(row) for row in part)


def _fields(row: Mapping[str, Any]) -> tuple[Any, ...]:
    def find(known: tuple[str, ...]) -> Any:
        return next((row[name] for name in known if name in row), None)

    text, pair, label = find(TEXT_COLUMNS), find(PAIR_COLUMNS), find(LABEL_COLUMNS)
    if text is None or label is None:
        raise UserError(
            f"`data`: no text and label among {', '.join(row)}; call the columns text and label"
        )
    return (text, label) if pair is None else (text, pair, label)


def rows_inputs(
    model: FunctionalModel, name: str, splits: Mapping[str, Any], settings: DataSettings
) -> Inputs:
    """Rows for a network of one's own.

    Args:
        splits: "train", and perhaps "val" and "test": what `own_rows` takes.

    Raises:
        UserError: they are of another form, or fewer than the settings ask for.
    """
    rows = {split: own_rows(part, model.likelihood.count) for split, part in splits.items()}
    classes = [part.num_classes for part in rows.values() if part.num_classes is not None]
    if len(classes) == len(rows):
        for part in rows.values():
            part.classes = max(classes)  # a small split may lack the last class
    train = rows["train"]
    if "val" not in rows:
        kept, held = held_out(len(train), settings.validation, 0, name)
        train, rows["val"] = train.take(kept), train.take(held)
    if settings.train_samples is not None:
        what = f"there are {len(train)} rows"
        train = train.take(drawn(len(train), settings.train_samples, settings.seed, what))
    parts = {"train": train, **{k: v for k, v in rows.items() if k != "train"}}
    digests = " ".join(part.fingerprint() for part in rows.values())
    record = {
        "name": name,
        "sha256": hashlib.sha256(digests.encode()).hexdigest(),
        **{f"{split}_rows": len(part) for split, part in parts.items()},
    }
    return Inputs(
        model,
        record,
        model.block_size or 1,
        cache(partial(training_batches, settings, train)),
        partial(read_examples, name, {"sha256": record["sha256"]}, parts, _no_other),
    )


def _no_other(name: str) -> tuple[Rows, dict[str, Any]]:
    raise UserError("`ood_data`: name no data for a network of your own; evaluate them apart")


def scored_whole(
    model: FunctionalModel, rows: Any, settings: DataSettings, classes: Sequence[str] | None
) -> Inputs:
    """Rows that are scored whole, as the split "data"; a temperature is cross-fitted on them."""
    rows = rows if isinstance(rows, str | Mapping) or hasattr(rows, "__len__") else list(rows)
    everything = {"train": rows, "val": rows}
    inputs = inputs_of(model, everything, replace(settings, train_samples=None), classes)

    def material(scoring: ScoringSettings, text: str | None) -> Material:
        found = inputs.material(replace(scoring, eval_splits=("train",)), text)
        (scored,) = found.scored.values()
        return Material({"data": scored}, scored, found.far, found.texts)

    return replace(inputs, material=material)
