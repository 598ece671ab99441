"""Continuations beside what really follows: whose text, which streams, and whose scores."""

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
import torch
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.data.windows import Windows
from bayesgen.draws import Draws
from bayesgen.evaluation import texts as module
from bayesgen.evaluation.texts import sample_texts, score_texts
from bayesgen.models import FunctionalModel
from bayesgen.models.nanogpt import GPT, GPTConfig, GPTReader
from bayesgen.predictive import Predictive

LETTERS = "abcdefghijklm"
TEXT = "".join(LETTERS[i] for i in np.random.default_rng(0).integers(0, 13, 76))
"""9 whole windows of 8 targets, and one of 3."""


def network(block: int = 8) -> FunctionalModel:
    config = GPTConfig(block, 13, n_layer=1, n_head=2, n_embd=8, bias=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        gpt = GPT(config)
    tokenizer = CharTokenizer(LETTERS)
    return FunctionalModel(gpt, block_size=block, reader=GPTReader(config), tokenizer=tokenizer)


def windows(block: int = 8) -> Windows:
    return Windows.tiled(CharTokenizer(LETTERS).encode(TEXT), block)


@pytest.fixture(scope="module")
def predictive() -> Predictive:
    model = network()
    noise = torch.randn(3, model.layout.size, generator=torch.Generator().manual_seed(1))
    return Predictive(model, Draws.from_draws(model.theta + noise, model.layout))


def checkpoint(predictive: Predictive, copies: int = 1) -> Predictive:
    """The network that the chain started from, as a posterior."""
    model = predictive.model
    draws = model.theta.expand(copies, -1)
    return Predictive(model, Draws.from_draws(draws, model.layout))


@pytest.mark.parametrize(("block", "half", "whole"), [(8, 4, 9), (5, 2, 15), (1, 1, 75)])
def test_a_prompt_and_its_reference_are_a_window_of_the_text(
    block: int, half: int, whole: int
) -> None:
    model = network(block)
    predictive = Predictive(model, Draws.from_draws(model.theta[None], model.layout))
    samples = sample_texts(predictive, windows(block), whole)
    pieces = {TEXT[i * block : (i + 1) * block + 1] for i in range(whole)}
    assert len(samples["prompts"]) == whole
    found = [p + r for p, r in zip(samples["prompts"], samples["references"], strict=True)]
    assert set(found) == pieces  # each of them, the shorter one at the end not among them
    assert all(len(prompt) == half for prompt in samples["prompts"])
    assert samples["settings"]["max_new_tokens"] == block + 1 - half
    for continuations in samples["continuations"].values():
        assert [len(c) for c in continuations] == [block + 1 - half] * whole
    with pytest.raises(ValueError, match=f"only {whole} whole windows, not {whole + 1}"):
        sample_texts(predictive, windows(block), whole + 1)


def test_the_seed_chooses_the_windows(predictive: Predictive) -> None:
    one, again, other = (sample_texts(predictive, windows(), 5, seed=s) for s in (1, 1, 2))
    assert one == again
    assert set(one["prompts"]) != set(other["prompts"])
    assert len(set(one["prompts"])) == 5
    # more texts keep the ones that were there
    assert sample_texts(predictive, windows(), 9, seed=1)["prompts"][:5] == one["prompts"]


def test_each_predictor_continues_with_its_own_weights(predictive: Predictive) -> None:
    samples = sample_texts(predictive, windows(), 6, seed=7)
    assert set(samples["continuations"]) == {"deterministic", "bma"}
    for name, who in {"deterministic": checkpoint(predictive), "bma": predictive}.items():
        texts = who.generate_all(samples["prompts"], "plain", max_new_tokens=5, seed=7)
        assert samples["continuations"][name] == [text.continuation for text in texts]
    assert samples["continuations"]["bma"] != samples["continuations"]["deterministic"]


def test_both_predictors_have_the_same_random_streams(predictive: Predictive) -> None:
    same = checkpoint(predictive, copies=4)
    samples = sample_texts(same, windows(), 9)
    assert samples["continuations"]["bma"] == samples["continuations"]["deterministic"]


def test_batches_have_streams_of_their_own(
    predictive: Predictive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 4)
    repeated = Windows.tiled(CharTokenizer(LETTERS).encode("ab" * 40), 8)
    samples = sample_texts(predictive, repeated, 9, seed=5)
    assert len(set(samples["prompts"])) == 1
    for continuations in samples["continuations"].values():
        assert len(set(continuations)) == 9
    batches = [(samples["prompts"][i : i + 4], 5 + i) for i in (0, 4, 8)]
    expected = [
        text.continuation
        for prompts, seed in batches
        for text in predictive.generate_all(prompts, max_new_tokens=5, seed=seed)
    ]
    assert samples["continuations"]["bma"] == expected
    assert samples["settings"]["texts_at_once"] == 4


def test_texts_follow_the_networks_probabilities(predictive: Predictive) -> None:
    """First letters after one prompt, 600 times: frequencies as the mixture gives them."""
    model = predictive.model
    repeated = Windows.tiled(CharTokenizer(LETTERS).encode("abcdefgh" * 600 + "a"), 8)
    samples = sample_texts(predictive, repeated, 600)
    prompt = {"input_ids": torch.tensor([[0, 1, 2, 3]])}
    each = torch.stack([model(t, prompt)[0, -1].softmax(-1) for t in predictive.posterior])
    own = model(model.theta, prompt)[0, -1].softmax(-1)
    for name, probs in {"bma": each.mean(0), "deterministic": own}.items():
        first = [LETTERS.index(text[0]) for text in samples["continuations"][name]]
        counts = np.bincount(first, minlength=13)
        expected = 600 * probs.double().numpy()
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < 32.9  # 1 in 1,000 at 12 degrees of freedom
    gap = (each.mean(0) - own).abs().sum()
    assert float(gap) > 0.2  # so that one could not pass for the other


def test_scores_are_those_of_the_libraries() -> None:
    line = "speak no more the king his crown sits ill on many a head that wears it"
    words, rng = line.split(), np.random.default_rng(0)
    references, close, far = (
        [" ".join(rng.choice(words, 9 + i % 4)) for i in range(8)] for _ in range(3)
    )
    close = [c[:20] + r[20:] for c, r in zip(close, references, strict=True)]
    samples = {
        "references": references,
        "continuations": {"deterministic": far, "bma": close},
        "settings": {"temperature": 1.0},
    }
    scores = score_texts(samples)
    assert scores["num_texts"] == 8
    assert scores["decoding"] == {"temperature": 1.0}
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=DefaultTokenizer(False))
    estimates = {}
    for name, texts in {"deterministic": far, "bma": close}.items():
        for tokenizer in ("char", "13a"):
            bleu = sacrebleu.BLEU(tokenize=tokenizer).corpus_score(texts, [references]).score
            got = scores["bleu"][name][tokenizer]["score"]["estimate"]
            assert got == pytest.approx(bleu)
            estimates[name, tokenizer] = bleu
        each = [scorer.score(r, t) for r, t in zip(references, texts, strict=True)]
        for kind in ("rouge1", "rouge2", "rougeL"):
            mean = float(np.mean([one[kind].fmeasure for one in each]))
            assert scores["rouge"][name]["f_measure"][kind]["estimate"] == pytest.approx(mean)
            estimates[name, kind] = mean
    paired = scores["bleu"]["bma_minus_deterministic"]["char"]["score"]
    gain = estimates["bma", "char"] - estimates["deterministic", "char"]
    assert paired["estimate"] == pytest.approx(gain)
    assert 0 < paired["low"] < gain < paired["high"]
    paired = scores["rouge"]["bma_minus_deterministic"]["f_measure"]["rougeL"]
    gain = estimates["bma", "rougeL"] - estimates["deterministic", "rougeL"]
    assert paired["estimate"] == pytest.approx(gain)
    varied = scores["diversity"]
    assert set(varied) == {"deterministic", "bma", "reference"}
    pooled = " ".join(references).split()
    assert varied["reference"]["distinct_1"]["ratio"] == len(set(pooled)) / len(pooled)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_one_text_has_scores_without_intervals(predictive: Predictive) -> None:
    samples = sample_texts(predictive, windows(), 1)
    score = score_texts(samples)["bleu"]["bma"]["char"]["score"]
    assert score["low"] is None
    assert score["reason"]
    assert math.isfinite(score["estimate"])
    assert json.loads(json.dumps(samples)) == samples


def test_a_model_without_a_tokenizer_is_refused(tiny_gpt: FunctionalModel) -> None:
    bare = Predictive(tiny_gpt, Draws.from_draws(tiny_gpt.theta[None], tiny_gpt.layout))
    with pytest.raises(ValueError, match="no tokenizer"):
        sample_texts(bare, windows(), 1)


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


def test_a_score_knows_its_texts() -> None:
    result = overlap(CLOSE, REFERENCES)
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
        assert all(e == unknown(0, "no texts") for e in estimates(result))
        assert all(bleu.signature is None for bleu in result.bleu.values())


def test_one_pair_of_texts_has_scores_without_intervals() -> None:
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
from bayesgen.evaluation.texts import diversity, overlap

texts = ["looks tokenized ."] * 120
overlap(texts, texts)
diversity(texts)
assert (logging.root.level, logging.getLoggerClass(), logging.lastResort) == before
assert not logging.root.handlers
assert not logging.getLogger("sacrebleu").level
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
