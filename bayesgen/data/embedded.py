"""Labelled texts as embeddings of an encoder that stays as it is: each text is read once, ever.

The embeddings are kept on disk, under a name made of the encoder and of the texts, and read the
first time that a row is asked for.
"""

from __future__ import annotations

import copy
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from bayesgen.data.examples import Examples
from bayesgen.data.labelled import Labelled
from bayesgen.data.windows import Rows
from bayesgen.errors import UserError
from bayesgen.runs import atomic_save

FOLDER = "sentence_embeddings"
PART = 1024
"""Rows of a file: what a stop in the middle costs at most."""
BATCH = 64
VERSION = 1

Embed = Callable[[Mapping[str, Tensor]], Tensor]
"""The embeddings [B, H] of a batch of examples."""


class Embedded(Rows):
    """`Examples` whose texts are embeddings; a batch is "sentence_embedding" [B, H], "labels" [B].

    Args:
        embed: the encoder, as it will stay; `encoder` is the sha256 of it.
        folder: where embeddings are kept (see `cache_folder`).
    """

    def __init__(self, examples: Examples, embed: Embed, encoder: str, folder: Path) -> None:
        self.examples = examples
        self.embed = embed
        self.encoder = encoder
        self.folder = folder
        self._whole = self  # whose embeddings those of chosen rows are
        self._places = np.arange(len(examples))

    def __len__(self) -> int:
        return len(self._places)

    @property
    def data(self) -> Labelled:
        return self.examples.data

    @property
    def max_length(self) -> int:
        return self.examples.max_length

    @property
    def num_classes(self) -> int | None:
        return self.examples.num_classes

    def batch(self, indices: ArrayLike) -> dict[str, Tensor]:
        """The rows of the 1-D `indices`, float32 and int64 ids of classes."""
        rows = np.asarray(indices, dtype=np.int64)
        return {
            "sentence_embedding": self._whole.embeddings[self._places[rows]],
            "labels": torch.from_numpy(self.data.labels[rows]),
        }

    def read(self) -> None:
        """Embed the texts now, where that was not done before."""
        _ = self._whole.embeddings

    def describe(self) -> str:
        return self.examples.describe()

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.encoder} {self.examples.fingerprint()}".encode()).hexdigest()

    def take(self, indices: ArrayLike) -> Embedded:
        rows = np.asarray(indices, dtype=np.int64)
        chosen = copy.copy(self)
        vars(chosen).pop("embeddings", None)
        chosen.examples = self.examples.take(rows)
        chosen._places = self._places[rows]
        return chosen

    def overlaps(self, other: Rows) -> bool:
        return isinstance(other, Embedded) and self.examples.overlaps(other.examples)

    @cached_property
    def embeddings(self) -> Tensor:
        """Those of all rows [N, H], float32: from the disk, or made and kept, part by part."""
        starts = range(0, len(self.examples), PART)
        parts = {start: self._kept(start) for start in starts}
        missing = [start for start, part in parts.items() if part is None]
        if missing:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"`data_dir`: '{self.folder}' cannot be made ({error.strerror}), and embeddings"
                    " are kept there; name a folder that can be written"
                ) from error
            done = sum(len(part) for part in parts.values() if part is not None)
            with tqdm(
                total=len(self.examples), initial=done, desc=f"embedding {self.examples.data.name}",
                unit="text", dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 30,
            ) as bar:  # fmt: skip
                for start in missing:
                    parts[start] = self._made(start, bar)
        return torch.cat([part for part in parts.values() if part is not None])

    @cached_property
    def _name(self) -> str:
        key = f"{VERSION} {self.encoder} {self.examples.fingerprint()}"
        return hashlib.sha256(key.encode()).hexdigest()[:32]

    def _path(self, start: int) -> Path:
        return self.folder / f"{self._name}-{start:08d}.safetensors"

    def _rows(self, start: int) -> NDArray[np.int64]:
        return np.arange(start, min(start + PART, len(self.examples)))

    def _kept(self, start: int) -> Tensor | None:
        """The part from row `start` on, if it is on the disk and whole."""
        try:
            found = load_file(self._path(start))["sentence_embedding"]
        except (OSError, SafetensorError, KeyError):
            return None
        return found if len(found) == len(self._rows(start)) else None

    def _made(self, start: int, bar: Any) -> Tensor:
        """The same part, embedded now and kept."""
        rows = self._rows(start)
        # texts of like lengths together: less padding
        order = np.argsort(-self.examples.lengths[rows], kind="stable")
        pieces = []
        for first in range(0, len(rows), BATCH):
            chosen = rows[order[first : first + BATCH]]
            pieces.append(self.embed(self.examples.batch(chosen)).float().cpu())
            bar.update(len(chosen))
        made = torch.empty(len(rows), pieces[0].shape[1])
        made[torch.from_numpy(order)] = torch.cat(pieces)
        atomic_save(
            self._path(start), {"sentence_embedding": made}, {"data": self.examples.data.name}
        )
        return made


def cache_folder(data_dir: Path | None) -> Path:
    """Where embeddings are kept: in `data_dir` where that can be written, else in ~/.cache."""
    if data_dir is not None and os.access(data_dir, os.W_OK):
        return data_dir / FOLDER
    return Path.home() / ".cache" / "bayesgen" / FOLDER
