"""Texts of any table, whatever its labels are."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from bayesgen.data.corpora import load_texts, running_text
from bayesgen.data.labelled import Labelled, load_labelled
from bayesgen.errors import UserError

TEXTS = ("one text", "another, with a comma", "a third")


def load(path: Path | str, *, pairs: bool = False, data_dir: Path | None = None) -> Labelled:
    return load_texts(str(path), pairs=pairs, data_dir=data_dir, setting="`ood_data`")[1]


def refuse(path: Path | str, *, pairs: bool = False) -> str:
    with pytest.raises(UserError) as error:
        load(path, pairs=pairs)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "text\n" + "\n".join(TEXTS)),
        ("a.tsv", "\n".join(TEXTS)),
        ("a.csv", '"one text"\n"another, with a comma"\n"a third"\n'),
        ("a.tsv", "label\tsentence\n" + "\n".join(f"7.5\t{t}" for t in TEXTS)),
        ("a.tsv", "id\tsentence1\tsentence2\n" + "\n".join(f"0\t{t}\tx" for t in TEXTS)),
        ("a.tsv", "".join(f"{t}\t{label}\n" for t, label in zip(TEXTS, "xxy", strict=True))),
        ("a.jsonl", "\n".join(json.dumps({"line": t}) for t in TEXTS)),
        ("a.jsonl", "\n".join(json.dumps({"label": None, "text": t}) for t in TEXTS)),
    ],
)
def test_texts_are_found_and_labels_do_not_matter(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    found = load(tmp_path / name)
    assert found.first == TEXTS
    assert found.second is None
    assert found.labels.tolist() == [0, 0, 0]
    assert found.classes is None
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    assert load(tmp_path / f"{name}.gz").fingerprint == found.fingerprint


def test_pairs_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("score\tsentence2\tsentence1\n1\tb\ta\n2\td\tc\n")
    found = load(tmp_path / "a.tsv", pairs=True)
    assert (found.first, found.second) == (("a", "c"), ("b", "d"))
    assert load(tmp_path / "a.tsv").first == ("a", "c")
    (tmp_path / "b.tsv").write_text("a\tb\nc\td\n")
    assert load(tmp_path / "b.tsv", pairs=True).second == ("b", "d")


def test_the_split_that_is_least_seen_is_taken(tmp_path: Path) -> None:
    for count, stem in enumerate(("train", "dev", "test"), start=1):
        (tmp_path / f"{stem}.tsv").write_text(f"text\tlabel\nof {stem}\tx\n" * 1)
        split, found = load_texts(str(tmp_path), pairs=False, data_dir=None, setting="`ood_data`")
        assert split == ("train", "val", "test")[count - 1]
        assert found.first == (f"of {stem}",)
        assert found.name == f"{tmp_path.name}/{split}"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.tsv", "", "has no rows"),
        ("a.tsv", "id\tlabel\n1\tx\n", "`ood_data`: no column of texts"),
        ("a.tsv", "1\tx\ty\n2\tx\ty\n", "3 columns without a header); call it 'text'"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', "line 2: no text in 'text'"),
        ("a.txt", "words", "not one of .tsv, .csv, .jsonl"),
        ("a.tsv", "text\nfine\ttoo many\n", "number of fields is 2, not 1"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    name: str, content: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    assert says in refuse(tmp_path / name)


def test_what_is_not_there_names_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refuse(tmp_path / "gone.tsv").startswith(f"`ood_data` {tmp_path / 'gone.tsv'}: neither")
    monkeypatch.delenv("SST2_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert refuse("sst2").startswith("`ood_data` sst2: not found; put train.tsv and dev.tsv")
    (tmp_path / ".cache" / "bayesgen" / "sst2").mkdir(parents=True)
    assert refuse("sst2").startswith("`ood_data` sst2: no train.tsv")
    (tmp_path / "one.tsv").write_text("text\nalone\n")
    assert "no pairs of texts, as the run's data are" in refuse(tmp_path / "one.tsv", pairs=True)


@pytest.mark.parametrize(("name", "rows"), [("sst2", 6735), ("ag_news", 7600), ("imdb", 2500)])
def test_built_in_sets(name: str, rows: int) -> None:
    stored = os.environ.get("BAYESGEN_TEST_DATA")
    if not stored:
        pytest.skip("BAYESGEN_TEST_DATA is not set: no labelled texts")
    found = load(name, data_dir=Path(stored))
    assert len(found) == rows
    assert found.name == f"{name}/test"


def running(path: Path | str, data_dir: Path | None = None) -> tuple[str, list[str], list[str]]:
    name, train, val = running_text(str(path), data_dir, "`corpus`")
    assert train.endswith("\n")
    assert val.endswith("\n")
    return name, train.splitlines(), val.splitlines()


def test_a_running_text_holds_back_the_rows_that_validate_a_classifier(tmp_path: Path) -> None:
    rows = [f"text number {i}\t{i % 3}" for i in range(50)]
    (tmp_path / "a.tsv").write_text("\n".join(["text\tlabel", *rows]))
    name, train, val = running(tmp_path / "a.tsv")
    assert name == "a.tsv"
    found = load_labelled(str(tmp_path / "a.tsv"), task="sequence-classification")
    assert train == list(found.train.first)
    assert val == list(found.val.first)
    assert len(val) == 5


def test_a_running_text_takes_its_own_splits_and_no_test_rows(tmp_path: Path) -> None:
    for split, texts in {"train": "ab", "dev": "cd", "test": "ef"}.items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    assert running(tmp_path) == (tmp_path.name, ["a", "b"], ["c", "d"])
    # what is never read may be of any form
    (tmp_path / "test.jsonl").write_text('{"words": 1, "more": 2}')
    assert running(tmp_path)[1:] == (["a", "b"], ["c", "d"])


def test_a_running_text_has_one_line_for_each_text_and_none_for_blank_ones(tmp_path: Path) -> None:
    rows = [{"sentence1": "one\ntwo  three\r\n", "sentence2": "four"},
            {"sentence1": " ", "sentence2": "five\u2028six"}]  # fmt: skip
    for split in ("train", "val"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert running(tmp_path)[1] == ["one two  three", "four", "five six"]


@pytest.mark.parametrize("name", ["ag_news", "stsb"])
def test_built_in_sets_as_running_texts(name: str) -> None:
    stored = os.environ.get("BAYESGEN_TEST_DATA")
    if not stored:
        pytest.skip("BAYESGEN_TEST_DATA is not set: no labelled texts")
    found = running(name, Path(stored))
    assert found[0] == name
    task = "sequence-classification" if name == "ag_news" else "regression"
    rows = load_labelled(name, task=task, data_dir=Path(stored))
    pairs = rows.val.second is not None
    assert len(found[1]) == (2 * len(rows.train) if pairs else len(rows.train))
    assert found[2][0] == rows.val.first[0]
    assert found[2][-1] == (rows.val.second or rows.val.first)[-1]
