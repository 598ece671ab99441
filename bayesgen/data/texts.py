"""Texts whose labels do not matter: those of another labelled set, of any table, or pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bayesgen.data.choosing import VALIDATION, find_pairs, find_texts, has_pairs
from bayesgen.data.labelled import Labelled, split_rows
from bayesgen.data.tables import KINDS, Table, read_tables
from bayesgen.errors import UserError

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
