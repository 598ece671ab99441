"""Text to token ids and back, as nanoGPT does it: by characters or by GPT-2's byte pairs.

The folder of a Hugging Face model has them as fast tokenizers (extra `hf`).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesgen.errors import UserError

KINDS = ("char", "gpt2")
END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """A reversible map between text and ids in [0, vocab_size), of a kind (`name`) in `KINDS`."""

    @property
    def name(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> NDArray[Any]:
        """Ids of `text`, 1-D: uint16 where the vocabulary fits (65,536 ids), else int64.

        Raises UserError where the text cannot be encoded.
        """

    def decode(self, ids: ArrayLike) -> str:
        """Text of the 1-D `ids`. Raises UserError for an id outside the vocabulary."""

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able data from which `tokenizer_from_dict` makes an equal tokenizer."""


@dataclass(frozen=True)
class CharTokenizer:
    """One id per character: id i stands for `characters[i]`.

    Raises ValueError where `characters` is empty or repeats a character.
    """

    name: ClassVar[str] = "char"
    characters: str

    def __post_init__(self) -> None:
        if not self.characters or len(set(self.characters)) != len(self.characters):
            raise ValueError("the characters of a vocabulary must be distinct, and at least one")

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The tokenizer of the sorted set of the characters of `text`, as nanoGPT makes it."""
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    @cached_property
    def _codes(self) -> NDArray[np.uint32]:
        """Code point of every id, [vocab_size]."""
        return _code_points(self.characters)

    @cached_property
    def _ids(self) -> NDArray[np.int32]:
        """Id of every code point up to the largest one and, last, -1 for all above."""
        table = np.full(int(self._codes.max()) + 2, -1, dtype=np.int32)
        table[self._codes] = np.arange(self.vocab_size, dtype=np.int32)
        return table

    def encode(self, text: str) -> NDArray[Any]:
        ids = self._ids[np.minimum(_code_points(text), len(self._ids) - 1)]
        unknown = ids < 0
        if unknown.any():
            position = int(unknown.argmax())
            raise UserError(
                f"the character {text[position]!r} at position {position} is not among the "
                f"{self.vocab_size} of the tokenizer: take another corpus, or a model trained "
                "with this character"
            )
        return ids.astype(np.uint16 if self.vocab_size <= 1 << 16 else np.int64)

    def decode(self, ids: ArrayLike) -> str:
        codes = self._codes[_checked(ids, self)]
        return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.name, "characters": self.characters}


@dataclass(frozen=True)
class TiktokenTokenizer:
    """GPT-2's byte pair encoding by tiktoken, whose vocabulary is loaded at first use."""

    name: ClassVar[str] = "gpt2"
    vocab_size: ClassVar[int] = 50257

    def encode(self, text: str) -> NDArray[Any]:
        """The text of a special token is ordinary text, as in nanoGPT."""
        return np.array(load_encoding().encode_ordinary(text), np.uint16)

    def decode(self, ids: ArrayLike) -> str:
        """Bytes that are no UTF-8 become U+FFFD."""
        return str(load_encoding().decode(_checked(ids, self).tolist()))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.name}


def make_tokenizer(kind: str, text: str) -> Tokenizer:
    """A new tokenizer for `text`, of a kind in `KINDS`. Raises UserError for another kind."""
    if kind == "char":
        return CharTokenizer.from_text(text)
    if kind == "gpt2":
        return TiktokenTokenizer()
    raise UserError(f"`tokenizer={kind}`: no such tokenizer, choose one of {', '.join(KINDS)}")


def tokenizer_from_dict(d: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `to_dict` gave `d`. Raises UserError where none did."""
    kind, characters = d.get("kind"), d.get("characters")
    if kind == "gpt2":
        return TiktokenTokenizer()
    if kind != "char" or not isinstance(characters, str):
        known = ", ".join(KINDS)
        raise UserError(f"the stored tokenizer is of no known kind ({known}): save it anew")
    try:
        return CharTokenizer(characters)
    except ValueError as error:
        raise UserError(f"the stored tokenizer is damaged: {error}; save it anew") from error


def read_meta(path: Path) -> CharTokenizer:
    """The character tokenizer of nanoGPT's `meta.pkl`: {"vocab_size", "itos", "stoi"}.

    Only plain data is unpickled, so nothing in the file can run. Raises UserError where the file
    cannot be read, holds anything else, or its two tables do not belong together.
    """
    try:
        meta = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
        tokenizer = CharTokenizer("".join(meta["itos"][i] for i in range(meta["vocab_size"])))
        if {**meta, **_meta(tokenizer)} != meta:
            raise ValueError("its vocab_size, itos and stoi disagree")
    except Exception as error:  # a damaged pickle can raise nearly any exception
        raise UserError(
            f"{path}: not a meta.pkl of nanoGPT ({type(error).__name__}: {error}): run its"
            " prepare.py again"
        ) from error
    return tokenizer


class _PlainUnpickler(pickle.Unpickler):
    """Builds dicts, strings and numbers; without classes a pickle has nothing to call."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")


def write_meta(path: Path, tokenizer: CharTokenizer) -> None:
    """Write `tokenizer` as a `meta.pkl` that nanoGPT's train.py and sample.py read."""
    path.write_bytes(pickle.dumps(_meta(tokenizer)))


def _meta(tokenizer: CharTokenizer) -> dict[str, Any]:
    itos = dict(enumerate(tokenizer.characters))
    return {"vocab_size": len(itos), "itos": itos, "stoi": {c: i for i, c in itos.items()}}


def load_encoding() -> Any:
    """GPT-2's of tiktoken (it keeps a loaded one itself). Raises UserError where there is none."""
    try:
        import tiktoken

        return tiktoken.get_encoding("gpt2")
    except ImportError as error:
        raise UserError(
            "the gpt2 tokenizer needs tiktoken: pip install tiktoken, or take `tokenizer=char`"
        ) from error
    # The network's errors are OSErrors; a damaged file in the cache is a ValueError.
    except (OSError, ValueError) as error:
        raise UserError(
            f"the gpt2 vocabulary could not be loaded ({type(error).__name__}): go online, or "
            "set TIKTOKEN_CACHE_DIR to a folder in which tiktoken has stored it"
        ) from error


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _checked(ids: ArrayLike, tokenizer: Tokenizer) -> NDArray[np.int64]:
    array = np.asarray(ids).astype(np.int64)
    outside = (array < 0) | (array >= tokenizer.vocab_size)
    if outside.any():
        raise UserError(
            f"token id {array[outside][0]} is outside the {tokenizer.vocab_size} ids of the "
            f"{tokenizer.name} tokenizer: decode with the tokenizer that the model was trained with"
        )
    return array


def fast_tokenizer(tokenizer: Tokenizer) -> Any:
    """A `PreTrainedTokenizerFast` that encodes and decodes as `tokenizer` does, with the same ids.

    GPT-2's marks the end of a text with `END_OF_TEXT`; in a text these letters are ordinary ones.
    A character that a character tokenizer does not know is an Exception of `tokenizers`.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as RawTokenizer
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, CharTokenizer):
        return PreTrainedTokenizerFast(
            tokenizer_object=_byte_pairs(load_encoding()),
            bos_token=END_OF_TEXT,
            eos_token=END_OF_TEXT,
            split_special_tokens=True,
        )
    # an unknown character would else become this token, which no text can hold
    raw = RawTokenizer(models.WordLevel(_meta(tokenizer)["stoi"], unk_token=""))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def _byte_pairs(encoding: Any) -> Any:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):  # type: ignore[misc]
        """Takes the ranks that tiktoken has loaded, where transformers' reads a file of them."""

        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> Any:
            return encoding._mergeable_ranks

    return Converter(
        vocab_file=encoding.name,
        pattern=encoding._pat_str,
        extra_special_tokens=encoding._special_tokens,
    ).converted()
