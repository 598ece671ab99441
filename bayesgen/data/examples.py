"""Labelled texts as a network takes them: in its own tokens, or as embeddings of an encoder.

Embeddings are of an encoder that stays as it is: each text is read once, ever. They are kept on
disk, under a name made of the encoder and of the texts, and read the first time that a row is asked
for.
"""

from __future__ import annotations

import copy
import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from bayesgen.data.labelled import Labelled
from bayesgen.data.tables import short
from bayesgen.data.windows import Rows
from bayesgen.errors import UserError
from bayesgen.runs.files import atomic_save

_ROWS = 1000  # encoded at a time: encodings take far more room than their ids
FOLDER = "sentence_embeddings"
PART = 1024
"""Rows of a file of embeddings: what a stop in the middle costs at most."""
BATCH = 64
VERSION = 1

Embed = Callable[[Mapping[str, Tensor]], Tensor]
"""The embeddings [B, H] of a batch of examples."""


class Examples(Rows):
    """A `Labelled` and its token ids, one observation a row.

    A pair of texts is one sequence, or with `apart` two, each with its own special tokens: those of
    row i are then 2 i and 2 i + 1. Special tokens count towards `max_length`; of a pair in one
    sequence the longer text is cut first.

    Attributes:
        ids: per sequence its token ids, 1-D int32.
        types: per sequence which text each token is from, 1-D uint8; None where that is not said.
        cut: [N] bool, the rows that were longer.
    """

    row_targets = 1

    def __init__(
        self, data: Labelled, tokenizer: Any, max_length: int, *, apart: bool = False
    ) -> None:
        if apart and data.second is None:
            raise UserError(
                f"{data.name}: single texts, and a similarity is one of two; take pairs, or name"
                " the column of the second text with `pair_column`"
            )
        pair = data.second is not None and not apart
        least = tokenizer.num_special_tokens_to_add(pair=pair) + 1 + pair
        if max_length < least:
            raise UserError(
                f"`max_length={max_length}` (in sampling `block_size`): special tokens and one of"
                f" each text make {least}; choose at least {least}"
            )
        if tokenizer.pad_token_id is None:
            raise UserError(
                f"`model`: the tokenizer of '{tokenizer.name_or_path}' has no padding token; set"
                " its pad_token and the model's pad_token_id, and save both into the model's folder"
            )
        self.data = data
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.apart = apart
        self.sequences = 2 if apart else 1  # of each row
        self.ids: list[NDArray[np.int32]] = []
        types: list[NDArray[np.uint8]] = []
        self.cut = np.zeros(len(data), dtype=np.bool_)
        texts = _texts(data, apart)
        for start in range(0, len(texts), _ROWS):
            chunk = texts[start : start + _ROWS]
            found = _encoded(data.name, chunk, tokenizer)
            long = [i for i, row in enumerate(found["input_ids"]) if len(row) > max_length]
            if long:
                shorter = _encoded(data.name, [chunk[i] for i in long], tokenizer, max_length)
                for key, rows in found.items():
                    for i, row in zip(long, shorter[key], strict=True):
                        rows[i] = row
                self.cut[(start + np.array(long)) // self.sequences] = True
            self.ids.extend(np.array(row, dtype=np.int32) for row in found["input_ids"])
            types.extend(np.array(r, dtype=np.uint8) for r in found.get("token_type_ids", ()))
        self.types = types or None
        for i, ids in enumerate(self.ids):
            if not len(ids):
                text = short(data.first[i // self.sequences])
                raise UserError(
                    f"{data.name}: the row that begins with {text!r} has a text without tokens;"
                    " remove it from the data"
                )

    def __len__(self) -> int:
        return len(self.cut)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """A batch, as torch's `DataLoader` asks for it."""
        return self.batch(indices)

    @property
    def num_classes(self) -> int | None:
        return None if self.data.classes is None else len(self.data.classes)

    @property
    def truncated(self) -> int:
        return int(self.cut.sum())

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each row; where pairs are apart, of the longer text."""
        every = np.array([len(row) for row in self.ids], dtype=np.int64)
        longest: NDArray[np.int64] = every.reshape(len(self), self.sequences).max(1)
        return longest

    def describe(self) -> str:
        sizes, count = self.lengths, self.truncated
        cut = f"{count:,} ({count / len(self):.1%}) were cut to {self.max_length} tokens"
        return (
            f"{len(self):,} examples of {self.data.name}, {sizes.min()} to {sizes.max()} tokens"
            f" (mean {sizes.mean():.1f}); {cut if count else 'none was cut'}"
        )

    def batch(self, indices: ArrayLike) -> dict[str, Tensor]:
        """The rows of the 1-D `indices`, padded to the longest of them.

        "input_ids" and "attention_mask" [B, T] int64, "token_type_ids" where the tokenizer makes
        them, and "labels" [B], int64 ids of classes or float32 scores. Where pairs are apart, the
        first three are [B, 2, T].
        """
        rows, places = self._places(indices)
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

    def take(self, indices: ArrayLike) -> Self:
        rows, places = self._places(indices)
        chosen = copy.copy(self)
        chosen.ids = [self.ids[i] for i in places]
        chosen.types = self.types and [self.types[i] for i in places]
        chosen.cut = self.cut[rows]
        chosen.data = self.data.take(rows)
        return chosen

    def overlaps(self, other: Rows) -> bool:
        """Whether both hold the same row; equal rows of two files are not the same."""
        theirs = other.ids if isinstance(other, type(self)) else []
        return not {id(row) for row in self.ids}.isdisjoint(map(id, theirs))

    def _places(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of `indices`, and where their sequences stand in `ids`."""
        rows = np.asarray(indices, dtype=np.int64)
        return rows, (rows[:, None] * self.sequences + np.arange(self.sequences)).ravel()


def _texts(data: Labelled, apart: bool) -> list[tuple[str, ...]]:
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


class Embedded(Examples):
    """`Examples` whose texts are embeddings; a batch is "sentence_embedding" [B, H], "labels" [B].
    `embed` is the encoder, as it will stay, `encoder` its sha256; for `folder` see `cache_folder`.
    """

    def __init__(self, examples: Examples, embed: Embed, encoder: str, folder: Path) -> None:
        vars(self).update(vars(examples))
        self.embed = embed
        self.encoder = encoder
        self.folder = folder
        self._whole = self  # whose embeddings those of chosen rows are
        self._chosen = np.arange(len(examples))

    def batch(self, indices: ArrayLike) -> dict[str, Tensor]:
        rows = np.asarray(indices, dtype=np.int64)
        return {
            "sentence_embedding": self._whole.embeddings[self._chosen[rows]],
            "labels": torch.from_numpy(self.data.labels[rows]),
        }

    def read(self) -> None:
        """Embed the texts now, where that was not done before."""
        _ = self._whole.embeddings

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.encoder} {super().fingerprint()}".encode()).hexdigest()

    def take(self, indices: ArrayLike) -> Self:
        chosen = super().take(indices)
        vars(chosen).pop("embeddings", None)
        chosen._chosen = self._chosen[np.asarray(indices, dtype=np.int64)]
        return chosen

    @cached_property
    def embeddings(self) -> Tensor:
        """Those of all rows [N, H], float32: from the disk, or made and kept, part by part."""
        key = f"{VERSION} {self.encoder} {super().fingerprint()}"
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        parts = {
            self.folder / f"{name}-{start:08d}.safetensors": np.arange(len(self))[start:][:PART]
            for start in range(0, len(self), PART)
        }
        found = {path: _kept(path, len(rows)) for path, rows in parts.items()}
        missing = [path for path, part in found.items() if part is None]
        if missing:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"`data_dir`: '{self.folder}' cannot be made ({error.strerror}), and embeddings"
                    " are kept there; name a folder that can be written"
                ) from error
            with tqdm(
                total=len(self), initial=len(self) - sum(len(parts[path]) for path in missing),
                desc=f"embedding {self.data.name}", unit="text", dynamic_ncols=True,
                mininterval=0.5 if sys.stderr.isatty() else 30,
            ) as bar:  # fmt: skip
                for path in missing:
                    found[path] = made = self._made(parts[path], bar)
                    atomic_save(path, {"sentence_embedding": made}, {"data": self.data.name})
        return torch.cat([part for part in found.values() if part is not None])

    def _made(self, rows: NDArray[np.int64], bar: Any) -> Tensor:
        # texts of like lengths together: less padding
        order = np.argsort(-self.lengths[rows], kind="stable")
        pieces = []
        for first in range(0, len(rows), BATCH):
            chosen = rows[order[first : first + BATCH]]
            pieces.append(self.embed(super().batch(chosen)).float().cpu())
            bar.update(len(chosen))
        made = torch.empty(len(rows), pieces[0].shape[1])
        made[torch.from_numpy(order)] = torch.cat(pieces)
        return made


def _kept(path: Path, count: int) -> Tensor | None:
    """The embeddings of so many rows, if they are on the disk and whole."""
    try:
        found = load_file(path)["sentence_embedding"]
    except (OSError, SafetensorError, KeyError):
        return None
    return found if len(found) == count else None


def cache_folder(data_dir: Path | None) -> Path:
    """Where embeddings are kept: in `data_dir` where that can be written, else in ~/.cache."""
    if data_dir is not None and os.access(data_dir, os.W_OK):
        return data_dir / FOLDER
    return Path.home() / ".cache" / "bayesgen" / FOLDER
