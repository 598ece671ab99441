"""Texts whose labels do not matter: those of another labelled set, or of any table."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayesgen.data.labelled import Labelled
from bayesgen.data.tables import find_texts, read_tables
from bayesgen.errors import UserError

SPLITS = ("test", "val", "train")
"""Which one is taken: the first that is there."""


class Unlabelled(NamedTuple):
    """Texts of one split; label 0 stands in the place of each label."""

    split: str
    texts: Labelled


def load_unlabelled(
    name_or_path: str, *, pairs: bool, data_dir: Path | None, flag: str
) -> Unlabelled:
    """Texts from what `load_labelled` takes, or from a table of texts alone.

    The column is found by its name (text, sentence, review or sentence1, then sentence2), or it is
    the only one; of two columns without a header it is the one with more distinct values.

    Args:
        pairs: whether a row is a pair of texts; else a second text is left out.
        flag: what errors name.

    Raises:
        UserError: the file is missing or damaged, or there are no texts in it.
    """
    name, tables = read_tables(name_or_path, data_dir, headed=False, flag=flag)
    split = next(split for split in SPLITS if split in tables)
    table = tables[split]
    if not table.rows:
        raise UserError(f"{table.source}: the {split} split has no rows; add some")
    first, second = find_texts(table, pairs, flag)
    labels = np.zeros(len(table.rows), dtype=np.int64)
    texts = Labelled(
        f"{name}/{split}",
        table.texts(first),
        None if second is None else table.texts(second),
        labels,
        None,
    )
    return Unlabelled(split, texts)
