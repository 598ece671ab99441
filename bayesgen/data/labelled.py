"""Labelled texts as plain data: from a name, a file, a folder or an iterable, in checked splits.

A row is a text or a pair of texts, and a label: one of a few classes, or a score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesgen.data.choosing import VALIDATION, Columns, as_numbers, drawn, find_columns, held_out
from bayesgen.data.tables import Table, read_tables, short, some
from bayesgen.errors import UserError
from bayesgen.tasks import TASKS, tasks_that

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Labelled:
    """N texts, the N second texts where a row is a pair, and labels [N]: float32 scores, or int64
    ids of `classes`, which are names in the order of the ids."""

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
        first = tuple([self.first[i] for i in chosen])
        second = None if self.second is None else tuple([self.second[i] for i in chosen])
        return Labelled(name or self.name, first, second, self.labels[chosen], self.classes)

    def subset(self, num: int, seed: int) -> Labelled:
        return self.take(drawn(len(self), num, seed, f"{self.name} has {len(self):,} examples"))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that was read: texts, labels and classes, but not the name."""
        content = [self.first, self.second, self.labels.tolist(), self.classes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class LabelledCorpus:
    """The splits of one set of labelled texts; they have the same classes."""

    name: str
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

    Columns are found by their names (`tables.TEXTS`, `PAIRS`, `LABELS`) or those that are given;
    without `pair_column`, a given `text_column` stands alone. A file without such a header must
    have two columns: for a regression the label is the one that holds numbers only, else the one
    with fewer distinct values. Labels that are whole numbers are classes in numerical order
    (0..C-1 stay as they are), names are so in alphabetical order.

    Where the data have no rows for validation, `validation` says how many of the training rows
    become these, drawn by `seed`: a share below 1 or a number. Raises UserError where something is
    missing, damaged or does not fit the task.
    """
    if not TASKS[task].is_labelled:
        choices = tasks_that("sample", "class", "number")
        raise UserError(f"`task={task}`: labelled texts are for {', '.join(choices)}")
    chosen = text_column, pair_column, label_column
    name, tables = read_tables(name_or_path, data_dir, headed=any(chosen))
    for split, table in tables.items():
        table.require_rows(split)
    numbers = TASKS[task].labels == "number"
    first = find_columns(tables["train"], numbers, chosen)
    splits: dict[str, Labelled] = {}
    for split, table in tables.items():
        columns = find_columns(table, numbers, chosen, first)
        if (columns.pair is None) != (first.pair is None):
            raise UserError(
                f"{name}/{split}: pairs of texts in one split and single texts in another; give"
                " all the same"
            )
        known = (splits["train"].classes if splits else None) or ()
        splits[split] = _labelled(f"{name}/{split}", table, columns, numbers, known)
    train = splits["train"]
    if "val" not in splits:
        train, splits["val"] = split_rows(train, validation, seed)
    elif validation != VALIDATION:
        raise UserError(
            f"`validation={validation:g}`: {name_or_path} has rows of its own for validation;"
            " leave the setting out"
        )
    _require_classes(train)
    return LabelledCorpus(name, train, splits["val"], splits.get("test"))


def labelled(
    rows: Iterable[Sequence[Any]],
    classes: Sequence[str] | None = None,
    *,
    task: str = "sequence-classification",
    name: str = "rows",
) -> Labelled:
    """`rows` of (text, label) or (text, text, label) as data.

    `classes` are names in the order of their ids: an integer is then an id and a string a name. By
    default they are those that occur, as in `load_labelled`.
    """
    listed = [list(row) for row in rows]
    if not listed:
        raise UserError(f"{name}: there are no rows; pass some")
    width = len(listed[0])
    stated = {} if classes is None else {width - 1: tuple(classes)}
    table = Table(name, None, listed, range(1, len(listed) + 1), "row", stated)
    if width not in (2, 3):
        raise UserError(f"{table.at(0)}: {width} fields; pass (text, label) or (text, text, label)")
    table.require_width(width)
    if classes is not None and len(set(classes)) != len(classes):
        raise UserError(f"{name}: two classes have the same name; give each its own")
    columns = Columns(0, 1 if width == 3 else None, width - 1)
    found = _labelled(name, table, columns, TASKS[task].labels == "number")
    if classes is None:
        _require_classes(found)
    return found


def split_rows(data: Labelled, validation: float, seed: int) -> tuple[Labelled, Labelled]:
    """Rows for training and for validation, see `held_out`."""
    kept, held = held_out(len(data), validation, seed, data.name)
    return data.take(kept), data.take(held, data.name.removesuffix("/train") + "/val")


def _labelled(
    name: str, table: Table, columns: Columns, numbers: bool, classes: tuple[str, ...] = ()
) -> Labelled:
    """The rows of `table` with labels as numbers: scores where `numbers`, else ids of `classes`, by
    default of those that the table states or that occur."""
    stated = table.classes.get(columns.label, ())
    values = table.labels(columns.label)
    for i, value in enumerate(values if stated else ()):
        if isinstance(value, Integral):  # the id of a stated class, whose name takes its place
            if not 0 <= int(value) < len(stated):
                raise UserError(
                    f"{table.at(i)}: label {value} is outside the range of the {len(stated)}"
                    f" classes ({some(stated)}), 0 to {len(stated) - 1}; correct or remove it"
                )
            values[i] = stated[int(value)]
    first = table.texts(columns.text)
    second = None if columns.pair is None else table.texts(columns.pair)
    if numbers:
        return Labelled(name, first, second, _scores(table, values), None)
    return Labelled(name, first, second, *_class_ids(table, values, classes or stated))


def _scores(table: Table, values: Sequence[Any]) -> NDArray[np.float32]:
    numbers = as_numbers(values)
    for i, (value, score) in enumerate(zip(values, numbers, strict=True)):
        if score is None:
            raise UserError(
                f"{table.at(i)}: '{short(value)}' is a label and no score; take `task`"
                f" {' or '.join(tasks_that('sample', 'class'))}"
            )
        if not abs(score) <= _LARGEST:
            raise UserError(f"{table.at(i)}: {value} is no finite score; correct or remove it")
    return np.array(numbers, dtype=np.float32)


def _class_ids(
    table: Table, values: Sequence[Any], classes: tuple[str, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Ids of classes, and these; where none are given, all that occur, numbers in their order."""
    numbers, names = as_numbers(values), _class_names(values)
    if not classes and None in numbers:
        classes = tuple(sorted(set(names)))
    elif not classes:
        for i, found in enumerate(numbers):
            if not isinstance(found, int):
                raise UserError(
                    f"{table.at(i)}: {values[i]} is a score and no label; take `task`"
                    f" {' or '.join(tasks_that('sample', 'number'))}"
                )
        classes = tuple(sorted(set(names), key=int))
    ids = {name: i for i, name in enumerate(_class_names(classes))}
    for i, name in enumerate(names):
        if name not in ids:
            raise UserError(
                f"{table.at(i)}: label '{short(values[i])}' is none of the {len(classes)} classes"
                f" ({some(classes)}); correct it"
            )
    return np.array([ids[name] for name in names], dtype=np.int64), classes


def _class_names(values: Sequence[Any]) -> list[str]:
    """One spelling for each class: a whole number as such, whether text or number in the file."""
    return [
        str(number) if isinstance(number, int) else str(value).strip()
        for value, number in zip(values, as_numbers(values), strict=True)
    ]


def _require_classes(train: Labelled) -> None:
    found = np.unique(train.labels)
    if train.classes is not None and len(found) < 2:
        raise UserError(
            f"{train.name}: all {len(train)} rows are of one class, '{train.classes[found[0]]}'; a"
            " classifier needs rows of at least two"
        )
