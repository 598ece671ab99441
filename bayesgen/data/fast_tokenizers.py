"""Our tokenizers as transformers' fast tokenizers, for the folder of a Hugging Face model.

Needs the extra `hf` (`pip install 'bayesgen[hf]'`).
"""

from __future__ import annotations

from typing import Any

from bayesgen.data.tokenizers import CharTokenizer, Tokenizer, load_encoding

END_OF_TEXT = "<|endoftext|>"


def fast_tokenizer(tokenizer: Tokenizer) -> Any:
    """A `PreTrainedTokenizerFast` that encodes and decodes as `tokenizer` does, with the same ids.

    GPT-2's marks the end of a text with `END_OF_TEXT`; in a text these letters are ordinary ones.
    A character that a character tokenizer does not know is an Exception of `tokenizers`.

    Raises:
        UserError: the vocabulary of byte pairs cannot be loaded.
    """
    from transformers import PreTrainedTokenizerFast

    if isinstance(tokenizer, CharTokenizer):
        return PreTrainedTokenizerFast(tokenizer_object=_characters(tokenizer))
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(load_encoding(tokenizer.name)),
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        split_special_tokens=True,
    )


def _characters(tokenizer: CharTokenizer) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {character: i for i, character in enumerate(tokenizer.characters)}
    # an unknown character would else become this token, which no text can hold
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=""))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    raw.decoder = decoders.Fuse()
    return raw


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
