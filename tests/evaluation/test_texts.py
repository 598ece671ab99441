"""Continuations beside what really follows: whose text, which streams, and whose scores."""

from __future__ import annotations

import json
import math

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
from bayesgen.evaluation.texts import TextSamples, sample_texts
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
    assert len(samples.prompts) == whole
    found = [p + r for p, r in zip(samples.prompts, samples.references, strict=True)]
    assert set(found) == pieces  # each of them, the shorter one at the end not among them
    assert all(len(prompt) == half for prompt in samples.prompts)
    assert samples.settings["max_new_tokens"] == block + 1 - half
    for continuations in samples.continuations.values():
        assert [len(c) for c in continuations] == [block + 1 - half] * whole
    with pytest.raises(ValueError, match=f"only {whole} whole windows, not {whole + 1}"):
        sample_texts(predictive, windows(block), whole + 1)


def test_the_seed_chooses_the_windows(predictive: Predictive) -> None:
    one, again, other = (sample_texts(predictive, windows(), 5, seed=s) for s in (1, 1, 2))
    assert one == again
    assert set(one.prompts) != set(other.prompts)
    assert len(set(one.prompts)) == 5
    # more texts keep the ones that were there
    assert sample_texts(predictive, windows(), 9, seed=1).prompts[:5] == one.prompts


def test_each_predictor_continues_with_its_own_weights(predictive: Predictive) -> None:
    samples = sample_texts(predictive, windows(), 6, seed=7)
    assert set(samples.continuations) == {"deterministic", "bma"}
    for name, who in {"deterministic": checkpoint(predictive), "bma": predictive}.items():
        texts = who.generate_all(samples.prompts, "plain", max_new_tokens=5, seed=7)
        assert samples.continuations[name] == [text.continuation for text in texts]
    assert samples.continuations["bma"] != samples.continuations["deterministic"]


def test_both_predictors_have_the_same_random_streams(predictive: Predictive) -> None:
    same = checkpoint(predictive, copies=4)
    samples = sample_texts(same, windows(), 9)
    assert samples.continuations["bma"] == samples.continuations["deterministic"]


def test_batches_have_streams_of_their_own(
    predictive: Predictive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 4)
    repeated = Windows.tiled(CharTokenizer(LETTERS).encode("ab" * 40), 8)
    samples = sample_texts(predictive, repeated, 9, seed=5)
    assert len(set(samples.prompts)) == 1
    for continuations in samples.continuations.values():
        assert len(set(continuations)) == 9
    batches = [(samples.prompts[i : i + 4], 5 + i) for i in (0, 4, 8)]
    expected = [
        text.continuation
        for prompts, seed in batches
        for text in predictive.generate_all(prompts, max_new_tokens=5, seed=seed)
    ]
    assert samples.continuations["bma"] == expected
    assert samples.settings["texts_at_once"] == 4


def test_texts_follow_the_networks_probabilities(predictive: Predictive) -> None:
    """First letters after one prompt, 600 times: frequencies as the mixture gives them."""
    model = predictive.model
    repeated = Windows.tiled(CharTokenizer(LETTERS).encode("abcdefgh" * 600 + "a"), 8)
    samples = sample_texts(predictive, repeated, 600)
    prompt = {"input_ids": torch.tensor([[0, 1, 2, 3]])}
    each = torch.stack([model(t, prompt)[0, -1].softmax(-1) for t in predictive.posterior])
    own = model(model.theta, prompt)[0, -1].softmax(-1)
    for name, probs in {"bma": each.mean(0), "deterministic": own}.items():
        first = [LETTERS.index(text[0]) for text in samples.continuations[name]]
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
    samples = TextSamples(
        ["..."] * 8, references, {"deterministic": far, "bma": close}, {"temperature": 1.0}
    )
    scores = samples.scores()
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
    score = samples.scores()["bleu"]["bma"]["char"]["score"]
    assert score["low"] is None
    assert score["reason"]
    assert math.isfinite(score["estimate"])
    assert json.loads(json.dumps(samples.to_json())) == samples.to_json()


def test_a_model_without_a_tokenizer_is_refused(tiny_gpt: FunctionalModel) -> None:
    bare = Predictive(tiny_gpt, Draws.from_draws(tiny_gpt.theta[None], tiny_gpt.layout))
    with pytest.raises(ValueError, match="no tokenizer"):
        sample_texts(bare, windows(), 1)
