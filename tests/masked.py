"""Tiny networks that predict masked tokens, with tokenizers of their own and a text for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = (
    "the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "cat", "sat", "on",
    "mat", "old", "under", "by", "small", "near",
)  # fmt: skip
TEXT = "the quick brown fox jumps over the lazy dog and the cat sat on the old mat\n" * 40


def bert_tokenizer() -> Any:
    """Words between [CLS] and [SEP]: 23 ids, the first five of which are special."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def xlnet_tokenizer() -> Any:
    """Words before <sep> and <cls>, padded on the left."""
    from transformers import XLNetTokenizer

    special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    scored = [(token, 0.0) for token in special] + [(f"▁{word}", -1.0) for word in WORDS]
    return XLNetTokenizer(vocab=scored)


def save_bert(folder: Path, *, head: bool = True) -> Path:
    """A BERT that predicts masked tokens, or without its head, as save_pretrained writes them."""
    from transformers import BertConfig, BertForMaskedLM, BertModel

    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, initializer_range=0.2,
    )  # fmt: skip
    return _saved(folder, BertForMaskedLM if head else BertModel, config, tokenizer)


def save_xlnet(folder: Path) -> Path:
    """An XLNet, as save_pretrained writes it."""
    from transformers import XLNetConfig, XLNetLMHeadModel

    tokenizer = xlnet_tokenizer()
    config = XLNetConfig(
        vocab_size=len(tokenizer), d_model=16, n_layer=2, n_head=2, d_inner=32,
        initializer_range=0.2, pad_token_id=5, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return _saved(folder, XLNetLMHeadModel, config, tokenizer)


def _saved(folder: Path, network: Any, config: Any, tokenizer: Any) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
