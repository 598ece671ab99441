"""What of a table is taken: which columns hold texts and labels, which rows train or are held back.

Columns are found by their names, or by what is in them; rows are drawn by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayesgen.data.tables import LABELS, PAIRS, TEXTS, Table, as_number, plain, short, some
from bayesgen.errors import UserError

VALIDATION = 0.1
"""Default share of the training rows that validates where the data have no rows for that."""
NUMBERS = ("score", "similarity", "label")
"""Names of columns of labels that are real numbers, the more usual first."""


class Names(NamedTuple):
    """Names of columns that the user chose."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None


class Columns(NamedTuple):
    """Positions of the text, of the second text where there is one, and of the label."""

    text: int
    pair: int | None
    label: int


def find_columns(
    table: Table, numbers: bool, chosen: Names, train: Columns | None = None
) -> Columns:
    """Where texts and labels are; in a file without a header, where they are in `train`.

    Args:
        numbers: whether labels are real numbers.
    """
    header = table.header
    if header is None:
        if train is None:
            return _guessed(table, numbers)
        if len(table.rows[0]) <= max(place or 0 for place in train):
            raise UserError(
                f"{table.source}: fewer columns than the training rows have; give it the same"
            )
        return train

    def find(name: str | None, known: Sequence[str], setting: str) -> int | None:
        if name is None:
            return _first(header, known)
        if name in header:
            return header.index(name)
        raise UserError(
            f"{setting} {name}: no such column in {table.source} (there are: {some(header)})"
        )

    text = find(chosen.text, TEXTS, "`text_column`")
    pair = find(chosen.pair, PAIRS if chosen.text is None else (), "`pair_column`")
    label = find(chosen.label, NUMBERS if numbers else LABELS, "`label_column`")
    if text is None or label is None:
        what, setting = ("text", "`text_column`") if text is None else ("label", "`label_column`")
        raise UserError(
            f"{table.source}: no {what} column among {some(header)}; name it by {setting}"
        )
    if len({text, pair, label}) < 3:
        raise UserError(
            f"{table.source}: text, pair and label must be three columns; correct `text_column`,"
            " `pair_column` or `label_column`"
        )
    return Columns(text, pair, label)


def has_pairs(table: Table) -> bool:
    """Whether a column is called as second texts are."""
    return _first(table.header or (), PAIRS) is not None


def find_texts(table: Table, pairs: bool, setting: str) -> tuple[int, int | None]:
    """Where the texts are in a table whose labels do not matter, and of `pairs` the second ones.

    Args:
        setting: that named the data, for errors.
    """
    header = table.header or ()
    first, second = _first(header, TEXTS), _first(header, PAIRS)
    width = len(table.rows[0])
    if first is None and width == 1 + pairs:  # nothing else is there
        first, second = 0, 1
    elif table.header is None and not pairs and width == 2:
        first = _guessed(table, False).text
    if first is None or (pairs and second is None):
        needed = "'sentence1' and 'sentence2'" if pairs else "'text'"
        what = "pairs of texts, as the run's data are" if pairs else "column of texts"
        found = some(table.header) if table.header else f"{width} columns without a header"
        raise UserError(
            f"{setting}: no {what}, in {table.source} ({found}); call it {needed} in a first line"
        )
    return first, second if pairs else None


def find_pairs(table: Table, setting: str) -> tuple[int, int]:
    """Where the pairs are in a table of nothing else: sentence1 and sentence2, or the only two."""
    header = table.header or ()
    first, second = _first(header, TEXTS[-1:]), _first(header, PAIRS)
    if first is not None and second is not None:
        return first, second
    width = len(table.rows[0])
    if width == 2 and _first(header, LABELS) is not None:
        raise UserError(
            f"{setting}: '{table.source}' has one column of texts ({some(header)}); name two of"
            " them sentence1 and sentence2"
        )
    if width != 2:
        found = f" ({some(header)})" if header else ""
        raise UserError(
            f"{setting}: '{table.source}' has {width} columns{found}; name two of them sentence1"
            " and sentence2, or leave two"
        )
    return 0, 1


def _first(header: Sequence[str], known: Sequence[str]) -> int | None:
    """Place of the first of the `known` names that is in the header."""
    names = [plain(name) for name in header]
    return next((names.index(name) for name in known if name in names), None)


def _guessed(table: Table, numbers: bool) -> Columns:
    """Text and label of two columns without a header, by their content."""
    columns = list(zip(*table.rows, strict=True))
    if len(columns) != 2:
        raise UserError(
            f"{table.source}: {len(columns)} columns and no header that tells the text from the"
            " label; put one on top, such as text and label"
        )
    numeric = [all(as_number(value) is not None for value in column) for column in columns]
    distinct = [len(set(column)) for column in columns]
    if numbers and numeric[0] != numeric[1]:
        label = numeric.index(True)
    elif distinct[0] != distinct[1]:
        label = distinct.index(min(distinct))
    else:
        raise UserError(
            f"{table.source}: no header, and either column could be the label; put one on top, such"
            " as text and label"
        )
    labels = columns[label]
    if not numbers and len(labels) > 1 and labels.count(labels[0]) == 1:
        raise UserError(
            f"{table.at(0)}: label '{short(labels[0])}' occurs nowhere else; name the columns by"
            " `text_column` and `label_column` if this is a header, else put one on top"
        )
    return Columns(1 - label, None, label)


def held_out(
    rows: int, validation: float, seed: int, name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of so many rows train and which validate, drawn by `seed`, each in their order.

    Args:
        validation: a share below 1 (of which at least one row comes), or a number of rows.
        name: of the data, for errors.

    Raises:
        UserError: `validation` leaves nothing to train on, or asks for nothing; or there is one
            row.
    """
    if rows < 2:
        raise UserError(
            f"{name}: a single row cannot both train and validate; give at least two, or rows"
            " of their own for validation"
        )
    number = validation
    if 0 < validation < 1:
        number = min(max(1, round(rows * validation)), rows - 1)
    if not (1 <= number < rows and number == int(number)):
        raise UserError(
            f"`validation={validation:g}`: {name} has {rows:,} rows; choose a share below 1 or a"
            f" number from 1 to {rows - 1}"
        )
    order = shuffled(rows, seed, "validation")
    return np.sort(order[int(number) :]), np.sort(order[: int(number)])


def drawn(rows: int, num: int, seed: int, what: str) -> NDArray[np.int64]:
    """Places of `num` of so many rows, drawn without replacement, in their order.

    With the same seed a smaller choice lies within every larger one. Raises UserError, which says
    `what` there is, where there are not so many.
    """
    if not 1 <= num <= rows:
        raise UserError(f"`train_samples={num}`: {what}; choose a number from 1 to {rows}")
    return np.sort(shuffled(rows, seed, "train-samples")[:num])


def shuffled(rows: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """A permutation of `rows` by `seed`; two purposes never share a stream.

    Raises UserError for a negative seed.
    """
    if seed < 0:
        raise UserError(f"`seed={seed}`: choose a number that is not negative")
    stream = np.random.SeedSequence(seed, spawn_key=tuple(purpose.encode()))
    return np.random.default_rng(stream).permutation(rows)
