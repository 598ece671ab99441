"""Texts of any table, whatever its labels are."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from bayesgen.data.labelled import Labelled
from bayesgen.data.unlabelled import load_unlabelled
from bayesgen.errors import UserError

TEXTS = ("one text", "another, with a comma", "a third")


def load(path: Path | str, *, pairs: bool = False, data_dir: Path | None = None) -> Labelled:
    return load_unlabelled(str(path), pairs=pairs, data_dir=data_dir, flag="--ood-data").texts


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
        found = load_unlabelled(str(tmp_path), pairs=False, data_dir=None, flag="--ood-data")
        assert found.split == ("train", "val", "test")[count - 1]
        assert found.texts.first == (f"of {stem}",)
        assert found.texts.name == f"{tmp_path.name}/{found.split}"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.tsv", "", "has no rows"),
        ("a.tsv", "id\tlabel\n1\tx\n", "--ood-data: no column of texts"),
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
    assert refuse(tmp_path / "gone.tsv").startswith(f"--ood-data {tmp_path / 'gone.tsv'}: neither")
    monkeypatch.delenv("SST2_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert refuse("sst2").startswith("--ood-data sst2: not found; put train.tsv and dev.tsv")
    (tmp_path / ".cache" / "bayesgen" / "sst2").mkdir(parents=True)
    assert refuse("sst2").startswith("--ood-data sst2: no train.tsv")
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
