"""A corpus by name or path: its train and validation tokens, and a fingerprint of both."""

from __future__ import annotations

import difflib
import hashlib
import http.client
import os
import tempfile
import unicodedata
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bayesgen.data import tables
from bayesgen.data.labelled import lines, load_texts, running_text
from bayesgen.data.tables import holds_tables
from bayesgen.data.tokenizers import (
    CharTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    make_tokenizer,
    read_meta,
)
from bayesgen.errors import UserError

NAMES = ("python-docs", "shakespeare")
SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

# Opens a URL as a binary stream, and raises OSError where it cannot.
Opener = Callable[[str], IO[bytes]]

_TIMEOUT_SECONDS = 10.0
_DOWNLOAD_CHUNK = 1 << 16
_SCAN_CHUNK = 1 << 22
# Single and double quotes, dashes; NFKD has no ASCII for these.
_PLAIN = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as two 1-D arrays of token ids (uint16 or int64; a memmap where read from a .bin).

    `fingerprint` is plain data: "sha256" (of the text in UTF-8, or of the bytes of train.bin
    followed by those of val.bin), "train_tokens", "val_tokens", "tokenizer" and "vocab_size".
    """

    name: str
    tokenizer: Tokenizer
    train: NDArray[Any]
    val: NDArray[Any]
    fingerprint: dict[str, Any]


def open_url(url: str) -> IO[bytes]:
    """Open `url` for reading, with a timeout of 10 seconds. Raises OSError where it cannot."""
    stream: IO[bytes] = urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS)
    return stream


def load_corpus(
    name_or_path: str,
    tokenizer: Tokenizer | None = None,
    tokenizer_kind: str = "char",
    data_dir: Path | None = None,
    download: Opener = open_url,
) -> Corpus:
    """Load a built-in corpus (`NAMES`), a UTF-8 text file, or a data folder of nanoGPT.

    A text is cut, before it is encoded, into its first 90 % of characters (train) and the rest
    (val), and encoded with `tokenizer` or else with a new one of `tokenizer_kind`. A folder
    (train.bin, val.bin) is encoded already: its meta.pkl says how, and without one the ids are
    taken for `tokenizer`'s or else for GPT-2's, as nanoGPT does. Of labelled data (a name or path
    that `tables.holds_tables`) the texts make a text, one per line, in their own splits
    (`running_text`). `data_dir` keeps downloads and holds built-in sets (default:
    ~/.cache/bayesgen). Raises UserError for whatever is missing or damaged.
    """
    path = Path(name_or_path).expanduser()
    if holds_tables(name_or_path) and not (path / "train.bin").is_file():
        named, train, val = running_text(name_or_path, data_dir, "`corpus`")
        return text_corpus(named, train, val, tokenizer, tokenizer_kind)
    if name_or_path not in NAMES and path.is_dir():
        return _folder_corpus(path, tokenizer)
    name, text = corpus_text(name_or_path, data_dir, download)
    cut = int(len(text) * 0.9)
    return text_corpus(name, text[:cut], text[cut:], tokenizer, tokenizer_kind)


def corpus_text(
    name_or_path: str,
    data_dir: Path | None = None,
    download: Opener = open_url,
    setting: str = "`corpus`",
) -> tuple[str, str]:
    """Name and whole text of a built-in corpus or a UTF-8 file; of labelled data, the texts of a
    single split (see `load_texts`). Raises as `load_corpus`."""
    if name_or_path == "python-docs":
        return name_or_path, python_docs_text()
    if name_or_path == "shakespeare":
        return name_or_path, _read_text(shakespeare_path(data_dir, download))
    if holds_tables(name_or_path):
        _, found = load_texts(name_or_path, pairs=False, data_dir=data_dir, setting=setting)
        return found.name, lines(found)
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path.name, _read_text(path)
    known = (*NAMES, *tables.NAMES)
    near = difflib.get_close_matches(name_or_path.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "pass one of these names or an existing path"
    raise UserError(
        f"{setting} {name_or_path}: neither a path nor a built-in corpus ({', '.join(known)});"
        f" {hint}"
    )


@dataclass(frozen=True, eq=False)
class WholeText:
    """A text that is scored whole, in a model's own tokens: one more, or one out of distribution.

    Attributes:
        tokens: 1-D token ids.
        kept: share of its characters that the tokenizer knows; the others were left out.
    """

    name: str
    tokens: NDArray[Any]
    kept: float
    sha256: str


def load_whole_text(
    name_or_path: str, tokenizer: Tokenizer, data_dir: Path | None = None, setting: str = "`corpus`"
) -> WholeText:
    """The whole text of a corpus, restricted to the characters that `tokenizer` knows.

    Raises UserError for a text that is missing or damaged, or of which nothing is left.
    """
    name, text = corpus_text(name_or_path, data_dir, setting=setting)
    known = text
    if isinstance(tokenizer, CharTokenizer):
        others = dict.fromkeys(set(map(ord, text)) - set(map(ord, tokenizer.characters)))
        known = text.translate(others)
    if not known:
        raise UserError(f"{setting} {name}: the tokenizer knows none of its characters")
    sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return WholeText(
        name, _encode(tokenizer, known, f"{setting} {name}"), len(known) / len(text), sha256
    )


def python_docs_text() -> str:
    """The help topics of the running Python, sorted by name, in plain ASCII (465,000 characters).

    Raises UserError where this Python comes without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            "`corpus=python-docs`: this Python has no pydoc_data; take `corpus=shakespeare` or "
            "a path"
        ) from error
    text = "\n\n".join(topics[topic].strip() for topic in sorted(topics)) + "\n"
    # A handful of typographic characters would else each be a token seen a few times.
    plain = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    return plain.encode("ascii", "ignore").decode("ascii")


def shakespeare_path(data_dir: Path | None = None, download: Opener = open_url) -> Path:
    """The file of TinyShakespeare: $TINYSHAKESPEARE_PATH, else in the cache, else downloaded there.

    Raises UserError where the variable names no file, or the download fails or is not the text.
    """
    chosen = os.environ.get("TINYSHAKESPEARE_PATH")
    if chosen:
        if not Path(chosen).is_file():
            raise UserError(
                f"TINYSHAKESPEARE_PATH={chosen}: no such file; correct the variable or unset it"
            )
        return Path(chosen)
    root = Path.home() / ".cache" / "bayesgen" if data_dir is None else data_dir
    path = root / "tinyshakespeare" / "input.txt"
    if not path.is_file():
        _download(SHAKESPEARE_URL, path, SHAKESPEARE_SHA256, download)
    return path


def _download(url: str, path: Path, sha256: str, opener: Opener) -> None:
    """Fetch `url` to `path`, which appears whole and checked, or not at all."""
    ways_out = f"set TINYSHAKESPEARE_PATH to the file, put it at {path}, or pass `corpus=PATH`"
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with opener(url) as source:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
            partial = Path(name)
            with os.fdopen(handle, "wb") as target:
                digest = _copy(source, target)
        if digest != sha256:
            raise UserError(
                f"{url}: the download has the wrong checksum (sha256 {digest[:12]}..., not "
                f"{sha256[:12]}...) and was removed: try again, or {ways_out}"
            )
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"`corpus=shakespeare`: could not download to {path.parent} ({reason}): {ways_out}"
        ) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy under a progress bar (on a terminal only); the sha256 of what was copied."""
    from tqdm import tqdm

    digest = hashlib.sha256()
    size = getattr(source, "length", None)
    with tqdm(total=size, unit="B", unit_scale=True, desc="shakespeare", disable=None) as bar:
        while chunk := source.read(_DOWNLOAD_CHUNK):
            target.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _read_text(path: Path) -> str:
    """The text of `path` with "\\n" line ends, as Python's text mode gives it to nanoGPT."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 at byte {error.start}; convert the file to UTF-8"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); pass a readable text file"
        ) from error
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
    sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return Corpus(name, tokenizer, train, val, _fingerprint(sha256, train, val, tokenizer))


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
    tokenizer = _folder_tokenizer(folder, tokenizer)
    train, val = (_open_bin(file) for file in files)
    digest = hashlib.sha256()
    for file, tokens in zip(files, (train, val), strict=True):
        largest = _scan(tokens, digest)
        if largest >= tokenizer.vocab_size:
            raise UserError(
                f"{file}: token id {largest} is outside the {tokenizer.vocab_size} ids of the "
                f"{tokenizer.name} tokenizer; the file is from another tokenizer: prepare it anew"
            )
    fingerprint = _fingerprint(digest.hexdigest(), train, val, tokenizer)
    return Corpus(folder.resolve().name, tokenizer, train, val, fingerprint)


def _folder_tokenizer(folder: Path, tokenizer: Tokenizer | None) -> Tokenizer:
    meta = folder / "meta.pkl"
    if not meta.exists():
        return TiktokenTokenizer() if tokenizer is None else tokenizer
    own = read_meta(meta)
    if tokenizer is not None and tokenizer.to_dict() != own.to_dict():
        raise UserError(
            f"{meta}: its {own.vocab_size} characters are not the model's {tokenizer.name} "
            f"vocabulary of {tokenizer.vocab_size}; pass the folder that the model was trained on"
        )
    return own


def _open_bin(path: Path) -> NDArray[Any]:
    """The uint16 ids of a .bin of nanoGPT, mapped and not read."""
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise UserError(
            f"{path}: {size} bytes are no array of 16-bit token ids; run nanoGPT's prepare.py again"
        )
    return np.memmap(path, dtype="<u2", mode="r")


def _scan(tokens: NDArray[Any], digest: hashlib._Hash) -> int:
    """Feed the bytes of `tokens` to `digest`, a chunk at a time; the largest id."""
    largest = 0
    for start in range(0, len(tokens), _SCAN_CHUNK):
        chunk = np.asarray(tokens[start : start + _SCAN_CHUNK])
        digest.update(chunk.data)
        largest = max(largest, int(chunk.max()))
    return largest


def _fingerprint(
    sha256: str, train: NDArray[Any], val: NDArray[Any], tokenizer: Tokenizer
) -> dict[str, Any]:
    return {
        "sha256": sha256,
        "train_tokens": len(train),
        "val_tokens": len(val),
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
    }
