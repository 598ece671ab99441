"""What of a table is taken: which columns hold texts and labels, which rows train or are held back.

Columns are found by their names, or by what is in them; rows are drawn by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayesgen.data.tables import LABELS, PAIRS, TEXTS, Table, short, some
from bayesgen.errors import UserError

VALIDATION = 0.1
"""Default share of the training rows that validates where the data have no rows for that."""
NUMBERS = ("score", "similarity", "label")
"""Names of columns of labels that are real numbers, the more usual first."""


class Columns(NamedTuple):
    """Positions of the text, of the second text where there is one, and of the label."""

    text: int
    pair: int | None
    label: int


def find_columns(
    table: Table, numbers: bool, chosen: Sequence[str | None], train: Columns | None = None
) -> Columns:
    """Where text, pair and label (a real number, or else a class) are: under the names that were
    `chosen`, or the usual ones; in a file without a header, where they are in `train`."""
    header = table.header
    if header is None:
        if train is None:
            return _guessed(table, numbers)
        if len(table.rows[0]) <= max(place or 0 for place in train):
            raise UserError(f"{table.source}: fewer columns than the training rows; give it these")
        return train

    places: dict[str, Any] = {}
    known = TEXTS, PAIRS if chosen[0] is None else (), NUMBERS if numbers else LABELS
    for what, name, usual in zip(Columns._fields, chosen, known, strict=True):
        if name is not None and name not in header:
            raise UserError(
                f"`{what}_column` {name}: no such column in {table.source} (of {some(header)})"
            )
        places[what] = table.find(usual) if name is None else header.index(name)
        if places[what] is None and what != "pair":
            raise UserError(
                f"{table.source}: no {what} column among {some(header)}; name it by `{what}_column`"
            )
    columns = Columns(**places)
    if len(set(columns)) < 3:
        raise UserError(
            f"{table.source}: text, pair and label must be three columns; correct `text_column`,"
            " `pair_column` or `label_column`"
        )
    return columns


def find_texts(table: Table, pairs: bool, setting: str) -> tuple[int, int | None]:
    """Where the texts are in a table whose labels do not matter, and of `pairs` the second ones:
    known by name, or the only column, or of two without a header that with more distinct values."""
    first, second = table.find(TEXTS), table.find(PAIRS)
    width = len(table.rows[0])
    if first is None and width == 1 + pairs:  # nothing else is there
        first, second = 0, 1
    elif table.header is None and not pairs and width == 2:
        first = _guessed(table, False).text
    if first is None or (pairs and second is None):
        needed = "'sentence1' and 'sentence2'" if pairs else "'text'"
        what = "pairs of texts, as the run's data are" if pairs else "column of texts"
        raise UserError(
            f"{setting}: no {what}, in {table.source} ({_columns(table)}); call it {needed} in a"
            " first line"
        )
    return first, second if pairs else None


def find_pairs(table: Table) -> tuple[int, int]:
    """Where the pairs are in a table of nothing else: sentence1 and sentence2, or the only two."""
    first, second = table.find(TEXTS[-1:]), table.find(PAIRS)
    if first is not None and second is not None:
        return first, second
    if len(table.rows[0]) == 2 and table.find(LABELS) is None:
        return 0, 1
    raise UserError(
        f"`pairs_file`: no pairs of texts in '{table.source}' ({_columns(table)}); name two columns"
        " sentence1 and sentence2, or leave two, both of texts"
    )


def _columns(table: Table) -> str:
    return some(table.header) if table.header else f"{len(table.rows[0])} columns without a header"


def _guessed(table: Table, numbers: bool) -> Columns:
    """Text and label of two columns without a header, by their content."""
    columns = list(zip(*table.rows, strict=True))
    if len(columns) != 2:
        raise UserError(
            f"{table.source}: {len(columns)} columns and no header that tells the text from the"
            " label; put one on top, such as text and label"
        )
    numeric = [None not in as_numbers(column) for column in columns]
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


def as_numbers(values: Sequence[Any]) -> list[int | float | None]:
    """Each value as a number, an int where it is whole; None where it is none."""
    return [_as_number(value) for value in values]


def _as_number(value: Any) -> int | float | None:
    if isinstance(value, str | Integral):
        with suppress(ValueError):
            return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else number


def held_out(
    rows: int, validation: float, seed: int, name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of so many rows train and which validate, drawn by `seed`, each in their order.
    `validation` is a share below 1 (of which at least one row comes), or a number of rows."""
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
    held, kept = np.split(shuffled(rows, seed, "validation"), [int(number)])
    return np.sort(kept), np.sort(held)


def drawn(rows: int, num: int, seed: int, what: str) -> NDArray[np.int64]:
    """Places of `num` of so many rows, drawn without replacement, in their order: with the same
    seed a smaller choice lies within every larger one. An error says `what` there is."""
    if not 1 <= num <= rows:
        raise UserError(f"`train_samples={num}`: {what}; choose a number from 1 to {rows}")
    return np.sort(shuffled(rows, seed, "train-samples")[:num])


def shuffled(rows: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """A permutation of `rows` by `seed`; two purposes never share a stream."""
    if seed < 0:
        raise UserError(f"`seed={seed}`: choose a number that is not negative")
    stream = np.random.SeedSequence(seed, spawn_key=tuple(purpose.encode()))
    return np.random.default_rng(stream).permutation(rows)
