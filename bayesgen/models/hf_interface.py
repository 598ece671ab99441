"""transformers behind the protocols of this package: words, tokenizers, caches, and networks."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesgen.errors import UserError
from bayesgen.models.functional import Call, Piece
from bayesgen.tasks import Task

NO_LIMIT = 10**9
"""transformers' "no limit" is a number far above this."""
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")


@contextmanager
def quiet() -> Iterator[None]:
    """transformers shows no bars and reports of its own: a command has one bar, with the numbers of
    its work, and what a load found is looked at here."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    levels = [(each, each.get_verbosity()) for each in (logging, hub)]
    logging.disable_progress_bar()
    for each, _ in levels:
        each.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for each, level in levels:
            each.set_verbosity(level)
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
        plain = {"add_special_tokens": False, "return_tensors": "np"}
        try:  # `verbose` would warn that a text is longer than the window
            return self.tokenizer(text, **plain, verbose=False)["input_ids"][0]
        except Exception as error:  # tokenizers raises nothing more particular
            raise UserError(
                f"the tokenizer of '{self.name}' cannot encode this text"
                f" ({' '.join(str(error).split())}); take a text in its own alphabet"
            ) from error

    def decode(self, ids: Any) -> str:
        return str(self.tokenizer.decode(ids))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "huggingface", "name": self.name}


def read_tokenizer(name: str, module: Any) -> HuggingFaceTokenizer | None:
    """The tokenizer beside the model `module` in `name`; None where there is none, UserError where
    it is damaged, or has more tokens than the model."""
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
    with suppress(UserError):
        if not len(tokenizer.encode("a")):
            return None  # made up: it encodes every text as nothing
    rows = module.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"`model`: the tokenizer in '{name}' has {tokenizer.vocab_size} tokens but the model"
            f" only {rows}; put the model's own tokenizer into the folder"
        )
    return tokenizer


class CausalReader:
    """Reads texts through transformers' own cache. Texts of different lengths have a cache each:
    where a window or a bias counts slots, a gap between two tokens of a text would count, too."""

    stackable = False

    def __init__(self, config: Any) -> None:
        self.config = config

    def cache(self, texts: int, slots: int, device: torch.device) -> Any:
        return []

    def read(self, apply: Callable[..., Any], piece: Piece, cache: Any) -> Tensor:
        from transformers import DynamicCache

        input_ids, positions, mask = piece
        rows, length = input_ids.shape
        if not cache:
            groups = 1 if bool(mask.all()) else rows
            cache.extend(DynamicCache(config=self.config) for _ in range(groups))

        def logits(own: Any, *where: slice) -> Tensor:
            at = {"input_ids": input_ids[where], "position_ids": positions[where]}
            found: Tensor = apply(**at, past_key_values=own, use_cache=True).logits
            return found

        if len(cache) == 1:
            return logits(cache[0], slice(None))
        each = []
        for row, own in enumerate(cache):
            new = int(mask[row, -length:].sum())
            found = logits(own, slice(row, row + 1), slice(new))
            each.append(nn.functional.pad(found, (0, 0, 0, length - new)))
        return torch.cat(each)


def call_of(task: Task, module: Any) -> Call:
    """How a batch goes through `module`, a network for `task`, or through copies of it.

    Where masked words are predicted a batch may hold the positions "targets" [B, K] of those that
    are asked for, a sixth or so; logits are then [B, K, V]. An encoder's last product, with the
    embeddings of all words, and the softmax behind it cost more than its blocks do.
    """
    masked = task.masking == "replace"
    shifted = task.auto_class == "AutoModelForSeq2SeqLM"
    embeddings = module.get_output_embeddings() if masked else None
    if embeddings is not None:
        embeddings.register_forward_pre_hook(_choose)

    def call(apply: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        if masked and "targets" in inputs:
            return _logits_at(apply, inputs.pop("targets"), inputs)
        if shifted and "decoder_input_ids" not in batch:
            inputs["decoder_input_ids"] = module.prepare_decoder_input_ids_from_labels(
                batch["labels"]
            )
        logits: Tensor = apply(**task.inputs, **inputs).logits
        return logits

    return call


_ASKED: ContextVar[dict[torch.Size, Tensor]] = ContextVar("asked")
"""Of what is in the network right now the shape [B, T], and the positions [B, K] that are asked for
until they are served; a hook is handed nothing but states."""


def _logits_at(apply: Callable[..., Any], positions: Tensor, inputs: dict[str, Any]) -> Tensor:
    """Logits [B, K, V] at `positions` [B, K]; those of all positions are computed where the network
    does not hand the states [B, T, H] of what it reads to its output embeddings."""
    asked = {inputs["input_ids"].shape: positions}
    before = _ASKED.set(asked)
    try:
        found: Tensor = apply(**inputs).logits
    finally:
        _ASKED.reset(before)
    return found.take_along_dim(positions[..., None], 1) if asked else found


def _choose(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Before output embeddings are applied: of the states that they are given, those asked for."""
    positions = _ASKED.get({}).pop(inputs[0].shape[:-1], None) if inputs else None
    if positions is None:
        return None
    return inputs[0].take_along_dim(positions[..., None], 1), *inputs[1:]
