"""A fast tokenizer, saved and loaded again, is the tokenizer that it was made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesgen.data.corpora import load_corpus
from bayesgen.data.tokenizers import (
    END_OF_TEXT,
    CharTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    fast_tokenizer,
)

transformers = pytest.importorskip("transformers")

TEXTS = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n",
    "don't I'LL 've  we're 'S's",
    "  two  three   \n\n \t\r\n tab\tend \u00a0\u2003 ",
    "0 12 345 6,789 0.1e-23 ² ½ ٣",
    "naïve café e\u0301 漢字かな العربية 🤖👩\u200d💻 \ufeff\x00\u0085\u2028",
    f"one text{END_OF_TEXT}another {END_OF_TEXT} <|endof text|>",
    "",
)


def reloaded(tokenizer: Tokenizer, folder: Path) -> Any:
    fast_tokenizer(tokenizer).save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def ids(fast: Any, text: str) -> list[int]:
    encoded: list[int] = fast(text, add_special_tokens=False)["input_ids"]
    return encoded


@pytest.fixture(scope="module")
def stored() -> Path:
    data = os.environ.get("BAYESGEN_TEST_DATA")
    if not data:
        pytest.skip("BAYESGEN_TEST_DATA is not set: no TinyShakespeare, no vocabulary of gpt2")
    return Path(data)


@pytest.fixture(scope="module")
def gpt2(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(stored / "tiktoken-cache"))
        return reloaded(TiktokenTokenizer(), tmp_path_factory.mktemp("gpt2"))


@pytest.mark.parametrize("text", TEXTS)
def test_gpt2_is_tiktokens(gpt2: Any, text: str) -> None:
    expected = TiktokenTokenizer().encode(text).tolist()
    assert ids(gpt2, text) == expected
    assert gpt2.decode(expected) == text


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_gpt2_is_tiktokens_on_any_text(gpt2: Any, text: str) -> None:
    expected = TiktokenTokenizer().encode(text).tolist()
    assert ids(gpt2, text) == expected
    assert gpt2.decode(expected) == text


@given(st.lists(st.integers(0, 50256)))
def test_gpt2_decodes_any_ids_as_tiktoken(gpt2: Any, tokens: list[int]) -> None:
    assert gpt2.decode(tokens) == TiktokenTokenizer().decode(tokens)


def test_gpt2_knows_the_end_of_a_text(gpt2: Any) -> None:
    assert len(gpt2) == TiktokenTokenizer().vocab_size
    assert gpt2.eos_token_id == gpt2.bos_token_id == 50256
    assert gpt2.decode([50256]) == TiktokenTokenizer().decode([50256]) == END_OF_TEXT


def test_gpt2_encodes_shakespeare_as_nanogpts_prepare(
    gpt2: Any, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINYSHAKESPEARE_PATH", raising=False)
    corpus = load_corpus("shakespeare", tokenizer_kind="gpt2", data_dir=stored)
    assert (len(corpus.train), len(corpus.val)) == (301_966, 36_059)
    for tokens in (corpus.train, corpus.val):
        assert ids(gpt2, corpus.tokenizer.decode(tokens)) == tokens.tolist()


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1))
def test_characters_have_our_ids(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tokenizer = CharTokenizer.from_text(text)
    fast = reloaded(tokenizer, tmp_path_factory.mktemp("char"))
    assert len(fast) == tokenizer.vocab_size
    assert ids(fast, text) == tokenizer.encode(text).tolist()
    assert fast.decode(ids(fast, text)) == text


def test_an_unknown_character_is_no_token() -> None:
    with pytest.raises(Exception, match="UNK"):
        ids(fast_tokenizer(CharTokenizer("abc")), "abcd")
