"""Pairs of texts without labels, from a file."""

from __future__ import annotations

from pathlib import Path

from bayesgen.data.tables import KINDS, Table, read_tables, some
from bayesgen.errors import UserError

FIRST, SECOND = "sentence1", "sentence2"
LABELS = {"label", "score", "similarity"}
"""Names of columns that hold no text."""


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
    first, second = _columns(table)
    pairs = [(row[first], row[second]) for row in table.rows]
    for i, pair in enumerate(pairs):
        if not all(isinstance(text, str) and text.strip() for text in pair):
            raise UserError(f"{table.at(i)}: a text is missing; complete or remove this row")
    return pairs


def _columns(table: Table) -> tuple[int, int]:
    names = [str(name).strip().casefold() for name in table.header or ()]
    if FIRST in names and SECOND in names:
        return names.index(FIRST), names.index(SECOND)
    width = len(table.rows[0])
    if width == 2 and LABELS & set(names):
        raise UserError(
            f"`pairs_file`: '{table.source}' has one column of texts ({some(table.header or ())});"
            f" name two of them {FIRST} and {SECOND}"
        )
    if width != 2:
        found = f" ({some(table.header)})" if table.header else ""
        raise UserError(
            f"`pairs_file`: '{table.source}' has {width} columns{found}; name two of them {FIRST}"
            f" and {SECOND}, or leave two"
        )
    return 0, 1
