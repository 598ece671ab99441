"""A transformers tokenizer behind the project's tokenizer protocol."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from bayesgen.errors import UserError
from bayesgen.models.logging import quiet

NO_LIMIT = 10**9
"""transformers' "no limit" is a number far above this."""
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")


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
