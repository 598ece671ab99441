"""Labels of rows, tables that are refused, and rows for validation."""

from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesgen.data.choosing import shuffled
from bayesgen.data.labelled import (
    labelled,
    split_rows,
)
from bayesgen.errors import UserError
from tests.data.tables import CLASSES, ROWS, SCORES, TSV, load, one_line, refuse, write, written


@pytest.fixture(autouse=True)
def _no_chosen_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AG_NEWS", "SST2", "IMDB", "STSB"):
        monkeypatch.delenv(f"{name}_PATH", raising=False)


# Labels


@pytest.mark.parametrize(
    ("labels", "classes", "ids"),
    [
        (["1", "0", "2"], ("0", "1", "2"), [1, 0, 2]),
        (["1.0", "0.0", "1"], ("0", "1"), [1, 0, 1]),
        ([True, False, 1], ("0", "1"), [1, 0, 1]),
        (["10", "9", "-1"], ("-1", "9", "10"), [2, 1, 0]),
        (["b", "a ", "b"], ("a", "b"), [1, 0, 1]),
        (["b", "10", 10], ("10", "b"), [1, 0, 0]),
    ],
)
def test_ids_of_classes(labels: list[Any], classes: tuple[str, ...], ids: list[int]) -> None:
    data = labelled([("text", label) for label in labels])
    assert data.classes == classes
    assert data.labels.tolist() == ids


def test_rows_of_python() -> None:
    data = labelled([("a", "b", 1), ("c", "d", "neg")], ["neg", "pos"], name="mine")
    assert (data.name, data.first, data.second) == ("mine", ("a", "c"), ("b", "d"))
    assert data.labels.tolist() == [1, 0]
    assert labelled(iter([("a", 2)]), ["0", "1", "2"]).labels.tolist() == [2]
    assert labelled([("a", np.int64(1))], ["5", "7"]).labels.tolist() == [1], "an id, not a name"
    scores = labelled([("a", 2), ("b", np.float32(0.5))], task=SCORES)
    assert scores.classes is None
    assert scores.labels.dtype == np.float32
    assert scores.labels.tolist() == [2, 0.5]


@pytest.mark.parametrize(
    ("rows", "given", "task", "reason"),
    [
        ([], None, CLASSES, "no rows"),
        ([("a",)], None, CLASSES, "row 1: 1 fields"),
        ([("a", 0), ("a", "b", 1)], None, CLASSES, "row 2"),
        ([("a", 0), ("b", 0)], None, CLASSES, "of one class, '0'"),
        ([("a", 0), (7, 1)], None, CLASSES, "row 2: no text"),
        ([("a", 0), ("b", None)], None, CLASSES, "row 2: no name or number"),
        ([("a", 0), ("b", [1])], None, CLASSES, "row 2: no name or number"),
        ([("a", 0), ("b", "")], None, CLASSES, "row 2: no name or number"),
        ([("a", 0), ("b", 2)], ["x", "y"], CLASSES, "row 2: label 2 is outside the range"),
        ([("a", 0), ("b", -1)], ["x", "y"], CLASSES, "row 2: label -1 is outside the range"),
        ([("a", 0), ("b", 3)], ["1", "2", "3"], CLASSES, "row 2: label 3 is outside the range"),
        ([("a", 0), ("b", "z")], ["x", "y"], CLASSES, "row 2: label 'z' is none of the 2"),
        ([("a", 0)], ["x", "x"], CLASSES, "same name"),
        ([("a", 0), ("b", 0.5)], None, CLASSES, "row 2: 0.5 is a score and no label"),
        ([("a", 0), ("b", "nan")], None, CLASSES, "row 2: nan is a score and no label"),
        ([("a", 0), ("b", "x")], None, SCORES, "row 2: 'x' is a label and no score"),
        ([("a", 0), ("b", "nan")], None, SCORES, "row 2: nan is no finite score"),
        ([("a", 0), ("b", 1e39)], None, SCORES, "row 2: 1e.39 is no finite score"),
    ],
)
def test_wrong_rows_are_refused(rows: Any, given: Any, task: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        labelled(rows, given, task=task)
    one_line(error)


def test_other_splits_have_the_classes_of_train(tmp_path: Path) -> None:
    write(tmp_path / "d/train.tsv", "text\tlabel\n" + TSV)
    write(tmp_path / "d/test.tsv", "text\tlabel\na\tpos\nb\tneutral\n")
    message = refuse(tmp_path / "d")
    assert "test.tsv, line 3: label 'neutral' is none of the 2 classes (neg, pos)" in message
    write(tmp_path / "d/train.tsv", "text\tlabel\na\t0\nb\t1\n")
    write(tmp_path / "d/test.tsv", "text\tlabel\na\t2\n")
    assert "label '2' is none of the 2 classes (0, 1)" in refuse(tmp_path / "d")
    write(tmp_path / "d/test.tsv", "sentence1\tsentence2\tlabel\na\tb\t1\n")
    assert "pairs of texts" in refuse(tmp_path / "d")


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.tsv", "", "no rows"),
        ("a.tsv", "text\tlabel\n", "no rows"),
        ("a.jsonl", "\n\n", "no rows"),
        ("a.tsv", TSV + "torn line\n", "line 21: the number of fields is 1, not 2"),
        ("a.tsv", "text\tlabel\n\na\tb\tc\n", "line 3: the number of fields is 3, not 2"),
        ("a.csv", 'text,label\na,0\n"b\nc",1\nd\n', "line 5: the number of fields is 1"),
        ("a.csv", 'text,label\na,0\n"b,1\nc,0\n', "line 3: unexpected end of data"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b', "line 2: not one JSON object"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', "line 2: not one JSON object"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}', "line 2: no name .* 'label'"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"label": 2}', "line 2: no text in 'text'"),
        ("a.tsv", "text\tsentiment\na\tpos\n", "no label column among text, sentiment; name it by"),
        ("a.tsv", "headline\tlabel\na\tpos\n", "no text column among headline, label; name it by"),
        ("a.jsonl", '{"a": "b"}', "no text column among a"),
        ("a.tsv", "headline\ttopic\n" + TSV, "line 1: label 'topic' occurs nowhere else"),
        ("a.tsv", "one\ntwo\n", "1 columns and no header"),
        ("a.tsv", "a\tb\t0\nc\td\t1\n", "3 columns and no header"),
        ("a.tsv", "a\tneg\nb\tpos\n", "either column could be the label"),
        ("a.tsv", "text\tlabel\na\tpos\nb\tpos\n", "one class, 'pos'"),
        ("a.tsv", "text\tlabel\na\t0\nb\t1\nc\t3.8\n", "line 4: 3.8 is a score .* regression"),
        ("a.tsv", "text\tlabel\na\t0\nb\t\n", "line 3: no name or number in 'label'"),
        ("a.tsv", b"text\tlabel\n\xff\t0\n", "not UTF-8 at byte 11"),
        ("a.txt", TSV, "not one of .tsv, .csv, .jsonl"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=reason) as error:
        load(path, validation=1)
    assert str(path) in one_line(error) or "a.tsv/train" in str(error.value)


def test_an_empty_test_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d/train.tsv", TSV)
    write(tmp_path / "d/test.tsv", "")
    assert "the test split has no rows" in refuse(tmp_path / "d")


def test_torn_archives_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(TSV.encode())
    for damaged in (whole[:-9], TSV.encode(), whole[:12] + b"\xff\xff" + whole[14:]):
        path = tmp_path / "a.tsv.gz"
        path.write_bytes(damaged)
        assert "not a whole gzip file" in refuse(path)


@given(st.integers(0, 400), st.binary(max_size=6), st.sampled_from(["tsv", "csv", "jsonl"]))
def test_damage_is_an_error_of_the_user(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes, kind: str
) -> None:
    content = written(kind, list(ROWS), ("text", "label")).encode()
    path = tmp_path_factory.mktemp("damaged") / f"a.{kind}"
    path.write_bytes(content[:cut] + junk + content[cut + 3 :])
    with suppress(UserError):  # and nothing else
        corpus = load(path)
        assert len(corpus.train) + len(corpus.val) >= 2


def test_missing_data_and_wrong_tasks(tmp_path: Path) -> None:
    assert "did you mean ag_news?" in refuse("agnews")
    assert "built-in data" in refuse(tmp_path / "none.tsv")
    assert "`task=causal-lm`" in refuse("ag_news", "causal-lm")


# Rows for validation


@pytest.mark.parametrize("validation", [0, -1, 20, 21, 1.5, 1e9, float("nan"), float("inf")])
def test_a_validation_split_that_is_none(tmp_path: Path, validation: float) -> None:
    message = refuse(write(tmp_path / "a.tsv", TSV), validation=validation)
    assert "`validation=" in message
    assert "1 to 19" in message


def test_validation_must_leave_two_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", TSV)
    assert "all 1 rows are of one class" in refuse(path, validation=19)
    assert "`seed=-1`" in refuse(path, seed=-1)


@given(st.integers(2, 60), st.integers(0, 2**40), st.data())
def test_validation_is_carved_out_by_seed(rows: int, seed: int, draw: st.DataObject) -> None:
    data = labelled([(str(i), i % 2) for i in range(rows)])
    number = draw.draw(st.integers(1, rows - 1))
    train, val = split_rows(data, number, seed)
    assert len(val) == number
    texts = [int(text) for text in train.first], [int(text) for text in val.first]
    assert sorted(texts[0] + texts[1]) == list(range(rows))
    assert all(part == sorted(part) for part in texts)
    assert split_rows(data, number, seed)[1].fingerprint == val.fingerprint
    for part, positions in zip((train, val), texts, strict=True):
        assert part.fingerprint == data.take(positions).fingerprint
    share, _ = split_rows(data, 0.25, seed)
    assert abs(rows - len(share) - rows / 4) <= 1


def test_a_single_row_is_not_split() -> None:
    data = labelled([("a", 0.5)], task="regression")
    with pytest.raises(UserError, match="a single row cannot both train and validate"):
        split_rows(data, 0.1, 0)


def test_seeds_and_purposes_have_streams_of_their_own() -> None:
    orders = [shuffled(50, *key).tolist() for key in [(0, "a"), (1, "a"), (0, "b"), (2**32, "a")]]
    assert len(set(map(tuple, orders))) == 4


def test_fingerprint_is_of_the_content() -> None:
    data = labelled([("a", 0), ("b", 1)])
    assert labelled([("a", 0), ("b", 1)], name="other").fingerprint == data.fingerprint
    for other in (
        labelled([("b", 1), ("a", 0)]),
        labelled([("a", 1), ("b", 0)]),
        labelled([("a", 0), ("b", 1)], ["x", "y"]),
        labelled([("a", 0), ("b", 1)], task=SCORES),
        labelled([("a", "", 0), ("b", "", 1)]),
    ):
        assert other.fingerprint != data.fingerprint
