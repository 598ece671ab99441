"""A tiny encoder with random weights, its tokenizer, and labelled rows that it can learn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

CLASSES = {"animals": ("fox", "dog", "cat"), "plants": ("oak", "rose", "fern"),
           "stones": ("flint", "slate", "chalk")}  # fmt: skip
FILLERS = ("the", "a", "old", "near", "under", "by", "small", "and")


def save_encoder(folder: Path, *, seed: int = 0, dropout: float = 0.1) -> Path:
    """A BERT without a head and its tokenizer, as save_pretrained writes them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, *FILLERS, *(word for group in CLASSES.values() for word in group)]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(
            BertConfig(
                vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=32, max_position_embeddings=32, initializer_range=0.2,
                hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
            )
        ).save_pretrained(folder)  # fmt: skip
    return folder


def write_rows(
    path: Path, count: int, *, seed: int = 0, weights: Sequence[int] = (1, 1, 1)
) -> Path:
    """A TSV of `count` texts of different lengths, each with a word that gives its class away.

    Args:
        weights: how often each class occurs, relative to the others.
    """
    draw = random.Random(seed)
    lines = ["text\tlabel"]
    for _ in range(count):
        (label,) = draw.choices(list(CLASSES), weights)
        words = [draw.choice(CLASSES[label]), *draw.choices(FILLERS, k=draw.randint(1, 9))]
        draw.shuffle(words)
        lines.append(f"{' '.join(words)}\t{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_scores(path: Path, count: int, *, seed: int = 0) -> Path:
    """A TSV of pairs of texts, scored by how many words of the first are in the second."""
    draw = random.Random(seed)
    lines = ["sentence1\tsentence2\tscore"]
    for _ in range(count):
        first, second = (draw.sample(FILLERS, k=5) for _ in range(2))
        lines.append(f"{' '.join(first)}\t{' '.join(second)}\t{len({*first} & {*second})}.0")
    path.write_text("\n".join(lines) + "\n")
    return path
