"""Labelled texts from built-in sets, files and folders."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesgen.data.labelled import (
    Labelled,
)
from tests.data.tables import ROWS, SCORES, TSV, load, refuse, write, written


@pytest.fixture(autouse=True)
def _no_chosen_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AG_NEWS", "SST2", "IMDB", "STSB"):
        monkeypatch.delenv(f"{name}_PATH", raising=False)


@pytest.fixture
def stored() -> Path:
    data = os.environ.get("BAYESGEN_TEST_DATA")
    if not data:
        pytest.skip("BAYESGEN_TEST_DATA is not set: no labelled texts")
    return Path(data)


def pairs_of(data: Labelled) -> list[tuple[str, str]]:
    assert data.classes is not None
    return [(t, data.classes[i]) for t, i in zip(data.first, data.labels, strict=True)]


# Real data


@pytest.mark.parametrize(
    ("name", "train", "test", "classes"),
    [
        ("ag_news", 10_001, 7_600, ("Business", "Sci/Tech", "Sports", "World")),
        ("sst2", 60_614, 6_735, ("0", "1")),
        ("imdb", 10_000, 2_500, ("neg", "pos")),
    ],
)
def test_built_in_classes(
    stored: Path, name: str, train: int, test: int, classes: tuple[str, ...]
) -> None:
    corpus = load(name, data_dir=stored)
    assert corpus.test is not None
    assert corpus.classes == corpus.val.classes == corpus.test.classes == classes
    assert len(corpus.train) + len(corpus.val) == train
    assert len(corpus.val) == round(0.1 * train)
    assert len(corpus.test) == test
    assert corpus.train.labels.dtype == np.int64
    assert corpus.train.second is None
    assert min(map(len, corpus.test.first)) > 0
    assert load(name, data_dir=stored).fingerprint == corpus.fingerprint


def test_built_in_pairs_with_scores(stored: Path) -> None:
    corpus = load("stsb", SCORES, data_dir=stored)
    assert corpus.test is not None
    assert (len(corpus.train) + len(corpus.val), len(corpus.test)) == (5_749, 1_500)
    assert corpus.classes is None
    assert corpus.test.labels.dtype == np.float32
    assert (corpus.test.labels.min(), corpus.test.labels.max()) == (0, 5)
    assert corpus.test.first[0] == "A man with a hard hat is dancing."
    assert corpus.test.second is not None
    assert corpus.test.second[0] == "A man wearing a hard hat is dancing."
    assert corpus.test.second[-1][-1] != ")", "sources of the news stand behind the sentences"
    assert "`task` regression" in refuse("stsb", data_dir=stored)
    assert "`task` sequence-classification" in refuse("ag_news", SCORES, data_dir=stored)


def test_quotes_of_glue_are_literal(stored: Path) -> None:
    lines = (stored / "ag_news" / "test.tsv").read_text().splitlines()
    corpus = load("ag_news", data_dir=stored)
    assert corpus.test is not None
    assert list(corpus.test.first) == [line.split("\t")[0] for line in lines]
    assert sum(text.startswith('"') for text in corpus.test.first) > 100


def test_paths_to_the_same_files(stored: Path) -> None:
    folder = load(stored / "imdb")
    assert folder.fingerprint == load("imdb", data_dir=stored).fingerprint
    sst2 = load(stored / "sst2")
    assert (len(sst2.val), sst2.test) == (6_735, None), "dev of a folder is for validation"


# Where built-in sets are looked for


def test_built_in_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    message = refuse("ag_news")
    assert str(tmp_path / "home/.cache/bayesgen/ag_news") in message
    assert "AG_NEWS_PATH" in message
    assert str(tmp_path / "data" / "ag_news") in refuse("ag_news", data_dir=tmp_path / "data")

    def put(folder: Path, text: str) -> None:
        for file in ("train.tsv", "test.tsv.gz"):
            write(folder / file, TSV.replace("text", text))

    def found() -> str:
        return load("ag_news", data_dir=tmp_path / "data").train.first[0].split()[0]

    put(tmp_path / "home/.cache/bayesgen/ag_news", "cache")
    assert found() == "cache"
    monkeypatch.setenv("AG_NEWS_PATH", str(tmp_path / "chosen"))
    assert "AG_NEWS_PATH" in refuse("ag_news")
    put(tmp_path / "chosen", "variable")
    assert found() == "variable"
    put(tmp_path / "data" / "ag_news", "data_dir")
    assert found() == "data_dir"
    (tmp_path / "data" / "ag_news" / "test.tsv.gz").unlink()
    assert "no test.tsv or test.tsv.gz" in refuse("ag_news", data_dir=tmp_path / "data")


def test_stsb_may_have_sources_and_nothing_else(tmp_path: Path) -> None:
    row = "genre\tfile\t2012\t1\t{}\tA dog.\tA cat.{}\n"
    rows = [row.format(i / 2, "\ta\tb" if i % 3 else "") for i in range(10)]
    write(tmp_path / "stsb/dev.tsv", "".join(rows))
    write(tmp_path / "stsb/train.tsv", "".join(rows))
    corpus = load("stsb", SCORES, data_dir=tmp_path)
    assert corpus.train.second == ("A cat.",) * 9
    write(tmp_path / "stsb/train.tsv", "".join([*rows, row.format(1, "\ta")]))
    message = refuse("stsb", SCORES, data_dir=tmp_path)
    assert "line 11" in message
    assert "8, not 7 or 9" in message


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(st.lists(TEXT, min_size=2, max_size=8), st.sampled_from(["csv", "jsonl"]), st.booleans())
def test_files_give_back_any_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], kind: str, packed: bool
) -> None:
    rows: list[tuple[str, ...]] = [(text, "ab"[i % 2]) for i, text in enumerate([*texts, *texts])]
    rows = [*rows, *((text, "ab"[1 - i % 2]) for i, (text, _) in enumerate(rows))]
    path = tmp_path_factory.mktemp("file") / f"train.{kind}{'.gz' if packed else ''}"
    write(path, written(kind, rows, ("text", "label")))
    corpus = load(path, validation=1)
    assert Counter(pairs_of(corpus.train) + pairs_of(corpus.val)) == Counter(rows)
    assert corpus.test is None


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize(
    "header",
    [("text", "label"), ("Sentence", "label"), ("review", "score"), ("sentence", "similarity")],
)
def test_columns_by_name(tmp_path: Path, kind: str, header: tuple[str, ...]) -> None:
    path = write(tmp_path / f"a.{kind}", written(kind, list(ROWS), header))
    corpus = load(path)
    assert sorted(pairs_of(corpus.train) + pairs_of(corpus.val)) == sorted(ROWS)


def test_chosen_columns_win(tmp_path: Path) -> None:
    header = ("text", "label", "title", "topic", "sentence2")
    rows = [(f"t{i}", "x", f"title{i}", "uv"[i % 2], f"s{i}") for i in range(10)]
    path = write(tmp_path / "a.csv", written("csv", rows, header))
    corpus = load(path, text_column="title", label_column="topic")
    assert corpus.classes == ("u", "v")
    assert corpus.train.first[0].startswith("title")
    assert corpus.train.second is None
    pair = load(path, pair_column="title", label_column="topic").train
    assert pair.second is not None
    assert pair.second[0] == "title" + pair.first[0][1:]
    by_name = load(path, label_column="topic").train
    assert by_name.second is not None
    assert by_name.second[0] == "s" + by_name.first[0][1:]
    message = refuse(path, label_column="Topic")
    assert "`label_column` Topic" in message
    assert "title, topic" in message
    assert "three columns" in refuse(path, text_column="topic", label_column="topic")


def test_pairs_of_sentences_with_scores(tmp_path: Path) -> None:
    header = ("score", "sentence1", "sentence2")
    rows = [(f"{i}.5", f"a {i}", f"b {i}") for i in range(5)]
    corpus = load(write(tmp_path / "a.tsv", written("tsv", rows, header)), SCORES, validation=2)
    assert corpus.train.second is not None
    assert (len(corpus.train), len(corpus.val)) == (3, 2)
    for first, second, label in zip(
        corpus.train.first, corpus.train.second, corpus.train.labels, strict=True
    ):
        assert first[2:] == second[2:]
        assert label == int(first[2:]) + 0.5


@pytest.mark.parametrize("swapped", [False, True])
def test_columns_without_header(tmp_path: Path, swapped: bool) -> None:
    rows = [(b, a) if swapped else (a, b) for a, b in ROWS]
    path = write(tmp_path / "a.tsv", "".join("\t".join(row) + "\n" for row in rows))
    assert sorted(pairs_of(load(path, validation=2).train))[0][0].startswith("text number")
    scores = [(f"{i / 7}", "same text") for i in range(20)]
    scores = [row[::-1] if swapped else row for row in scores]
    path = write(tmp_path / "b.tsv", "".join("\t".join(row) + "\n" for row in scores))
    assert set(load(path, SCORES).train.first) == {"same text"}


def test_headerless_files_follow_the_training_file(tmp_path: Path) -> None:
    write(tmp_path / "d/train.tsv", TSV)
    write(tmp_path / "d/test.tsv", "neg\tpos\n")  # a text "neg": on its own it would be unclear
    test = load(tmp_path / "d").test
    assert test is not None
    assert pairs_of(test) == [("neg", "pos")]


def test_a_mark_of_utf8_and_windows_line_ends(tmp_path: Path) -> None:
    content = "text\tlabel\r\n" + TSV.replace("\n", "\r\n")
    path = write(tmp_path / "a.tsv", b"\xef\xbb\xbf" + content.encode())
    assert load(path).classes == ("neg", "pos")


def test_a_text_as_long_as_a_book(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", TSV + "word " * 100_000 + "\tpos\n")
    limit = csv.field_size_limit()
    corpus = load(path)
    assert max(map(len, corpus.train.first + corpus.val.first)) == 500_000
    assert csv.field_size_limit() == limit


def test_folders_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    write(folder / "train.tsv", TSV)
    write(folder / "valid.jsonl.gz", '{"text": "a", "label": "pos"}\n')
    write(folder / "test.csv", 'label,text\nneg,"b, c"\n')
    corpus = load(folder)
    assert corpus.test is not None
    assert corpus.name == "d"
    assert (len(corpus.train), pairs_of(corpus.val), pairs_of(corpus.test)) == (
        20,
        [("a", "pos")],
        [("b, c", "neg")],
    )
    assert corpus.fingerprint | {"sha256": ""} == {
        "sha256": "",
        "train_rows": 20,
        "val_rows": 1,
        "test_rows": 1,
        "classes": ["neg", "pos"],
    }
    assert "`validation=3`" in refuse(folder, validation=3)
    write(folder / "dev.tsv", TSV)
    assert "dev.tsv and valid.jsonl.gz" in refuse(folder)
    (folder / "train.tsv").unlink()
    (folder / "dev.tsv").unlink()
    assert "no train.tsv" in refuse(folder)


@pytest.mark.filterwarnings("ignore")  # of pyarrow and its friends
def test_folders_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "idx": datasets.Value("int32"),
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["positive", "negative"]),
        }
    )

    def made(labels: list[int]) -> Any:
        content = {
            "idx": list(range(len(labels))),
            "sentence": [f"s{i}" for i in range(len(labels))],
            "label": labels,
        }
        return datasets.Dataset.from_dict(content, features=features)

    stored = {"train": made([0, 1, 1, 0]), "validation": made([1])}
    datasets.DatasetDict(stored).save_to_disk(str(tmp_path / "two"))
    corpus = load(tmp_path / "two")
    assert corpus.classes == ("positive", "negative"), "the order of their ids"
    assert corpus.train.labels.tolist() == [0, 1, 1, 0]
    assert corpus.val.first == ("s0",)
    assert corpus.test is None
    made([0, 1, 1, 0]).save_to_disk(str(tmp_path / "one"))
    assert len(load(tmp_path / "one", validation=1).train) == 3
    hidden = stored | {"test": made([-1, -1])}
    datasets.DatasetDict(hidden).save_to_disk(str(tmp_path / "hidden"))
    message = refuse(tmp_path / "hidden")
    assert "(test), row 1: label -1 is outside the range" in message
    assert "label and no score" in refuse(tmp_path / "two", SCORES)
    datasets.DatasetDict({"test": made([0])}).save_to_disk(str(tmp_path / "untrained"))
    assert "no split 'train'" in refuse(tmp_path / "untrained")
    (tmp_path / "one" / "state.json").write_text("{}")
    assert "no loadable folder of datasets" in refuse(tmp_path / "one")
