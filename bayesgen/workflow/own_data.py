"""Data that a caller has in Python, in the form that a run takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from bayesgen.config import DataSettings, ScoringSettings
from bayesgen.data.choosing import drawn, held_out
from bayesgen.data.corpora import text_corpus
from bayesgen.data.labelled import LabelledCorpus, labelled, split_rows
from bayesgen.data.own import own_rows
from bayesgen.data.windows import Rows
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel
from bayesgen.workflow.inputs import Inputs, class_names, read_inputs, read_rows, read_text
from bayesgen.workflow.job import training_batches
from bayesgen.workflow.scoring import Material, read_examples

SPLITS = ("train", "val", "test")
TEXT_COLUMNS = ("text", "sentence", "review", "sentence1")
PAIR_COLUMNS = ("sentence2",)
LABEL_COLUMNS = ("label", "labels", "score", "similarity")


def inputs_of(
    model: FunctionalModel,
    data: Any,
    settings: DataSettings,
    classes: Sequence[str] | None = None,
) -> Inputs:
    """A run's inputs from `data` of any kind: a name or path (which `settings` hold), or what
    `bayesgen.sample` takes. `classes` are names in the order of their ids; by default the model's,
    or those that occur."""
    if isinstance(data, str | Path):
        return read_inputs(model, settings)
    of_splits = isinstance(data, Mapping) and data and set(data) <= set(SPLITS)
    splits = dict(data) if of_splits else {"train": data}
    if "train" not in splits:
        raise UserError("`data`: no split 'train' among those that were given; add it")
    if model.tokenizer is None:
        return rows_inputs(model, "rows", splits, settings)
    if model.task.is_labelled:
        if not classes and model.task.labels == "class":
            classes = class_names(model.info)
        corpus = _corpus(splits, model.info.task, settings, classes)
        return read_rows(model, settings, settings.block_size, corpus)
    given = {k: [part] if isinstance(part, str) else list(part) for k, part in splits.items()}
    if not all(found and all(isinstance(text, str) for text in found) for found in given.values()):
        raise UserError("`data`: a language model takes texts; give a list of strings, or a path")
    texts = {name: "\n".join(found) for name, found in given.items()}
    train, cut = texts["train"], int(len(texts["train"]) * 0.9)
    halves = (train, texts["val"]) if "val" in texts else (train[:cut], train[cut:])
    text = text_corpus("texts", *halves, model.tokenizer)
    return read_text(model, settings, settings.block_size, text)


def _corpus(
    splits: Mapping[str, Any], task: str, settings: DataSettings, classes: Sequence[str] | None
) -> LabelledCorpus:
    """Labelled rows that were given, in checked splits with the same classes."""
    if not classes:  # a `datasets.Dataset` may state them
        features = getattr(splits["train"], "features", None) or {}
        column = next((name for name in LABEL_COLUMNS if name in features), "")
        classes = getattr(features.get(column), "names", None)
    given = {}
    for name in ("train", *(name for name in splits if name != "train")):
        rows = (_fields(row) for row in splits[name])
        given[name] = labelled(rows, classes, task=task, name=f"rows/{name}")
        classes = given["train"].classes
    train, val = given["train"], given.get("val")
    if val is None:
        train, val = split_rows(train, settings.validation, 0)
    return LabelledCorpus("rows", train, val, given.get("test"))


def _fields(row: Any) -> tuple[Any, ...]:
    """A row as (text, label) or (text, text, label)."""
    if not isinstance(row, Mapping):
        return tuple(row)

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
    """Rows for a network of one's own: `splits` "train", and perhaps "val" and "test", of what
    `own_rows` takes.

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
    sha256 = hashlib.sha256(digests.encode()).hexdigest()
    sizes = {f"{split}_rows": len(part) for split, part in parts.items()}
    return Inputs(
        model,
        {"name": name, "sha256": sha256, **sizes},
        model.block_size or 1,
        cache(partial(training_batches, settings, train)),
        partial(read_examples, name, {"sha256": sha256}, parts, _no_other),
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
