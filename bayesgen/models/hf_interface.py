"""transformers behind the protocols of this package: its words, its tokenizers, its caches, and the
way in which a batch goes through one of its networks.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesgen.errors import UserError

NO_LIMIT = 10**9
"""transformers' "no limit" is a number far above this."""
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")


@contextmanager
def quiet() -> Iterator[None]:
    """transformers shows no bars and reports of its own: a command has one bar, with the numbers of
    its work, and what a load found is looked at here."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    shown, level, hub_level = (
        logging.is_progress_bar_enabled(), logging.get_verbosity(), hub.get_verbosity(),
    )  # fmt: skip
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        hub.set_verbosity(hub_level)
        if shown:
            logging.enable_progress_bar()


class HuggingFaceTokenizer:
    """A transformers tokenizer behind the project's tokenizer protocol."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.name = str(tokenizer.name_or_path)
        self.vocab_size = len(tokenizer)

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest text that its model is meant for; None where it does not say."""
        length = int(self.tokenizer.model_max_length)
        return length if length < NO_LIMIT else None

    def encode(self, text: str) -> Any:
        """Ids of `text`, 1-D. Raises UserError where the vocabulary lacks something in it."""
        try:
            found = self.tokenizer(
                text,
                add_special_tokens=False,
                return_tensors="np",
                verbose=False,  # a text is longer than any window
            )
        except Exception as error:  # tokenizers raises nothing more particular
            raise UserError(
                f"the tokenizer of '{self.name}' cannot encode this text"
                f" ({' '.join(str(error).split())}); take a text in its own alphabet"
            ) from error
        return found["input_ids"][0]

    def decode(self, ids: Any) -> str:
        return str(self.tokenizer.decode(ids))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "huggingface", "name": self.name}


def read_tokenizer(name: str, module: Any) -> HuggingFaceTokenizer | None:
    """The tokenizer beside the model `module` in `name`; None where there is none.

    Raises:
        UserError: it is damaged, or has more tokens than the model.
    """
    from transformers import AutoTokenizer

    folder = Path(name)
    # without files transformers can make up a tokenizer that no model was trained with
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        return None
    try:
        with quiet():
            raw = AutoTokenizer.from_pretrained(name, local_files_only=folder.is_dir())
    except Exception as error:  # of a damaged file, nearly any
        if folder.is_dir():
            raise UserError(
                f"`model`: the tokenizer in '{name}' cannot be read"
                f" ({textwrap.shorten(str(error), 120, placeholder=' ...')}); save it anew"
            ) from error
        return None  # a model without a tokenizer still scores token ids
    tokenizer = HuggingFaceTokenizer(raw)
    if _knows_nothing(tokenizer):
        return None
    rows = module.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"`model`: the tokenizer in '{name}' has {tokenizer.vocab_size} tokens but the model"
            f" only {rows}; put the model's own tokenizer into the folder"
        )
    return tokenizer


def _knows_nothing(tokenizer: HuggingFaceTokenizer) -> bool:
    """Whether transformers made it up: it encodes every text as nothing."""
    try:
        return not len(tokenizer.encode("a"))
    except UserError:
        return False


class CausalReader:
    """Reads texts through transformers' own cache.

    Texts of different lengths have a cache each: where a window or a bias counts slots, a gap
    between two tokens of a text would count, too.
    """

    stackable = False

    def __init__(self, config: Any) -> None:
        self.config = config

    def cache(self, texts: int, slots: int, device: torch.device) -> Any:
        return []

    def read(
        self,
        apply: Callable[..., Any],
        input_ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: Any,
    ) -> Tensor:
        from transformers import DynamicCache

        rows, length = input_ids.shape
        if not cache:
            groups = 1 if bool(mask.all()) else rows
            cache.extend(DynamicCache(config=self.config) for _ in range(groups))
        if len(cache) == 1:
            return _logits(apply, input_ids, positions, cache[0])
        each = []
        for row, own in enumerate(cache):
            new = int(mask[row, -length:].sum())
            piece = slice(row, row + 1), slice(0, new)
            logits = _logits(apply, input_ids[piece], positions[piece], own)
            each.append(torch.nn.functional.pad(logits, (0, 0, 0, length - new)))
        return torch.cat(each)


def _logits(apply: Callable[..., Any], input_ids: Tensor, positions: Tensor, cache: Any) -> Tensor:
    logits: Tensor = apply(
        input_ids=input_ids, position_ids=positions, past_key_values=cache, use_cache=True
    ).logits
    return logits


@dataclass
class _Asked:
    """Positions [B, K] of a batch whose input is of this shape, and whether they were chosen."""

    positions: Tensor
    shape: torch.Size
    served: bool = False


_ASKED: ContextVar[_Asked | None] = ContextVar("asked", default=None)
"""What is in the network right now; a hook is handed nothing but states."""


def serve_targets(module: Any) -> None:
    """Make a network for masked words, and copies of it, fit for `logits_at`."""
    embeddings = module.get_output_embeddings()
    if embeddings is not None:
        embeddings.register_forward_pre_hook(_choose)


def logits_at(apply: Callable[..., Any], positions: Tensor, inputs: dict[str, Any]) -> Tensor:
    """Logits [B, K, V] at `positions` [B, K] int64.

    Where the network does not hand the states [B, T, H] of what it reads to its output embeddings,
    the logits of all positions are computed, and those of the others dropped.

    Args:
        apply: something that is called like the network.
        inputs: what to call it with, "input_ids" [B, T] among it.
    """
    asked = _Asked(positions, inputs["input_ids"].shape)
    before = _ASKED.set(asked)
    try:
        found: Tensor = apply(**inputs).logits
    finally:
        _ASKED.reset(before)
    return found if asked.served else _at(found, positions)


def _choose(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    asked = _ASKED.get()
    if asked is None or asked.served or not inputs or inputs[0].shape[:-1] != asked.shape:
        return None
    asked.served = True
    return _at(inputs[0], asked.positions), *inputs[1:]


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """`states` [B, T, H] at `positions` [B, K]: [B, K, H]."""
    return states.take_along_dim(positions[..., None], 1)
