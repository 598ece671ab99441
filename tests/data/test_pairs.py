"""Pairs of texts from files of every kind."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from bayesgen.data.corpora import read_pairs
from bayesgen.errors import UserError

PAIRS = [("a cat", "a kitten, asleep"), ('"quoted"', "plain")]


@pytest.mark.parametrize("header", [[], ["sentence1\tsentence2"]])
def test_tab_separated(header: list[str], tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("\n".join([*header, *map("\t".join, PAIRS)]) + "\n")
    assert read_pairs(file) == PAIRS


def test_columns_are_found_among_others(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text('score,sentence2,sentence1\n4.5,"a kitten, asleep",a cat\n')
    assert read_pairs(file) == PAIRS[:1]


def test_json_lines_in_gzip(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl.gz"
    lines = [json.dumps({"left": first, "right": second}) for first, second in PAIRS]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert read_pairs(file) == PAIRS


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.tsv", None, "no file at"),
        ("empty.tsv", "", "has no rows"),
        (
            "three.tsv",
            "a\tb\tc\n",
            "(3 columns without a header); name two columns sentence1 and sentence2",
        ),
        ("three.csv", "text,label,more\na,b,c\n", "(text, label, more); name two columns"),
        ("rows.tsv", "text\tlabel\na\tb\n", "no pairs of texts in"),
        ("scores.csv", "left,Score\na,3\n", "(left, Score); name two columns"),
        ("gap.tsv", "a\tb\nc\t \n", "line 2: a text is missing"),
        ("number.jsonl", '{"sentence1": "a", "sentence2": 3}', "line 1: a text is missing"),
        ("pairs.txt", "a\tb\n", "not one of .tsv, .csv, .jsonl"),
    ],
)
def test_what_holds_no_pairs_is_refused(
    name: str, content: str | None, says: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as refused:
        read_pairs(tmp_path / name)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_is_no_file_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file at"):
        read_pairs(tmp_path)
