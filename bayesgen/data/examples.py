"""Labelled texts in a model's own tokens, and padded batches of them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bayesgen.data.labelled import Labelled
from bayesgen.data.windows import Rows
from bayesgen.errors import UserError

_ROWS = 1000  # encoded at a time: encodings take far more room than their ids
_SHOWN = 40  # characters of a text in a message


class Examples(Rows):
    """A `Labelled` and its token ids, one observation a row. `ShuffledWindows` takes it.

    A pair of texts is one sequence, or with `apart` two, each with its own special tokens.

    Attributes:
        tokenizer: of transformers; it pads with its own token, on its own side.
        max_length: tokens that a sequence has at most, special ones among them; of a pair in one,
            the longer text is cut first.
        ids: per sequence its token ids, 1-D int32; where pairs are apart, those of row i are 2 i
            and 2 i + 1.
        types: per sequence which text each token is from, 1-D uint8; None where the tokenizer does
            not say.
        cut: [N] bool, the rows that were longer.

    Raises:
        UserError: the tokenizer cannot encode a text or cannot pad, or `max_length` leaves no
            room for a token of each text; or there are no pairs to hold apart.
    """

    def __init__(
        self, data: Labelled, tokenizer: Any, max_length: int, *, apart: bool = False
    ) -> None:
        if apart and data.second is None:
            raise UserError(
                f"{data.name}: single texts, and a similarity is one of two; take pairs, or name"
                " the column of the second text with `pair_column`"
            )
        _require_room(data, tokenizer, max_length, apart)
        self.data = data
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.apart = apart
        self.ids: list[NDArray[np.int32]] = []
        types: list[NDArray[np.uint8]] = []
        texts = _texts(data, apart)
        long: list[int] = []
        for start in range(0, len(texts), _ROWS):
            chunk = texts[start : start + _ROWS]
            found = _encoded(data.name, chunk, tokenizer)
            cut = [i for i, row in enumerate(found["input_ids"]) if len(row) > max_length]
            if cut:
                shorter = _encoded(data.name, [chunk[i] for i in cut], tokenizer, max_length)
                for key, rows in found.items():
                    for i, row in zip(cut, shorter[key], strict=True):
                        rows[i] = row
            long.extend(start + i for i in cut)
            self.ids.extend(np.array(row, dtype=np.int32) for row in found["input_ids"])
            types.extend(np.array(r, dtype=np.uint8) for r in found.get("token_type_ids", ()))
        self.cut = np.zeros(len(data), dtype=np.bool_)
        self.cut[np.array(long, dtype=np.int64) // self.sequences] = True
        self.types = types or None
        for i, ids in enumerate(self.ids):
            if not len(ids):
                row = i // self.sequences
                text = " ".join(data.first[row].split())[:_SHOWN]
                raise UserError(
                    f"{data.name}: the row that begins with {text!r} has a text without tokens;"
                    " remove it from the data"
                )

    def __len__(self) -> int:
        return len(self.cut)

    @property
    def sequences(self) -> int:
        """Of each row."""
        return 2 if self.apart else 1

    @property
    def num_classes(self) -> int | None:
        return None if self.data.classes is None else len(self.data.classes)

    @property
    def truncated(self) -> int:
        """Number of rows that were cut."""
        return int(self.cut.sum())

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each row; where pairs are apart, of the longer text."""
        every = np.array([len(row) for row in self.ids], dtype=np.int64)
        longest: NDArray[np.int64] = every.reshape(len(self), self.sequences).max(1)
        return longest

    def describe(self) -> str:
        """Number and lengths of the rows, and how many were cut, in words."""
        lengths = self.lengths
        words = (
            f"{len(self):,} examples of {self.data.name}, {lengths.min()} to {lengths.max()} tokens"
            f" (mean {lengths.mean():.1f}); "
        )
        if not self.truncated:
            return words + "none was cut"
        share = self.truncated / len(self)
        return words + f"{self.truncated:,} ({share:.1%}) were cut to {self.max_length} tokens"

    def batch(self, indices: ArrayLike) -> dict[str, Tensor]:
        """The rows of the 1-D `indices`, padded to the longest of them.

        "input_ids" and "attention_mask" [B, T] int64, "token_type_ids" where the tokenizer makes
        them, and "labels" [B], int64 ids of classes or float32 scores. Where pairs are apart, the
        first three are [B, 2, T].
        """
        rows = np.asarray(indices, dtype=np.int64)
        places = self._places(rows)
        inputs = {"input_ids": [self.ids[i].tolist() for i in places]}
        if self.types is not None:
            inputs["token_type_ids"] = [self.types[i].tolist() for i in places]
        padded = self.tokenizer.pad(
            inputs, return_attention_mask=True, return_tensors="pt", verbose=False
        )
        if self.apart:
            padded = {key: both.unflatten(0, (-1, 2)) for key, both in padded.items()}
        return {**padded, "labels": torch.from_numpy(self.data.labels[rows])}

    def fingerprint(self) -> str:
        """sha256 of what a model is given and asked for: ids, token types and labels."""
        sizes = [len(row) for row in self.ids]
        digest = hashlib.sha256(f"{'apart ' if self.apart else ''}{sizes}".encode())
        for row in (*self.ids, *(self.types or ()), self.data.labels):
            digest.update(row.tobytes())
        return digest.hexdigest()

    def take(self, indices: ArrayLike) -> Examples:
        rows = np.asarray(indices, dtype=np.int64)
        places = self._places(rows)
        chosen = copy.copy(self)
        chosen.ids = [self.ids[i] for i in places]
        chosen.types = self.types and [self.types[i] for i in places]
        chosen.cut = self.cut[rows]
        chosen.data = self.data.take(rows)
        return chosen

    def overlaps(self, other: Rows) -> bool:
        """Whether both hold the same row; equal rows of two files are not the same."""
        if not isinstance(other, Examples):
            return False
        return not {id(row) for row in self.ids}.isdisjoint(id(row) for row in other.ids)

    def _places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the sequences of `rows` stand in `ids`."""
        places: NDArray[np.int64] = rows[:, None] * self.sequences + np.arange(self.sequences)
        return places.ravel()


def _require_room(data: Labelled, tokenizer: Any, max_length: int, apart: bool) -> None:
    pair = data.second is not None and not apart
    least = tokenizer.num_special_tokens_to_add(pair=pair) + 1 + pair
    if max_length < least:
        raise UserError(
            f"`max_length={max_length}` (in sampling `block_size`): special tokens and one of each"
            f" text make {least}; choose at least {least}"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"`model`: the tokenizer of '{tokenizer.name_or_path}' has no padding token; set its"
            " pad_token and the model's pad_token_id, and save both into the model's folder"
        )


def _texts(data: Labelled, apart: bool) -> list[tuple[str, ...]]:
    """The one or two texts of each sequence."""
    if data.second is None:
        return [(text,) for text in data.first]
    pairs = zip(data.first, data.second, strict=True)
    return [(text,) for pair in pairs for text in pair] if apart else list(pairs)


def _encoded(
    name: str, texts: Sequence[tuple[str, ...]], tokenizer: Any, max_length: int | None = None
) -> dict[str, Any]:
    """Lists of ids (and token types) of each sequence, cut where `max_length` is given."""
    try:
        found = tokenizer(
            *map(list, zip(*texts, strict=True)),
            truncation=False if max_length is None else "longest_first",
            max_length=max_length,
            return_attention_mask=False,
            verbose=False,  # a row above the tokenizer's own limit is cut later
        )
    except Exception as error:  # tokenizers raises nothing more particular
        raise UserError(
            f"{name}: the tokenizer of '{tokenizer.name_or_path}' cannot encode a text"
            f" ({' '.join(str(error).split())}); take texts in its own alphabet"
        ) from error
    return dict(found)
