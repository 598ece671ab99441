"""Windows of a text for networks that predict masked tokens: BERT and its kin, XLNet.

A window is a piece of the text between the tokenizer's special tokens. Which of its tokens are
targets, and what stands in their place, is decided by transformers' own data collators, under a
seed that is a pure function of the step (training) or of the window (scoring).

- Task `masked-lm`, Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1: 15 % of the
  tokens are targets; of these 80 % become the mask token, 10 % a random one, 10 % stay. A batch is
  {"input_ids", "attention_mask"}, each [B, T] int64, and {"targets", "labels"}, each [B, K] int64.
- Task `permutation-lm`, Yang et al. 2019, https://arxiv.org/abs/1906.08237, section 2: a sixth of
  the tokens, in spans of 1 to 5, are targets, each predicted from those before it in a random
  order. A batch is {"input_ids" [B, T] int64, "perm_mask" [B, T, T] float32, "target_mapping"
  [B, K, T] float32, "labels" [B, K] int64}.

K is the largest number of targets of a window in the batch; "targets" are their positions, and
"labels" the tokens that stood there, -100 where a window has fewer. Special tokens are no targets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bayesgen.data.choosing import drawn
from bayesgen.data.windows import IGNORED, MASKS, ROW_MASKS, ShuffledWindows, TextRows, stream
from bayesgen.errors import UserError
from bayesgen.tasks import Task

SCORING_SEED = 0
"""All runs are scored on the same masks, whatever their seed."""


@dataclass(frozen=True, eq=False)
class Masking:
    """How a tokenizer encloses a window, in the ids of the special tokens before and after its text
    (`prefix`, `suffix`), and how tokens in it are masked: by a `collator` of transformers, which
    makes targets of the ordinary ones with a `probability`."""

    task: Task
    collator: Any
    probability: float
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any, task: Task) -> Masking:
        """The masking of `task` with a tokenizer of transformers, which must be able to mask and
        to pad."""
        from transformers import (
            DataCollatorForLanguageModeling,
            DataCollatorForPermutationLanguageModeling,
        )

        for what, there in (("mask", tokenizer.mask_token), ("padding", tokenizer.pad_token)):
            if there is None:
                raise UserError(
                    f"`task={task.name}`: the tokenizer of '{tokenizer.name_or_path}' has no {what}"
                    " token; take a model that was trained on masked tokens, or save the tokenizer"
                    " with one"
                )
        enclosed = tokenizer(tokenizer.mask_token)["input_ids"]
        place = enclosed.index(tokenizer.mask_token_id)
        around = tuple(enclosed[:place]), tuple(enclosed[place + 1 :])
        if task.masking == "permute":
            permuting = DataCollatorForPermutationLanguageModeling(tokenizer)
            return cls(task, permuting, permuting.plm_probability, *around)
        masking = DataCollatorForLanguageModeling(tokenizer)
        return cls(task, masking, masking.mlm_probability, *around)

    @property
    def permuted(self) -> bool:
        """Whether targets are of a permutation: of windows that are whole, and of even length."""
        return self.task.masking == "permute"

    @property
    def special(self) -> list[int]:
        return sorted(self.collator.tokenizer.all_special_ids)

    def room(self, block_size: int) -> int:
        """Tokens of the text in a window of `block_size` tokens."""
        around = len(self.prefix) + len(self.suffix)
        if block_size <= around:
            raise UserError(
                f"`block_size={block_size}`: the special tokens alone are {around}; choose more"
            )
        if self.permuted and block_size % 2:
            raise UserError(
                f"`block_size={block_size}`: {self.task.name} permutes the halves of a window;"
                f" choose an even number, such as {block_size + 1}"
            )
        return block_size - around

    def enclose(self, texts: Sequence[NDArray[Any]], block_size: int) -> tuple[Tensor, Tensor]:
        """Pieces of text as windows: ids [B, block_size] int64, padded at the end, and their
        lengths [B]."""
        pad = self.collator.tokenizer.pad_token_id
        windows = [np.concatenate([self.prefix, text, self.suffix]) for text in texts]
        ids = torch.full((len(texts), block_size), pad)
        for row, window in zip(ids, windows, strict=True):
            row[: len(window)] = torch.from_numpy(window.astype(np.int64))
        return ids, torch.tensor([len(window) for window in windows])

    def mask(self, ids: Tensor, *key: int) -> dict[str, Tensor]:
        """What the collator makes of `ids` [B, T] under the random stream of `key`. A batch without
        a target says nothing, and is drawn again; `ids` must hold an ordinary token."""
        for attempt in count():
            # torch.manual_seed would seed the generators of accelerators, too: a chain's own
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(stream(*key, attempt))
                batch: dict[str, Tensor] = self.collator(list(ids))
            if bool((batch["labels"] != IGNORED).any()):
                break
        return batch

    def fingerprint(self) -> str:
        """sha256 of all that decides which tokens are masked, and by what."""
        import transformers

        rules = {f.name: getattr(self.collator, f.name) for f in fields(self.collator)}
        tokenizer = rules.pop("tokenizer")
        ids = [self.prefix, self.suffix, self.special, len(tokenizer)]
        ids += [tokenizer.mask_token_id, tokenizer.pad_token_id]
        versions = [transformers.__version__, torch.__version__]
        content = [type(self.collator).__name__, rules, ids, versions, SCORING_SEED]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class MaskedWindows(TextRows):
    """Windows side by side, each with masks of its own that never change: what is scored.

    The masks of a window depend on its place in the text alone, and each has a target: all
    predictors are asked for the same tokens, in batches of any size and order. `tokens` are without
    special ones, which `block_size` counts, too; `ordinary` are those of a window that may be
    targets, counted.
    """

    masking: Masking
    ordinary: NDArray[np.int64]

    @classmethod
    def tiled(
        cls, tokens: NDArray[Any], block_size: int, masking: Masking, split: str = "corpus"
    ) -> MaskedWindows:
        """All windows of `tokens` (of the `split`). The last may be short; one of a permutation is
        left out, and so is a window that holds special tokens only."""
        room = masking.room(block_size)
        if len(tokens) < room:
            raise UserError(
                f"the {split} split has {len(tokens)} tokens, too few for one window of"
                f" {block_size} with {block_size - room} special ones: take a longer text or a"
                " smaller `block_size`"
            )
        end = len(tokens) - len(tokens) % room if masking.permuted else len(tokens)
        starts = np.arange(0, end, room)
        may_be_target = np.isin(tokens[:end], masking.special, invert=True)
        ordinary = np.add.reduceat(may_be_target, starts, dtype=np.int64)
        some = ordinary > 0
        if not some.any():
            raise UserError(
                f"the {split} split has special tokens only, such as the unknown one: take a text"
                " in the tokenizer's own language"
            )
        return cls(tokens, block_size, starts[some], masking, ordinary[some])

    @property
    def room(self) -> int:
        return self.masking.room(self.block_size)

    @property
    def num_targets(self) -> int:
        """Number of masked tokens in all windows: every mask is drawn to count them."""
        parts = np.array_split(np.arange(len(self)), -(-len(self) // 64))
        return sum(int((self.batch(part)["labels"] != IGNORED).sum()) for part in parts)

    @property
    def expected_targets(self) -> int:
        """The probability of a token to be masked times the number of ordinary tokens, rounded."""
        return max(1, round(self.masking.probability * int(self.ordinary.sum())))

    @property
    def row_targets(self) -> int:
        return self.room

    def batch(self, indices: ArrayLike) -> dict[str, Tensor]:
        """The windows of the 1-D `indices`, with their own masks (see above)."""
        rows = np.asarray(indices, dtype=np.int64)
        key = SCORING_SEED, ROW_MASKS
        each = [self.masked([row], *key, int(self.starts[row]) // self.room) for row in rows]
        return asked({name: torch.cat([window[name] for window in each]) for name in each[0]})

    def masked(self, indices: ArrayLike, *key: int) -> dict[str, Tensor]:
        """The same under the random stream of `key`, with a label for each of their positions."""
        starts = self.starts[np.asarray(indices, dtype=np.int64)]
        texts = [self.tokens[start : start + self.room] for start in starts]
        ids, lengths = self.masking.enclose(texts, self.block_size)
        batch = self.masking.mask(ids, *key)
        if not self.masking.permuted:
            batch["attention_mask"] = (torch.arange(self.block_size) < lengths[:, None]).long()
        return batch

    def take(self, indices: ArrayLike) -> Self:
        rows = np.asarray(indices, dtype=np.int64)
        return replace(self, starts=self.starts[rows], ordinary=self.ordinary[rows])

    def subset(self, num: int, seed: int) -> MaskedWindows:
        what = f"the train split has {len(self)} windows of {self.block_size} tokens"
        return self.take(drawn(len(self), num, seed, what))

    def fingerprint(self, rules: str = "") -> str:
        return super().fingerprint(f" {self.masking.fingerprint()}{rules}")


class MaskedBatches(ShuffledWindows):
    """Every window once per epoch, in a new order each, with new masks at every step."""

    windows: MaskedWindows

    @property
    def num_observations(self) -> int:
        """N, the targets that one pass holds in expectation. (Spans of a permutation that reach
        over a window's end are cut: it may hold a little less.)"""
        return self.windows.expected_targets

    def batch(self, step: int) -> dict[str, Tensor]:
        return asked(self.windows.masked(self.rows(step), self.seed, MASKS, step))


def asked(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch with a label for each position [B, T], as one that asks for its K targets alone."""
    labels = batch.pop("labels")
    observed = labels != IGNORED
    most = int(observed.sum(1).max())
    # a stable sort keeps the order of the text
    targets = observed.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    batch["labels"] = labels.gather(1, targets)
    if "target_mapping" in batch:
        rows = targets[..., None].expand(-1, -1, labels.shape[1])
        batch["target_mapping"] = batch["target_mapping"].gather(1, rows)
    else:
        batch["targets"] = targets
    return batch
