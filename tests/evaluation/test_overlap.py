"""BLEU, ROUGE, distinct-n and self-BLEU: what the libraries say themselves, and honest gaps."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from bayesgen.evaluation import overlap as module

LINE = "Speak, speak no more: the king's own crown sits ill on many a head that wears it."
KINDS = ("rouge1", "rouge2", "rougeL")


def sentences(count: int, seed: int = 0, words: int = 12) -> list[str]:
    rng, vocabulary = random.Random(seed), LINE.split()
    return [" ".join(rng.choices(vocabulary, k=words + i % 5)) for i in range(count)]


def garbled(texts: list[str], share: float, seed: int = 1) -> list[str]:
    """The texts with about this share of their words replaced."""
    rng, vocabulary = random.Random(seed), LINE.split()
    return [
        " ".join(rng.choice(vocabulary) if rng.random() < share else word for word in text.split())
        for text in texts
    ]


REFERENCES = sentences(40)
CLOSE = garbled(REFERENCES, 0.2)
FAR = garbled(REFERENCES, 0.6, seed=2)


def rouge_f(hypotheses: list[str], references: list[str]) -> dict[str, float]:
    scorer = RougeScorer(list(KINDS), tokenizer=DefaultTokenizer(use_stemmer=False))
    each = [scorer.score(r, h) for h, r in zip(hypotheses, references, strict=True)]
    return {kind: float(np.mean([scores[kind].fmeasure for scores in each])) for kind in KINDS}


class Numbers(dict[str, Any]):
    """Plain data whose keys are attributes, too."""

    __getattr__ = dict.__getitem__


def numbers(content: dict[str, Any]) -> Any:
    return json.loads(json.dumps(content, allow_nan=False), object_hook=Numbers)


def overlap(hypotheses: list[str], references: list[str], **options: Any) -> Any:
    return numbers(module.overlap(hypotheses, references, **options))


def paired_overlap(first: list[str], second: list[str], references: list[str]) -> Any:
    return numbers(module.overlap(first, references, second))


def diversity(texts: list[str]) -> Any:
    return numbers(module.diversity(texts))


def unknown(count: int, reason: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("estimate", "low", "high"))
    return {**nothing, "num_texts": count, "reason": reason}


def estimates(result: Any) -> list[Any]:
    return [bleu.score for bleu in result.bleu.values()] + list(result.rouge.f_measure.values())


@pytest.mark.parametrize("tokenizer", ["char", "13a"])
@pytest.mark.parametrize("hypotheses", [CLOSE, FAR, [*CLOSE[:-1], ""]])
def test_bleu_and_its_signature_are_what_sacrebleu_gives(
    tokenizer: str, hypotheses: list[str]
) -> None:
    metric = sacrebleu.BLEU(tokenize=tokenizer)
    direct = metric.corpus_score(hypotheses, [REFERENCES]).score
    bleu = overlap(hypotheses, REFERENCES).bleu[tokenizer]
    assert bleu.tokenizer == tokenizer
    assert bleu.score.estimate == direct
    assert bleu.signature == str(metric.get_signature())
    assert f"tok:{tokenizer}|" in bleu.signature
    assert bleu.signature.endswith(f"version:{sacrebleu.__version__}")


@pytest.mark.parametrize("hypotheses", [CLOSE, FAR, [*CLOSE[:-1], ""]])
def test_rouge_is_the_mean_of_what_rouge_score_gives(hypotheses: list[str]) -> None:
    rouge = overlap(hypotheses, REFERENCES).rouge
    assert {k: e.estimate for k, e in rouge.f_measure.items()} == pytest.approx(
        rouge_f(hypotheses, REFERENCES)
    )
    assert not rouge.stemming
    assert overlap(["kings speaking"], ["king speaks"]).rouge.f_measure["rouge1"].estimate == 0


def test_a_score_knows_its_texts_and_resamples() -> None:
    result = overlap(CLOSE, REFERENCES)
    assert (result.num_texts, result.resamples) == (40, 2000)
    assert all(e.num_texts == 40 and e.reason is None for e in estimates(result))


def test_identical_texts_have_full_marks() -> None:
    result = overlap(REFERENCES, REFERENCES)
    for bleu in result.bleu.values():
        assert (bleu.score.low, bleu.score.estimate, bleu.score.high) == pytest.approx((100,) * 3)
    for rouge in result.rouge.f_measure.values():
        assert (rouge.low, rouge.estimate, rouge.high) == (1, 1, 1)


def test_texts_with_nothing_in_common_score_an_honest_zero() -> None:
    for e in estimates(overlap(["aa bb cc dd", "ee ff gg hh"], ["mm nn oo pp", "qq rr ss tt"])):
        assert (e.low, e.estimate, e.high, e.reason) == (0, 0, 0, None)


def test_intervals_contain_the_estimate_and_are_not_a_point() -> None:
    for result in (overlap(FAR, REFERENCES), paired_overlap(CLOSE, FAR, REFERENCES)):
        for e in estimates(result):
            assert e.low is not None
            assert e.estimate is not None
            assert e.high is not None
            assert e.low < e.estimate < e.high


def test_interval_of_rouge_has_the_width_of_the_normal_theory() -> None:
    references = sentences(400)
    hypotheses = garbled(references, 0.5)
    e = overlap(hypotheses, references).rouge.f_measure["rougeL"]
    each = [rouge_f([h], [r])["rougeL"] for h, r in zip(hypotheses, references, strict=True)]
    assert e.low is not None
    assert e.high is not None
    assert e.high - e.low == pytest.approx(2 * 1.96 * np.std(each) / math.sqrt(400), rel=0.1)


def test_interval_of_bleu_is_as_wide_as_sacrebleus_own() -> None:
    metric = sacrebleu.BLEU(tokenize="char")
    direct = metric.corpus_score(FAR, [REFERENCES], n_bootstrap=2000)
    e = overlap(FAR, REFERENCES).bleu["char"].score
    assert e.low is not None
    assert e.high is not None
    assert (e.high - e.low) / 2 == pytest.approx(direct._ci, rel=0.1)
    assert (e.high + e.low) / 2 == pytest.approx(direct._mean, abs=0.1 * direct._ci)


def test_the_seed_decides_the_intervals_and_nothing_else() -> None:
    first, again = overlap(FAR, REFERENCES, seed=3), overlap(FAR, REFERENCES, seed=3)
    other = overlap(FAR, REFERENCES, seed=4)
    assert first == again
    for e, f in zip(estimates(first), estimates(other), strict=True):
        assert e.estimate == f.estimate
        assert (e.low, e.high) != (f.low, f.high)


def test_no_texts_have_no_score() -> None:
    for result in (overlap([], []), paired_overlap([], [], [])):
        assert result.num_texts == 0
        assert all(e == unknown(0, "no texts") for e in estimates(result))
        assert all(bleu.signature is None for bleu in result.bleu.values())


def test_one_text_has_scores_without_intervals() -> None:
    for result in (
        overlap(CLOSE[:1], REFERENCES[:1]),
        paired_overlap(CLOSE[:1], FAR[:1], REFERENCES[:1]),
    ):
        for e in estimates(result):
            assert e.estimate is not None
            assert (e.low, e.high) == (None, None)
            assert e.reason == "an interval needs two texts"


@pytest.mark.parametrize(
    ("hypotheses", "references", "reason"),
    [
        (["", " \n"], REFERENCES[:2], "every hypothesis is empty"),
        (CLOSE[:2], ["", "\n"], "every reference is empty"),
        (["", ""], ["", ""], "every reference is empty"),
        (["abc", "a c"], REFERENCES[:2], "no hypothesis has 4 tokens"),
    ],
)
def test_bleu_without_any_ngram_of_an_order_is_undefined(
    hypotheses: list[str], references: list[str], reason: str
) -> None:
    for bleu in overlap(hypotheses, references).bleu.values():
        assert bleu.score == unknown(2, reason)
        assert bleu.signature is not None


def test_bleu_that_a_resample_may_not_have_has_no_interval() -> None:
    bleu = overlap(["", CLOSE[0]], REFERENCES[:2]).bleu["13a"].score
    assert bleu.estimate is not None
    assert (bleu.low, bleu.high) == (None, None)
    assert bleu.reason == "no interval: in a resample every hypothesis is empty"


def test_rouge_leaves_out_references_that_have_no_ngram() -> None:
    references = [*REFERENCES[:3], "", "word", "…"]
    hypotheses = [*CLOSE[:3], "some words", "another word", "…"]
    direct = rouge_f(hypotheses[:3], references[:3])
    rouge = overlap(hypotheses, references).rouge.f_measure
    assert [rouge[kind].num_texts for kind in KINDS] == [4, 3, 4]
    assert rouge["rouge2"].estimate == pytest.approx(direct["rouge2"])
    assert rouge["rouge1"].estimate == pytest.approx((3 * direct["rouge1"] + 2 / 3) / 4)
    for e in overlap(["a b", "c d"], ["", "?"]).rouge.f_measure.values():
        assert (e.estimate, e.low, e.high, e.num_texts) == (None, None, None, 0)
        assert e.reason is not None
        assert e.reason.startswith("no reference has ")


def test_an_empty_hypothesis_scores_a_rouge_of_zero() -> None:
    for e in overlap(["", ""], REFERENCES[:2]).rouge.f_measure.values():
        assert (e.low, e.estimate, e.high) == (0, 0, 0)


def test_every_hypothesis_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="2 hypotheses for 3 references"):
        overlap(CLOSE[:2], REFERENCES[:3])
    with pytest.raises(ValueError, match="2 hypotheses for 3 references"):
        paired_overlap(CLOSE[:3], FAR[:2], REFERENCES[:3])


def test_paired_difference_is_that_of_the_two_scores() -> None:
    first, second = overlap(CLOSE, REFERENCES), overlap(FAR, REFERENCES)
    pair = paired_overlap(CLOSE, FAR, REFERENCES)
    assert set(pair.bleu) == {"char"}
    assert set(pair.rouge.f_measure) == {"rougeL"}
    for e, f, d in (
        (first.bleu["char"].score, second.bleu["char"].score, pair.bleu["char"].score),
        *((r.rouge.f_measure["rougeL"] for r in (first, second, pair)),),
    ):
        assert e.estimate is not None
        assert f.estimate is not None
        assert d.estimate == pytest.approx(e.estimate - f.estimate)
    assert pair.bleu["char"].signature == first.bleu["char"].signature


def test_a_predictor_differs_from_itself_by_nothing() -> None:
    for e in estimates(paired_overlap(FAR, FAR, REFERENCES)):
        assert (e.low, e.estimate, e.high) == (0, 0, 0)


def test_swapped_predictors_differ_by_the_opposite() -> None:
    there, back = paired_overlap(CLOSE, FAR, REFERENCES), paired_overlap(FAR, CLOSE, REFERENCES)
    for e, f in zip(estimates(there), estimates(back), strict=True):
        assert e.low is not None
        assert f.estimate == -e.estimate
        assert f.high == pytest.approx(-e.low)


def test_a_pair_is_surer_than_its_halves() -> None:
    # texts that are hard for both predictors count in both scores, and not in the difference
    references = sentences(60)
    shared = [garbled([r], (i % 5) / 5, seed=i)[0] for i, r in enumerate(references)]
    near = garbled(shared, 0.05)
    alone = overlap(shared, references).rouge.f_measure["rougeL"]
    pair = paired_overlap(shared, near, references).rouge.f_measure["rougeL"]
    assert alone.low is not None
    assert alone.high is not None
    assert pair.low is not None
    assert pair.high is not None
    assert pair.high - pair.low < 0.5 * (alone.high - alone.low)


def test_distinct_counts_ngrams_within_texts_by_hand() -> None:
    result = diversity(["the cat the cat", "a cat", ""])
    # the, cat, a; "the cat", "cat the", "a cat": none runs from one text into the next
    assert (result.distinct_1.ratio, result.distinct_1.num_ngrams) == (3 / 6, 6)
    assert (result.distinct_2.ratio, result.distinct_2.num_ngrams) == (3 / 4, 4)
    assert result.num_texts == 3


@pytest.mark.parametrize(
    "texts",
    [
        CLOSE,
        REFERENCES[:2],
        ["to be or not to be", "to be to be to be", "or not", "be", "be", "to be or not to be"],
        ["one two", "three four"],
    ],
)
def test_self_bleu_is_the_mean_of_sacrebleus_sentence_bleu(texts: list[str]) -> None:
    metric = sacrebleu.BLEU(effective_order=True)
    direct = [
        metric.sentence_score(text, texts[:i] + texts[i + 1 :]).score
        for i, text in enumerate(texts)
    ]
    own = diversity(texts).self_bleu
    assert own.score == pytest.approx(np.mean(direct))
    assert own.signature == str(metric.get_signature())
    assert own.num_texts == len(texts)


def test_the_same_text_over_and_over_is_not_diverse() -> None:
    result = diversity(["all the same words"] * 10)
    assert (result.distinct_1.ratio, result.distinct_2.ratio) == (4 / 40, 3 / 30)
    assert result.self_bleu.score == pytest.approx(100)


def test_texts_without_a_common_word_are_as_diverse_as_can_be() -> None:
    result = diversity(["one two three", "four five six"])
    assert (result.distinct_1.ratio, result.distinct_2.ratio) == (1, 1)
    assert result.self_bleu.score == 0


def test_empty_texts_have_no_self_bleu_and_are_nobodys_reference() -> None:
    texts = ["be", "not to be", "to be or not"]
    assert diversity(["", *texts, "\n"]).self_bleu == diversity(texts).self_bleu
    alone = diversity(["", "to be or not to be"]).self_bleu
    assert (alone.score, alone.signature, alone.num_texts) == (None, None, 1)
    assert alone.reason == "self-BLEU needs two texts with words"


@pytest.mark.parametrize(
    ("texts", "first", "second"),
    [
        ([], "no texts", "no texts"),
        (["", " \n"], "no text has a word", "no text has 2 words"),
        (["one", "two"], None, "no text has 2 words"),
    ],
)
def test_distinct_of_no_ngrams_is_undefined(
    texts: list[str], first: str | None, second: str
) -> None:
    result = diversity(texts)
    assert result.distinct_1.reason == first
    assert (result.distinct_1.ratio is None) == (first is not None)
    assert (result.distinct_2.ratio, result.distinct_2.reason) == (None, second)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: module.overlap(CLOSE, REFERENCES),
        lambda: module.overlap(CLOSE, REFERENCES, FAR),
        lambda: module.diversity(CLOSE),
    ],
)
def test_results_are_plain_json(compute: Callable[[], dict[str, Any]]) -> None:
    plain = compute()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_a_user_hears_nothing_from_the_libraries_and_keeps_their_own_logging() -> None:
    code = """
import logging

before = logging.root.level, logging.getLoggerClass(), logging.lastResort
from bayesgen.evaluation.overlap import diversity, overlap

texts = ["looks tokenized ."] * 120
overlap(texts, texts)
diversity(texts)
assert (logging.root.level, logging.getLoggerClass(), logging.lastResort) == before
assert not logging.root.handlers
assert not logging.getLogger("sacrebleu").level
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
