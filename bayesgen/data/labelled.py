"""Labelled texts as plain data: from a name, a file, a folder or an iterable, in checked splits.

A row is a text or a pair of texts, and a label: one of a few classes, or a score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesgen.data.choosing import (
    VALIDATION,
    Columns,
    Names,
    drawn,
    find_columns,
    find_pairs,
    find_texts,
    has_pairs,
    held_out,
)
from bayesgen.data.tables import KINDS, Table, as_number, by_name, read_tables, short, some
from bayesgen.errors import UserError
from bayesgen.tasks import TASKS, tasks_that

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
        """`num` rows, see `drawn`."""
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
        task: one whose labels are classes or numbers.
        validation: where the data have no rows for validation, how many of the training rows
            become these, drawn by `seed`: a share below 1 or a number. Where they have, anything
            but the default is refused.
        text_column, pair_column, label_column: names in the header; without `pair_column`, a
            given `text_column` stands alone.

    Raises:
        UserError: something is missing, damaged or does not fit the task.
    """
    if not TASKS[task].is_labelled:
        choices = tasks_that("sample", "class", "number")
        raise UserError(f"`task={task}`: labelled texts are for {', '.join(choices)}")
    chosen = Names(text_column, pair_column, label_column)
    name, tables = read_tables(name_or_path, data_dir, headed=any(chosen))
    for split, table in tables.items():
        if not table.rows:
            raise UserError(f"{table.source}: the {split} split has no rows; add some")
    numbers = TASKS[task].labels == "number"
    first = find_columns(tables["train"], numbers, chosen)
    splits: dict[str, Labelled] = {}
    for split, table in tables.items():
        columns = find_columns(table, numbers, chosen, first)
        splits[split] = _labelled(f"{name}/{split}", table, columns, task, splits.get("train"))
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
        task: one whose labels are classes or numbers.

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
    columns = Columns(0, 1 if width == 3 else None, width - 1)
    if classes is not None:
        if len(set(classes)) != len(classes):
            raise UserError(f"{name}: two classes have the same name; give each its own")
        named = by_name(_values(table, columns.label), tuple(classes), table.at)
        for row, value in zip(listed, named, strict=True):
            row[-1] = value
    found = _labelled(name, table, columns, task, classes=tuple(classes or ()))
    if classes is None:
        _require_classes(found)
    return found


def split_rows(data: Labelled, validation: float, seed: int) -> tuple[Labelled, Labelled]:
    """Rows for training and for validation, see `held_out`."""
    kept, held = held_out(len(data), validation, seed, data.name)
    return data.take(kept), data.take(held, data.name.removesuffix("/train") + "/val")


def _labelled(
    name: str,
    table: Table,
    columns: Columns,
    task: str,
    train: Labelled | None = None,
    classes: tuple[str, ...] | None = (),
) -> Labelled:
    """The rows of `table` with labels as numbers.

    Args:
        train: whose classes they have, where it is given.
        classes: theirs; by default those that the table states, or that occur.
    """
    if train is not None and (train.second is None) != (columns.pair is None):
        raise UserError(
            f"{name}: pairs of texts in one split and single texts in another; give all the same"
        )
    values = _values(table, columns.label)
    first = table.texts(columns.text)
    second = None if columns.pair is None else table.texts(columns.pair)
    labels: NDArray[Any]
    if TASKS[task].labels == "number":
        labels, classes = _numbers(table, values), None
    else:
        if train is not None:
            classes = train.classes
        elif not classes and table.header:
            classes = (table.classes or {}).get(table.header[columns.label])
        classes = classes or _find_classes(table, values)
        labels = _class_ids(table, values, classes)
    return Labelled(name, first, second, labels, classes)


def _values(table: Table, column: int) -> list[Any]:
    """A column of labels. Raises UserError for a row that lacks one."""
    where = f" in '{table.header[column]}'" if table.header else ""
    values = [row[column] for row in table.rows]
    for i, value in enumerate(values):
        if value == "" or not isinstance(value, str | Real):
            raise UserError(
                f"{table.at(i)}: no name or number{where} as a label; complete or remove this row"
            )
    return values


def _numbers(table: Table, values: Sequence[Any]) -> NDArray[np.float32]:
    numbers = [as_number(value) for value in values]
    for i, (value, score) in enumerate(zip(values, numbers, strict=True)):
        if score is None:
            raise UserError(
                f"{table.at(i)}: '{short(value)}' is a label and no score; take `task`"
                f" {' or '.join(tasks_that('sample', 'class'))}"
            )
        if not abs(score) <= _LARGEST:
            raise UserError(f"{table.at(i)}: {value} is no finite score; correct or remove it")
    return np.array(numbers, dtype=np.float32)


def _find_classes(table: Table, values: Sequence[Any]) -> tuple[str, ...]:
    """The names of all classes that occur, numbers in their own order."""
    names = {_class_name(value) for value in values}
    numbers = [as_number(value) for value in values]
    if None in numbers:
        return tuple(sorted(names))
    for i, found in enumerate(numbers):
        if not isinstance(found, int):
            raise UserError(
                f"{table.at(i)}: {values[i]} is a score and no label; take `task`"
                f" {' or '.join(tasks_that('sample', 'number'))}"
            )
    return tuple(sorted(names, key=int))


def _class_ids(table: Table, values: Sequence[Any], classes: tuple[str, ...]) -> NDArray[np.int64]:
    ids = {_class_name(name): i for i, name in enumerate(classes)}
    for i, value in enumerate(values):
        if _class_name(value) not in ids:
            raise UserError(
                f"{table.at(i)}: label '{short(value)}' is none of the {len(classes)} classes"
                f" ({some(classes)}); correct it"
            )
    return np.array([ids[_class_name(value)] for value in values], dtype=np.int64)


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


SPLITS = ("test", "val", "train")
"""Which one is taken: the first that is there."""


def load_texts(
    name_or_path: str, *, pairs: bool, data_dir: Path | None, setting: str
) -> tuple[str, Labelled]:
    """Texts from what `load_labelled` takes, or from a table of texts alone: one split, by name.

    The column is found by its name (text, sentence, review or sentence1, then sentence2), or it is
    the only one; of two columns without a header it is the one with more distinct values. Label 0
    stands in the place of each label.

    Args:
        pairs: whether a row is a pair of texts; else a second text is left out.
        setting: what errors name.

    Raises:
        UserError: the file is missing or damaged, or there are no texts in it.
    """
    name, tables = read_tables(name_or_path, data_dir, headed=False, setting=setting)
    split = next(split for split in SPLITS if split in tables)
    return split, _texts(name, split, tables[split], pairs, setting)


def running_text(name_or_path: str, data_dir: Path | None, setting: str) -> tuple[str, str, str]:
    """Name, and the texts for training and for validation, one per line; labels are not read.

    The second texts of pairs stand on lines of their own. Where there are no rows for validation,
    a tenth of the training rows is held back: the rows that `load_labelled` holds back by default.
    A test split is left alone.

    Args:
        name_or_path, setting: as in `load_texts`.

    Raises:
        UserError: the file is missing or damaged, or there are no texts in it.
    """
    name, tables = read_tables(name_or_path, data_dir, headed=False, setting=setting)
    found = {
        split: _texts(name, split, table, has_pairs(table), setting)
        for split, table in tables.items()
        if split != "test"
    }
    train = found["train"]
    train, val = (train, found["val"]) if "val" in found else split_rows(train, VALIDATION, 0)
    return name, lines(train), lines(val)


def lines(texts: Labelled) -> str:
    """All texts that are not blank, one per line, each pair after the other."""
    rows = zip(texts.first, texts.second or [""] * len(texts), strict=True)
    # a text may have lines of its own
    joined = (" ".join(text.splitlines()) for row in rows for text in row)
    return "".join(f"{line}\n" for line in joined if line.strip())


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs in a .tsv, .csv or .jsonl file, also with .gz.

    They are the columns sentence1 and sentence2, whatever else there is, or the only two columns. A
    .tsv or .csv has a header where one of its names is one of those that `load_labelled` knows.

    Raises:
        UserError: the file is missing or damaged, or holds no pairs.
    """
    if not path.is_file():
        raise UserError(f"`pairs_file`: no file at '{path}' ({', '.join(KINDS)}, or with .gz)")
    _, tables = read_tables(str(path.absolute()), None, headed=False)
    table = tables["train"]
    if not table.rows:
        raise UserError(f"`pairs_file`: '{path}' has no rows; add some")
    first, second = find_pairs(table, "`pairs_file`")
    pairs = [(row[first], row[second]) for row in table.rows]
    for i, pair in enumerate(pairs):
        if not all(isinstance(text, str) and text.strip() for text in pair):
            raise UserError(f"{table.at(i)}: a text is missing; complete or remove this row")
    return pairs


def _texts(name: str, split: str, table: Table, pairs: bool, setting: str) -> Labelled:
    if not table.rows:
        raise UserError(f"{table.source}: the {split} split has no rows; add some")
    first, second = find_texts(table, pairs, setting)
    labels = np.zeros(len(table.rows), dtype=np.int64)
    seconds = None if second is None else table.texts(second)
    return Labelled(f"{name}/{split}", table.texts(first), seconds, labels, None)
