"""Labelled texts as plain data: from a name, a file, a folder or an iterable, in checked splits.

A row is a text or a pair of texts, and a label: one of a few classes, or a score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesgen.config import LABELS, tasks_with
from bayesgen.data.tables import (
    Places,
    Table,
    Wanted,
    as_number,
    by_name,
    find_columns,
    read_tables,
    short,
    some,
)
from bayesgen.errors import UserError

VALIDATION = 0.1
"""Default share of the training rows that validates where the data have no rows for that."""

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Texts with labels.

    Attributes:
        first: N texts.
        second: N texts that belong to those, where a row is a pair.
        labels: [N], int64 ids of classes or float32 scores.
        classes: their names, in the order of the ids; None where the labels are scores.
    """

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: NDArray[np.int64] | NDArray[np.float32]
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: ArrayLike, name: str | None = None) -> Labelled:
        """The given `rows` (1-D indices), in their order."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Labelled(
            name or self.name,
            tuple(self.first[i] for i in chosen),
            None if self.second is None else tuple(self.second[i] for i in chosen),
            self.labels[chosen],
            self.classes,
        )

    def subset(self, num: int, seed: int) -> Labelled:
        """`num` rows drawn without replacement, in the order of the data.

        With the same seed a smaller subset lies within every larger one. Raises UserError where
        there are not so many rows.
        """
        if not 1 <= num <= len(self):
            raise UserError(
                f"`train_samples={num}`: {self.name} has {len(self):,} examples; choose a number"
                f" from 1 to {len(self)}"
            )
        return self.take(np.sort(shuffled(len(self), seed, "train-samples")[:num]))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that was read: texts, labels and classes, but not the name."""
        content = [self.first, self.second, self.labels.tolist(), self.classes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class LabelledCorpus:
    """The splits of one set of labelled texts; they have the same classes."""

    name: str
    task: str
    train: Labelled
    val: Labelled
    test: Labelled | None

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.train.classes

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Plain data: "sha256" of all splits, "train_rows", "val_rows", "test_rows", "classes"."""
        splits = (self.train, self.val, self.test)
        digests = " ".join("" if split is None else split.fingerprint for split in splits)
        return {
            "sha256": hashlib.sha256(digests.encode()).hexdigest(),
            "train_rows": len(self.train),
            "val_rows": len(self.val),
            "test_rows": 0 if self.test is None else len(self.test),
            "classes": None if self.classes is None else list(self.classes),
        }


def load_labelled(
    name_or_path: str,
    *,
    task: str,
    data_dir: Path | None = None,
    validation: float = VALIDATION,
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
    pair_column: str | None = None,
) -> LabelledCorpus:
    """Load a built-in set (`tables.NAMES`), a file, a folder of files, or one of `datasets`.

    A built-in set is a folder of that name in `data_dir`, else the folder that a variable such as
    AG_NEWS_PATH names, else in ~/.cache/bayesgen; nothing is downloaded. A file is of a kind in
    `tables.KINDS`, also with .gz; a folder holds train.*, and perhaps val.* (or valid, validation,
    dev) and test.*; or it was written by `save_to_disk`. Quotes in a .tsv are ordinary characters.

    Columns are found by their names: text, sentence, review or sentence1, then sentence2; label,
    score or similarity. A file without such a header must have two columns: for a regression the
    label is the one that holds numbers only, else the one with fewer distinct values. Labels that
    are whole numbers are classes in numerical order (0..C-1 stay as they are), names are so in
    alphabetical order.

    Args:
        task: one of `settings.LABELS`.
        validation: where the data have no rows for validation, how many of the training rows
            become these, drawn by `seed`: a share below 1 or a number. Where they have, anything
            but the default is refused.
        text_column, pair_column, label_column: names in the header; without `pair_column`, a
            given `text_column` stands alone.

    Raises:
        UserError: something is missing, damaged or does not fit the task.
    """
    if task not in LABELS:
        raise UserError(f"`task={task}`: labelled texts are for {', '.join(LABELS)}")
    wanted = Wanted(text_column, pair_column, label_column)
    name, tables = read_tables(name_or_path, data_dir, headed=any(wanted))
    for split, table in tables.items():
        if not table.rows:
            raise UserError(f"{table.source}: the {split} split has no rows; add some")
    scores = LABELS[task] == "score"
    places = find_columns(tables["train"], scores, wanted)
    splits: dict[str, Labelled] = {}
    for split, table in tables.items():
        rows = _rows(table, find_columns(table, scores, wanted, places))
        splits[split] = _labelled(f"{name}/{split}", rows, task, splits.get("train"))
    train = splits["train"]
    if "val" not in splits:
        train, splits["val"] = split_rows(train, validation, seed)
    elif validation != VALIDATION:
        raise UserError(
            f"`validation={validation:g}`: {name_or_path} has rows of its own for validation;"
            " leave the setting out"
        )
    _require_classes(train)
    return LabelledCorpus(name, task, train, splits["val"], splits.get("test"))


def labelled(
    rows: Iterable[Sequence[Any]],
    classes: Sequence[str] | None = None,
    *,
    task: str = "sequence-classification",
    name: str = "rows",
) -> Labelled:
    """`rows` of (text, label) or (text, text, label) as data.

    Args:
        classes: names in the order of their ids. An integer is then an id and a string a name;
            by default the classes are those that occur, as in `load_labelled`.
        task: one of `settings.LABELS`.

    Raises:
        UserError: a row is not of this form, or its label is none of the task.
    """
    listed = [list(row) for row in rows]
    table = Table(name, None, listed, range(1, len(listed) + 1), "row")
    if not listed:
        raise UserError(f"{name}: there are no rows; pass some")
    width = len(listed[0])
    if width not in (2, 3):
        raise UserError(f"{table.at(0)}: {width} fields; pass (text, label) or (text, text, label)")
    table.require_width((width,))
    read = _rows(table, (0, 1 if width == 3 else None, width - 1))
    if classes is None:
        found = _labelled(name, read, task)
        _require_classes(found)
        return found
    if len(set(classes)) != len(classes):
        raise UserError(f"{name}: two classes have the same name; give each its own")
    named = by_name(read.labels, tuple(classes), read.at)
    return _labelled(name, replace(read, labels=named, classes=tuple(classes)), task)


def split_rows(data: Labelled, validation: float, seed: int) -> tuple[Labelled, Labelled]:
    """_Rows for training and for validation, drawn by `seed`, each in the order of `data`.

    Args:
        validation: a share below 1 (of which at least one row comes), or a number of rows.

    Raises:
        UserError: `validation` leaves nothing to train on, or asks for nothing; or there is one
            row.
    """
    if len(data) < 2:
        raise UserError(
            f"{data.name}: a single row cannot both train and validate; give at least two, or rows"
            " of their own for validation"
        )
    number = validation
    if 0 < validation < 1:
        number = min(max(1, round(len(data) * validation)), len(data) - 1)
    if not (1 <= number < len(data) and number == int(number)):
        raise UserError(
            f"`validation={validation:g}`: {data.name} has {len(data):,} rows; choose a share below"
            f" 1 or a number from 1 to {len(data) - 1}"
        )
    order = shuffled(len(data), seed, "validation")
    held, kept = np.sort(order[: int(number)]), np.sort(order[int(number) :])
    return data.take(kept), data.take(held, data.name.removesuffix("/train") + "/val")


def shuffled(rows: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """A permutation of `rows` by `seed`; two purposes never share a stream.

    Raises UserError for a negative seed.
    """
    if seed < 0:
        raise UserError(f"`seed={seed}`: choose a number that is not negative")
    stream = np.random.SeedSequence(seed, spawn_key=tuple(purpose.encode()))
    return np.random.default_rng(stream).permutation(rows)


# Texts and labels


@dataclass(frozen=True)
class _Rows:
    """What a table says, before labels are numbers; `at` says where a row stands."""

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: Sequence[Any]
    classes: tuple[str, ...] | None
    at: Callable[[int], str]


def _rows(table: Table, places: Places) -> _Rows:
    """The texts and labels of `table`. Raises UserError for a row that lacks one."""
    text, pair, label = places
    header = table.header

    where = f" in '{header[label]}'" if header else ""
    labels = [row[label] for row in table.rows]
    for i, value in enumerate(labels):
        if value == "" or not isinstance(value, str | Real):
            raise UserError(
                f"{table.at(i)}: no name or number{where} as a label; complete or remove this row"
            )
    classes = (table.classes or {}).get(header[label]) if header else None
    second = None if pair is None else table.texts(pair)
    return _Rows(table.texts(text), second, labels, classes, table.at)


def _labelled(name: str, rows: _Rows, task: str, train: Labelled | None = None) -> Labelled:
    """`rows` with labels as numbers, in the classes of `train` where that is given."""
    if train is not None and (train.second is None) != (rows.second is None):
        raise UserError(
            f"{name}: pairs of texts in one split and single texts in another; give all the same"
        )
    if LABELS[task] == "score":
        return Labelled(name, rows.first, rows.second, _scores(rows), None)
    known = rows.classes if train is None else train.classes
    classes = known or _find_classes(rows)
    return Labelled(name, rows.first, rows.second, _class_ids(rows, classes), classes)


def _scores(rows: _Rows) -> NDArray[np.float32]:
    numbers = [as_number(value) for value in rows.labels]
    for i, (value, score) in enumerate(zip(rows.labels, numbers, strict=True)):
        if score is None:
            raise UserError(
                f"{rows.at(i)}: '{short(value)}' is a label and no score; take `task`"
                f" {tasks_with('class')}"
            )
        if not abs(score) <= _LARGEST:
            raise UserError(f"{rows.at(i)}: {value} is no finite score; correct or remove it")
    return np.array(numbers, dtype=np.float32)


def _find_classes(rows: _Rows) -> tuple[str, ...]:
    """The names of all classes that occur, numbers in their own order."""
    names = {_class_name(value) for value in rows.labels}
    numbers = [as_number(value) for value in rows.labels]
    if None in numbers:
        return tuple(sorted(names))
    for i, found in enumerate(numbers):
        if not isinstance(found, int):
            raise UserError(
                f"{rows.at(i)}: {rows.labels[i]} is a score and no label; take `task`"
                f" {tasks_with('score')}"
            )
    return tuple(sorted(names, key=int))


def _class_ids(rows: _Rows, classes: tuple[str, ...]) -> NDArray[np.int64]:
    ids = {_class_name(name): i for i, name in enumerate(classes)}
    for i, value in enumerate(rows.labels):
        if _class_name(value) not in ids:
            raise UserError(
                f"{rows.at(i)}: label '{short(value)}' is none of the {len(classes)} classes"
                f" ({some(classes)}); correct it"
            )
    return np.array([ids[_class_name(value)] for value in rows.labels], dtype=np.int64)


def _require_classes(train: Labelled) -> None:
    found = np.unique(train.labels)
    if train.classes is not None and len(found) < 2:
        raise UserError(
            f"{train.name}: all {len(train)} rows are of one class, '{train.classes[found[0]]}'; a"
            " classifier needs rows of at least two"
        )


def _class_name(value: Any) -> str:
    """One spelling for each class: a whole number as such, whether text or number in the file."""
    number = as_number(value)
    return str(number) if isinstance(number, int) else str(value).strip()
