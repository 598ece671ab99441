from __future__ import annotations

import hashlib
import http.client
import io
import os
import sys
import urllib.request
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from bayesgen.data import corpora
from bayesgen.data.corpora import (
    Corpus,
    WholeText,
    corpus_text,
    load_corpus,
    load_whole_text,
    python_docs_text,
)
from bayesgen.data.tokenizers import CharTokenizer, TiktokenTokenizer, write_meta
from bayesgen.errors import UserError

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 4


@pytest.fixture(autouse=True)
def _no_chosen_shakespeare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYSHAKESPEARE_PATH", raising=False)


@pytest.fixture
def stored() -> Path:
    data = os.environ.get("BAYESGEN_TEST_DATA")
    if not data:
        pytest.skip("BAYESGEN_TEST_DATA is not set: no TinyShakespeare, no vocabulary of gpt2")
    return Path(data)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "play.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def make_folder(folder: Path, train: Any, val: Any, characters: str | None = None) -> Path:
    folder.mkdir()
    np.array(train, dtype=np.uint16).tofile(folder / "train.bin")
    np.array(val, dtype=np.uint16).tofile(folder / "val.bin")
    if characters is not None:
        write_meta(folder / "meta.pkl", CharTokenizer(characters))
    return folder


def refuse(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(UserError) as error:
        load_corpus(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def whole_text(corpus: Corpus) -> str:
    return corpus.tokenizer.decode(corpus.train) + corpus.tokenizer.decode(corpus.val)


# Text files


def test_a_text_is_split_as_nanogpt_splits_it(text_file: Path) -> None:
    corpus = load_corpus(str(text_file))
    cut = int(len(TEXT) * 0.9)
    assert corpus.name == "play.txt"
    assert corpus.tokenizer == CharTokenizer.from_text(TEXT)
    assert corpus.tokenizer.decode(corpus.train) == TEXT[:cut]
    assert corpus.tokenizer.decode(corpus.val) == TEXT[cut:]
    assert corpus.fingerprint == {
        "sha256": hashlib.sha256(TEXT.encode()).hexdigest(),
        "train_tokens": cut,
        "val_tokens": len(TEXT) - cut,
        "tokenizer": "char",
        "vocab_size": len(set(TEXT)),
    }


def test_line_ends_are_those_of_text_mode(tmp_path: Path, text_file: Path) -> None:
    windows = tmp_path / "windows.txt"
    windows.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert load_corpus(str(windows)).fingerprint == load_corpus(str(text_file)).fingerprint


def test_the_tokenizer_of_the_model_wins(text_file: Path) -> None:
    wider = CharTokenizer.from_text(TEXT + "XYZ")
    corpus = load_corpus(str(text_file), tokenizer=wider, tokenizer_kind="gpt2")
    assert corpus.tokenizer is wider
    assert whole_text(corpus) == TEXT


def test_a_text_with_other_characters_than_the_model(text_file: Path) -> None:
    message = refuse(str(text_file), tokenizer=CharTokenizer("ab"))
    assert "play.txt`, train split: the character 'F' at position 0" in message


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    assert "empty.txt: the file is empty" in refuse(str(tmp_path / "empty.txt"))


def test_invalid_utf8_names_the_byte(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 noir")
    assert "latin.txt: not UTF-8 at byte 3" in refuse(str(tmp_path / "latin.txt"))


def test_an_unreadable_file(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "play.txt: cannot be read (Permission denied)" in refuse(str(text_file))


def test_an_unknown_name_offers_the_nearest() -> None:
    message = refuse("Shakespear")
    assert "`corpus` Shakespear" in message
    assert "python-docs, shakespeare" in message
    assert "did you mean shakespeare?" in message
    assert "did you mean" not in refuse("no/such/file.txt")


def test_an_unknown_tokenizer_kind(text_file: Path) -> None:
    assert "`tokenizer=word`" in refuse(str(text_file), tokenizer_kind="word")


# A text from elsewhere


def far(text: str, tmp_path: Path, characters: str = "abc ") -> WholeText:
    path = tmp_path / "far.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return load_whole_text(str(path), CharTokenizer(characters), setting="`ood_corpus`")


def test_a_far_text_keeps_the_characters_that_the_model_knows(tmp_path: Path) -> None:
    text = "a bΩc!\r\nB\u0301 cab"
    found = far(text, tmp_path)
    assert CharTokenizer("abc ").decode(found.tokens) == "a bc cab"
    assert found.kept == 8 / 13  # a line's end is one character
    assert found.name == "far.txt"
    assert found.sha256 == hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()


def test_a_far_text_of_known_characters_is_whole(tmp_path: Path) -> None:
    found = far("cab " * 9, tmp_path)
    assert found.kept == 1
    assert CharTokenizer("abc ").decode(found.tokens) == "cab " * 9
    # nothing is held out, unlike in a corpus
    assert len(found.tokens) == 36


def test_a_far_text_without_a_known_character_names_its_flag(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^`ood_corpus` far.txt: the tokenizer knows none of its"):
        far("ΩΩΩ", tmp_path)


def test_a_far_text_that_is_not_there_names_its_flag() -> None:
    with pytest.raises(UserError, match=r"^`text` pythondocs: .* did you mean python-docs\?"):
        load_whole_text("pythondocs", CharTokenizer("abc"), setting="`text`")


def test_a_folder_is_no_far_text(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny", [0, 1], [1, 1], "abc")
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_whole_text(str(folder), CharTokenizer("abc"))
    assert "\n" not in str(caught.value)


def test_a_built_in_text_can_be_far_from_a_model() -> None:
    whole = python_docs_text()
    found = load_whole_text("python-docs", CharTokenizer("abcdefghijklmnopqrstuvwxyz "))
    assert corpus_text("python-docs") == ("python-docs", whole)
    known = [c for c in whole if c == " " or c in "abcdefghijklmnopqrstuvwxyz"]
    assert len(found.tokens) == len(known)
    assert found.kept == len(known) / len(whole)


# The built-in texts


def test_python_docs_is_long_and_plain() -> None:
    corpus = load_corpus("python-docs")
    text = whole_text(corpus)
    assert text == python_docs_text()
    assert 400_000 < len(text) < 700_000
    assert text.isascii()
    assert corpus.tokenizer.vocab_size < 100
    assert "Assert statements are a convenient way" in text


def test_python_docs_needs_pydoc_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert "no pydoc_data" in refuse("python-docs")


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(url: str, timeout: float) -> IO[bytes]:
        raise AssertionError(f"{url} must not be opened")

    monkeypatch.setattr(urllib.request, "urlopen", never)


@pytest.mark.usefixtures("no_download")
def test_shakespeare_from_the_variable(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYSHAKESPEARE_PATH", str(text_file))
    corpus = load_corpus("shakespeare")
    assert corpus.name == "shakespeare"
    assert whole_text(corpus) == TEXT
    monkeypatch.setenv("TINYSHAKESPEARE_PATH", str(text_file) + ".gone")
    assert "TINYSHAKESPEARE_PATH=" in refuse("shakespeare")


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("at_home", [False, True])
def test_shakespeare_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_home: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / ".cache" / "bayesgen" if at_home else tmp_path / "elsewhere"
    (root / "tinyshakespeare").mkdir(parents=True)
    (root / "tinyshakespeare" / "input.txt").write_text(TEXT)
    data_dir = None if at_home else root
    assert whole_text(load_corpus("shakespeare", data_dir=data_dir)) == TEXT


def test_shakespeare_is_downloaded_once(
    tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "SHAKESPEARE_URL", text_file.as_uri())
    sha256 = hashlib.sha256(TEXT.encode()).hexdigest()
    monkeypatch.setattr(corpora, "SHAKESPEARE_SHA256", sha256)
    first = load_corpus("shakespeare", data_dir=tmp_path / "cache")
    assert whole_text(first) == TEXT
    cached = tmp_path / "cache" / "tinyshakespeare"
    text_file.unlink()  # cannot be downloaded any more
    assert [path.name for path in cached.iterdir()] == ["input.txt"]
    again = load_corpus("shakespeare", data_dir=tmp_path / "cache")
    assert again.fingerprint == first.fingerprint


def test_a_download_with_a_wrong_checksum_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"proxy page"))
    message = refuse("shakespeare", data_dir=tmp_path)
    assert "wrong checksum" in message
    assert not list((tmp_path / "tinyshakespeare").iterdir())


class _Breaks(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise http.client.IncompleteRead(b"")
        return super().read(size)


@pytest.mark.parametrize("breaks_late", [False, True])
def test_without_network_three_ways_out_are_named(
    tmp_path: Path, breaks_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opener(url: str, timeout: float) -> IO[bytes]:
        if breaks_late:
            return _Breaks(b"First Citizen")
        raise OSError("no\nroute")

    monkeypatch.setattr(urllib.request, "urlopen", opener)
    message = refuse("shakespeare", data_dir=tmp_path)
    assert "TINYSHAKESPEARE_PATH" in message
    assert str(tmp_path / "tinyshakespeare" / "input.txt") in message
    assert "`corpus=PATH`" in message
    assert not list((tmp_path / "tinyshakespeare").iterdir())


@pytest.mark.usefixtures("no_download")
def test_a_cache_that_cannot_be_made(text_file: Path) -> None:
    message = refuse("shakespeare", data_dir=text_file)
    assert "could not download" in message


@pytest.mark.usefixtures("no_download")
def test_real_shakespeare(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load_corpus("shakespeare", data_dir=stored)
    assert corpus.fingerprint == {
        "sha256": corpora.SHAKESPEARE_SHA256,
        "train_tokens": 1_003_854,
        "val_tokens": 111_540,
        "tokenizer": "char",
        "vocab_size": 65,
    }
    # The counts of nanoGPT's data/shakespeare.
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(stored / "tiktoken-cache"))
    bpe = load_corpus("shakespeare", tokenizer_kind="gpt2", data_dir=stored)
    assert (len(bpe.train), len(bpe.val)) == (301_966, 36_059)
    assert bpe.tokenizer.name == bpe.fingerprint["tokenizer"] == "gpt2"


# Labelled texts


def test_texts_of_a_table_are_a_corpus_of_its_own_splits(tmp_path: Path) -> None:
    for split, texts in {"train": ("ab", "ba"), "val": ("b",), "test": ("a",)}.items():
        rows = "".join(f"{text}\t{i}\n" for i, text in enumerate(texts))
        (tmp_path / f"{split}.tsv").write_text(f"text\tlabel\n{rows}")
    corpus = load_corpus(str(tmp_path))
    assert corpus.name == tmp_path.name
    assert corpus.tokenizer.decode(corpus.train) == "ab\nba\n"
    assert corpus.tokenizer.decode(corpus.val) == "b\n"
    assert corpus.fingerprint["sha256"] == hashlib.sha256(b"ab\nba\nb\n").hexdigest()
    # a far text is all texts of one split, as those of far data
    assert corpus_text(str(tmp_path)) == (f"{tmp_path.name}/test", "a\n")
    # a folder that is encoded already stays what it was
    np.array([0, 1, 0], dtype=np.uint16).tofile(tmp_path / "train.bin")
    np.array([1, 0], dtype=np.uint16).tofile(tmp_path / "val.bin")
    assert load_corpus(str(tmp_path), tokenizer=CharTokenizer("ab")).train.tolist() == [0, 1, 0]


def test_a_labelled_set_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AG_NEWS_PATH", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert refuse("ag_news", data_dir=tmp_path).startswith("`corpus` ag_news: not found; put train")
    assert "did you mean ag_news?" in refuse("ag_new")
    (tmp_path / "many.tsv").write_text("a\tb\tc\n1\t2\t3\n")
    assert "`corpus`: no column of texts" in refuse(str(tmp_path / "many.tsv"))


# Data folders of nanoGPT


def test_a_char_folder_is_mapped_and_fingerprinted(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny", [0, 1, 2, 1], [2, 2], "abc")
    corpus = load_corpus(str(folder))
    assert corpus.name == "tiny"
    assert isinstance(corpus.train, np.memmap)
    assert isinstance(corpus.val, np.memmap)
    assert corpus.tokenizer == CharTokenizer("abc")
    assert whole_text(corpus) == "abcbcc"
    both = (folder / "train.bin").read_bytes() + (folder / "val.bin").read_bytes()
    assert corpus.fingerprint == {
        "sha256": hashlib.sha256(both).hexdigest(),
        "train_tokens": 4,
        "val_tokens": 2,
        "tokenizer": "char",
        "vocab_size": 3,
    }
    assert load_corpus(str(folder), tokenizer=CharTokenizer("abc")).tokenizer.name == "char"


def test_the_scan_goes_by_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "tiny", [0, 1, 2, 1, 0], [2, 2], "abc")
    whole = load_corpus(str(folder)).fingerprint
    monkeypatch.setattr(corpora, "_SCAN_CHUNK", 2)
    assert load_corpus(str(folder)).fingerprint == whole


def test_a_folder_without_meta_is_of_gpt2_or_the_model(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny", [0, 1, 2], [1, 1])
    assert load_corpus(str(folder)).tokenizer == TiktokenTokenizer()
    assert load_corpus(str(folder), tokenizer=CharTokenizer("abc")).tokenizer.name == "char"


@pytest.mark.parametrize("tokenizer", [CharTokenizer("abd"), TiktokenTokenizer()])
def test_a_folder_of_another_tokenizer_than_the_model(tmp_path: Path, tokenizer: Any) -> None:
    folder = make_folder(tmp_path / "tiny", [0, 1], [1, 1], "abc")
    message = refuse(str(folder), tokenizer=tokenizer)
    assert "meta.pkl: its 3 characters are not the model's" in message


def test_an_id_outside_the_vocabulary(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny", [0, 1], [1, 3], "abc")
    message = refuse(str(folder))
    assert "val.bin: token id 3 is outside the 3 ids" in message


@pytest.mark.parametrize("content", [b"", b"\0\0\0"])
def test_a_bin_that_is_no_array(tmp_path: Path, content: bytes) -> None:
    folder = make_folder(tmp_path / "tiny", [0, 1], [1, 2], "abc")
    (folder / "train.bin").write_bytes(content)
    assert f"train.bin: {len(content)} bytes" in refuse(str(folder))


@pytest.mark.parametrize("missing", ["train.bin", "val.bin"])
def test_a_folder_without_its_files(tmp_path: Path, missing: str) -> None:
    folder = make_folder(tmp_path / "tiny", [0, 1], [1, 2], "abc")
    (folder / missing).unlink()
    assert f"no {missing} in this folder" in refuse(str(folder))
