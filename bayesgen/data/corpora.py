"""Texts by name or path: a corpus in two splits, a whole text, the texts of a table, or pairs."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import shutil
import unicodedata
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayesgen.data import tables
from bayesgen.data.choosing import VALIDATION, find_pairs, find_texts
from bayesgen.data.labelled import Labelled, split_rows
from bayesgen.data.tables import PAIRS, Table, holds_tables, read_tables, unknown_name
from bayesgen.data.tokenizers import (
    CharTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    make_tokenizer,
    read_meta,
)
from bayesgen.errors import UserError
from bayesgen.runs.files import atomic_write

NAMES = ("python-docs", "shakespeare")
SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

_SCAN_CHUNK = 1 << 22
# Single and double quotes, dashes; NFKD has no ASCII for these.
_PLAIN = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as two 1-D arrays of token ids (uint16 or int64; a memmap where read from a .bin), and
    the sha256 of the text in UTF-8, or of the bytes of train.bin followed by those of val.bin."""

    name: str
    tokenizer: Tokenizer
    train: NDArray[Any]
    val: NDArray[Any]
    sha256: str

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {
            "sha256": self.sha256,
            "train_tokens": len(self.train),
            "val_tokens": len(self.val),
            "tokenizer": self.tokenizer.name,
            "vocab_size": self.tokenizer.vocab_size,
        }


def load_corpus(
    name_or_path: str,
    tokenizer: Tokenizer | None = None,
    tokenizer_kind: str = "char",
    data_dir: Path | None = None,
) -> Corpus:
    """Load a built-in corpus (`NAMES`), a UTF-8 text file, a data folder of nanoGPT, or a table.

    A text is cut, before it is encoded, into its first 90 % of characters (train) and the rest
    (val), and encoded with `tokenizer` or else with a new one of `tokenizer_kind`. A folder
    (train.bin, val.bin) is encoded already: its meta.pkl says how, and without one the ids are
    taken for `tokenizer`'s or else for GPT-2's, as nanoGPT does. Of a table, see `running_text`.
    `data_dir` keeps downloads and holds built-in sets (default: ~/.cache/bayesgen). Raises
    UserError for whatever is missing or damaged.
    """
    path = Path(name_or_path).expanduser()
    if not (path / "train.bin").is_file() and holds_tables(name_or_path):
        name, train, val = running_text(name_or_path, data_dir, "`corpus`")
        return text_corpus(name, train, val, tokenizer, tokenizer_kind)
    if name_or_path not in NAMES and path.is_dir():
        return _folder_corpus(path, tokenizer)
    name, text = corpus_text(name_or_path, data_dir)
    cut = int(len(text) * 0.9)
    return text_corpus(name, text[:cut], text[cut:], tokenizer, tokenizer_kind)


def corpus_text(
    name_or_path: str, data_dir: Path | None = None, setting: str = "`corpus`"
) -> tuple[str, str]:
    """Name and whole text of a built-in corpus or a UTF-8 file; of a table see `load_texts`."""
    if name_or_path == "python-docs":
        return name_or_path, python_docs_text()
    if name_or_path == "shakespeare":
        return name_or_path, _read_text(_shakespeare(data_dir))
    if holds_tables(name_or_path):
        _, found = load_texts(name_or_path, pairs=False, data_dir=data_dir, setting=setting)
        return found.name, _lines(found)
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path.name, _read_text(path)
    raise unknown_name(name_or_path, "a built-in corpus", (*NAMES, *tables.NAMES), setting)


@dataclass(frozen=True, eq=False)
class WholeText:
    """A text that is scored whole, as 1-D token ids. `kept` is the share of its characters that the
    tokenizer knows; the others were left out."""

    name: str
    tokens: NDArray[Any]
    kept: float
    sha256: str


def load_whole_text(
    name_or_path: str, tokenizer: Tokenizer, data_dir: Path | None = None, setting: str = "`corpus`"
) -> WholeText:
    """The whole text of a corpus, restricted to the characters that `tokenizer` knows."""
    name, text = corpus_text(name_or_path, data_dir, setting=setting)
    known = text
    if isinstance(tokenizer, CharTokenizer):
        known = text.translate(dict.fromkeys(map(ord, {*text} - {*tokenizer.characters})))
    if not known:
        raise UserError(f"{setting} {name}: the tokenizer knows none of its characters")
    tokens = _encode(tokenizer, known, f"{setting} {name}")
    return WholeText(name, tokens, len(known) / len(text), _sha256(text))


def python_docs_text() -> str:
    """The help topics of the running Python, sorted by name, in plain ASCII (465,000 of it)."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            "`corpus=python-docs`: this Python has no pydoc_data; take another, or a path"
        ) from error
    text = "\n\n".join(topics[topic].strip() for topic in sorted(topics)) + "\n"
    # A handful of typographic characters would else each be a token seen a few times.
    plain = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    return plain.encode("ascii", "ignore").decode("ascii")


def _shakespeare(data_dir: Path | None) -> Path:
    """The file of TinyShakespeare: $TINYSHAKESPEARE_PATH, else in the cache, else downloaded there:
    whole and checked, or not at all."""
    from tqdm import tqdm

    chosen = os.environ.get("TINYSHAKESPEARE_PATH")
    if chosen and not Path(chosen).is_file():
        raise UserError(f"TINYSHAKESPEARE_PATH={chosen}: no such file; correct or unset it")
    root = Path.home() / ".cache" / "bayesgen" if data_dir is None else data_dir
    path = Path(chosen) if chosen else root / "tinyshakespeare" / "input.txt"
    if path.is_file():
        return path
    ways_out = f"set TINYSHAKESPEARE_PATH to the file, put it at {path}, or pass `corpus=PATH`"
    content = io.BytesIO()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(SHAKESPEARE_URL, timeout=10) as source:
            size = getattr(source, "length", None)
            # a bar on a terminal only
            with tqdm.wrapattr(source, "read", size, desc="shakespeare", disable=None) as watched:
                shutil.copyfileobj(watched, content)
        digest = hashlib.sha256(content.getbuffer()).hexdigest()
        if digest != SHAKESPEARE_SHA256:
            raise UserError(
                f"{SHAKESPEARE_URL}: the download has the wrong checksum (sha256 {digest[:12]}...,"
                f" not {SHAKESPEARE_SHA256[:12]}...) and was removed: try again, or {ways_out}"
            )
        atomic_write(path, content.getvalue())
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"`corpus=shakespeare`: could not download to {path.parent} ({reason}): {ways_out}"
        ) from error
    return path


def _read_text(path: Path) -> str:
    """The text of `path` with "\\n" line ends, as Python's text mode gives it to nanoGPT."""
    text = tables.read_text(path)
    if not text:
        raise UserError(f"{path}: the file is empty; pass a text file with content")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_corpus(
    name: str, train_text: str, val_text: str, tokenizer: Tokenizer | None, kind: str = "char"
) -> Corpus:
    """A corpus of two texts, encoded with `tokenizer` or else with a new one of `kind`."""
    text = train_text + val_text
    tokenizer = make_tokenizer(kind, text) if tokenizer is None else tokenizer
    train = _encode(tokenizer, train_text, f"`corpus={name}`, train split")
    val = _encode(tokenizer, val_text, f"`corpus={name}`, val split")
    return Corpus(name, tokenizer, train, val, _sha256(text))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _encode(tokenizer: Tokenizer, text: str, where: str) -> NDArray[Any]:
    try:
        return tokenizer.encode(text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _folder_corpus(folder: Path, tokenizer: Tokenizer | None) -> Corpus:
    files = [folder / "train.bin", folder / "val.bin"]
    for file in files:
        if not file.is_file():
            raise UserError(
                f"{folder}: no {file.name} in this folder; run nanoGPT's prepare.py there, or "
                "pass a text file"
            )
    meta = folder / "meta.pkl"
    if meta.exists():
        own = read_meta(meta)
        if tokenizer is not None and tokenizer.to_dict() != own.to_dict():
            raise UserError(
                f"{meta}: its {own.vocab_size} characters are not the model's {tokenizer.name}"
                f" vocabulary of {tokenizer.vocab_size}; pass the folder that the model was"
                " trained on"
            )
        tokenizer = own
    tokenizer = tokenizer or TiktokenTokenizer()
    digest = hashlib.sha256()
    train, val = (_read_bin(file, tokenizer, digest) for file in files)
    return Corpus(folder.resolve().name, tokenizer, train, val, digest.hexdigest())


def _read_bin(path: Path, tokenizer: Tokenizer, digest: hashlib._Hash) -> NDArray[Any]:
    """The uint16 ids of a .bin of nanoGPT, mapped; `digest` is fed their bytes."""
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise UserError(
            f"{path}: {size} bytes are no array of 16-bit token ids; run nanoGPT's prepare.py again"
        )
    tokens = np.memmap(path, dtype="<u2", mode="r")
    for start in range(0, len(tokens), _SCAN_CHUNK):
        chunk = np.asarray(tokens[start : start + _SCAN_CHUNK])
        digest.update(chunk.data)
        if chunk.max() >= tokenizer.vocab_size:
            raise UserError(
                f"{path}: token id {chunk.max()} is outside the {tokenizer.vocab_size} ids of the "
                f"{tokenizer.name} tokenizer; the file is from another tokenizer: prepare it anew"
            )
    return tokens


def load_texts(
    name_or_path: str, *, pairs: bool, data_dir: Path | None, setting: str
) -> tuple[str, Labelled]:
    """Texts of what `load_labelled` takes, or of a table of texts alone: one split (test, else
    val, else train), and its name. Label 0 stands in the place of each label. Unless rows are to be
    `pairs`, a second text is left out. `setting` is what errors name."""
    name, splits = read_tables(name_or_path, data_dir, headed=False, setting=setting)
    split, table = list(splits.items())[-1]
    return split, _texts(name, split, table, pairs, setting)


def running_text(name_or_path: str, data_dir: Path | None, setting: str) -> tuple[str, str, str]:
    """Name, and the texts for training and for validation, one per line; labels are not read.

    The second texts of pairs stand on lines of their own. Where there are no rows for validation,
    those of the training rows are held back that `load_labelled` does. A test split is left alone.
    """
    name, splits = read_tables(name_or_path, data_dir, headed=False, setting=setting)
    splits.pop("test", None)
    found = [
        _texts(name, split, table, table.find(PAIRS) is not None, setting)
        for split, table in splits.items()
    ]
    train, val = found if len(found) == 2 else split_rows(found[0], VALIDATION, 0)
    return name, _lines(train), _lines(val)


def _texts(name: str, split: str, table: Table, pairs: bool, setting: str) -> Labelled:
    table.require_rows(split)
    first, second = find_texts(table, pairs, setting)
    labels = np.zeros(len(table.rows), dtype=np.int64)
    seconds = None if second is None else table.texts(second)
    return Labelled(f"{name}/{split}", table.texts(first), seconds, labels, None)


def _lines(texts: Labelled) -> str:
    """All texts that are not blank, one per line, each pair after the other."""
    rows = zip(texts.first, texts.second or [""] * len(texts), strict=True)
    # a text may have lines of its own
    joined = (" ".join(text.splitlines()) for row in rows for text in row)
    return "".join(f"{line}\n" for line in joined if line.strip())


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs in a .tsv, .csv or .jsonl file, also with .gz.

    They are the columns sentence1 and sentence2, whatever else there is, or the only two columns. A
    .tsv or .csv has a header where one of its names is one of those that `load_labelled` knows.
    """
    if not path.is_file():
        raise UserError(f"`pairs_file`: no file at '{path}'")
    table = read_tables(str(path.absolute()), None, headed=False)[1]["train"]
    if not table.rows:
        raise UserError(f"`pairs_file`: '{path}' has no rows; add some")
    first, second = find_pairs(table)
    pairs = [(row[first], row[second]) for row in table.rows]
    for i, pair in enumerate(pairs):
        if not all(isinstance(text, str) and text.strip() for text in pair):
            raise UserError(f"{table.at(i)}: a text is missing; complete or remove this row")
    return pairs
