from __future__ import annotations

import json
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesgen.data.tokenizers import (
    CharTokenizer,
    TiktokenTokenizer,
    make_tokenizer,
    read_meta,
    tokenizer_from_dict,
    write_meta,
)
from bayesgen.errors import UserError


@pytest.fixture
def gpt2(monkeypatch: pytest.MonkeyPatch) -> TiktokenTokenizer:
    data = os.environ.get("BAYESGEN_TEST_DATA")
    if not data:
        pytest.skip("BAYESGEN_TEST_DATA is not set: no vocabulary of gpt2")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(data) / "tiktoken-cache"))
    return TiktokenTokenizer()


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Characters


@given(st.text(st.characters(exclude_categories=()), min_size=1))
def test_char_round_trip_of_any_text_through_json(text: str) -> None:
    tokenizer = CharTokenizer.from_text(text)
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again == tokenizer
    ids = again.encode(text)
    assert ids.shape == (len(text),)
    assert ids.max() < tokenizer.vocab_size == len(set(text))
    assert again.decode(ids) == text


def test_char_ids_are_those_of_nanogpt() -> None:
    text = "To be, or not to be"
    stoi = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = CharTokenizer.from_text(text).encode(text)
    assert ids.dtype == np.uint16
    assert ids.tolist() == [stoi[c] for c in text]


def test_a_vocabulary_above_16_bits_takes_int64() -> None:
    tokenizer = CharTokenizer("".join(chr(0x10000 + i) for i in range(65_537)))
    ids = tokenizer.encode(chr(0x20000))
    assert ids.dtype == np.int64
    assert ids.tolist() == [65_536]


def test_empty_text_has_no_ids() -> None:
    tokenizer = CharTokenizer("ab")
    assert len(tokenizer.encode("")) == 0
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("character", ["A", "c", "\n", "é", "\U0001f600"])
def test_unknown_character_is_named_with_its_position(character: str) -> None:
    with pytest.raises(UserError) as error:
        CharTokenizer("abz").encode("ab" + character + "b")
    message = one_line(error)
    assert repr(character) in message
    assert "position 2" in message
    assert "corpus" in message


@pytest.mark.parametrize("bad", [-1, 2, 70_000])
def test_decode_refuses_ids_outside_the_vocabulary(bad: int) -> None:
    with pytest.raises(UserError, match=f"token id {bad} is outside the 2 ids"):
        CharTokenizer("ab").decode([0, bad])


@pytest.mark.parametrize("characters", ["", "aba"])
def test_characters_must_be_distinct_and_some(characters: str) -> None:
    with pytest.raises(ValueError, match="distinct"):
        CharTokenizer(characters)


def test_make_tokenizer_by_kind() -> None:
    assert make_tokenizer("char", "ba") == CharTokenizer("ab")
    assert make_tokenizer("gpt2", "ba") == TiktokenTokenizer()
    with pytest.raises(UserError, match=r"`tokenizer=word`: .*char, gpt2"):
        make_tokenizer("word", "ba")


@pytest.mark.parametrize(
    "stored",
    [{}, {"kind": "word"}, {"kind": "char"}, {"kind": "char", "characters": "aa"}],
)
def test_tokenizer_from_dict_refuses_what_no_tokenizer_wrote(stored: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="stored tokenizer"):
        tokenizer_from_dict(stored)


# GPT-2


def test_gpt2_round_trip(gpt2: TiktokenTokenizer) -> None:
    text = "Now is the winter\n\nof our discontent — 冬 <|endoftext|>"
    ids = gpt2.encode(text)
    assert ids.dtype == np.uint16
    assert ids[:4].tolist() == [3844, 318, 262, 7374]
    assert 50256 not in ids, "a special token in a text is ordinary text"
    assert gpt2.decode(ids) == text


def test_gpt2_refuses_the_padding_ids_of_a_model(gpt2: TiktokenTokenizer) -> None:
    with pytest.raises(UserError, match="token id 50300 is outside the 50257 ids"):
        gpt2.decode([3844, 50300])


def test_gpt2_dict_needs_no_vocabulary() -> None:
    assert tokenizer_from_dict(TiktokenTokenizer().to_dict()) == TiktokenTokenizer()
    assert TiktokenTokenizer().vocab_size == 50257


def test_other_encodings_are_refused() -> None:
    with pytest.raises(TypeError):
        TiktokenTokenizer("cl100k_base")  # type: ignore[call-arg]
    with pytest.raises(UserError, match="`tokenizer=cl100k_base`: no such tokenizer"):
        make_tokenizer("cl100k_base", "a")


def test_gpt2_offline_names_the_cache_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests
    import tiktoken.registry

    def offline(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no network\nat all")

    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setattr(requests, "get", offline)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(UserError) as error:
        TiktokenTokenizer().encode("a")
    assert "TIKTOKEN_CACHE_DIR" in one_line(error)


# meta.pkl


def test_meta_is_what_nanogpt_reads_and_writes(tmp_path: Path) -> None:
    tokenizer = CharTokenizer.from_text("hello\n")
    write_meta(tmp_path / "meta.pkl", tokenizer)
    meta = pickle.loads((tmp_path / "meta.pkl").read_bytes())
    assert meta["vocab_size"] == 5
    assert "".join(meta["itos"][meta["stoi"][c]] for c in "hello\n") == "hello\n"
    assert read_meta(tmp_path / "meta.pkl") == tokenizer


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_meta_runs_nothing(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    malicious = pickle.dumps({"vocab_size": 1, "itos": _Touch(victim)}, protocol)
    (tmp_path / "meta.pkl").write_bytes(malicious)
    with pytest.raises(UserError, match=r"meta\.pkl"):
        read_meta(tmp_path / "meta.pkl")
    assert not victim.exists()
    pickle.loads(malicious)
    assert victim.exists(), "the pickle would have run elsewhere"


def meta(itos: Any, stoi: Any = None, vocab_size: Any = None) -> dict[str, Any]:
    return {
        "itos": itos,
        "stoi": {c: i for i, c in itos.items()} if stoi is None else stoi,
        "vocab_size": len(itos) if vocab_size is None else vocab_size,
    }


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (["a"], "TypeError: list indices"),
        ({"itos": {0: "a"}}, "KeyError: 'vocab_size'"),
        (meta(["a"], ["a"]), "disagree"),
        (meta({0: "a", 2: "b"}), "KeyError: 1"),
        (meta({1: "a", 2: "b"}), "KeyError: 0"),
        (meta({"0": "a"}), "KeyError: 0"),
        (meta({0: "a", 1: "bc"}), "disagree"),
        (meta({0: 7}), "expected str instance"),
        (meta({0: "a", 1: "b"}, {"a": 1, "b": 0}), "disagree"),
        (meta({0: "a", 1: "a"}), "distinct"),
        (meta({0: "a"}, vocab_size=2), "KeyError: 1"),
        (meta({0: "a", 1: "b"}, vocab_size=1), "disagree"),
        (meta({}), "distinct"),
    ],
)
def test_a_wrong_meta_is_refused(tmp_path: Path, stored: Any, reason: str) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps(stored))
    with pytest.raises(UserError, match=reason) as error:
        read_meta(path)
    assert str(path) in one_line(error)


@given(st.integers(0, 60), st.binary(max_size=8))
def test_a_damaged_meta_is_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("meta") / "meta.pkl"
    write_meta(path, CharTokenizer("abc"))
    path.write_bytes(path.read_bytes()[:cut] + junk)
    with suppress(UserError):  # and nothing else
        assert read_meta(path).vocab_size == 3


def test_a_missing_meta_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="FileNotFoundError"):
        read_meta(tmp_path / "meta.pkl")
