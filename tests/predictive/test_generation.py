"""Generated text: the same whatever the strategy and company, and honest numbers beside it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel
from bayesgen.models.nanogpt import GPT, GPTConfig, GPTReader
from bayesgen.predictive import Predictive
from bayesgen.predictive.generation import restricted

BLOCK, DRAWS = 8, 3


@pytest.fixture(scope="module")
def predictive() -> Predictive:
    torch.manual_seed(3)
    config = GPTConfig(BLOCK, 13, n_layer=2, n_head=2, n_embd=8, bias=False)  # two ids of padding
    model = FunctionalModel(
        GPT(config), block_size=BLOCK, reader=GPTReader(config),
        tokenizer=CharTokenizer.from_text("abcdefghijk"),
    )  # fmt: skip
    draws = model.theta + 0.5 * torch.randn(DRAWS, model.layout.size)
    return Predictive(model, Draws.from_draws(draws, model.layout))


CASES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7, "top_k": 4},
    {"top_p": 0.6, "seed": 4},
    {"temperature": 0.0},
    {"decode": "per-draw", "seed": 2},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("strategy", ["stacked", "cached"])
def test_strategies_give_the_same_tokens(
    strategy: Any, case: dict[str, Any], predictive: Predictive
) -> None:
    prompts = ["a", "hgfedcba", "abc", "kkkkkkkkkkkk"]  # shorter and longer than the block
    both = [
        predictive.generate_all(prompts, s, max_new_tokens=15, **case) for s in (strategy, "plain")
    ]
    for text, plain in zip(*both, strict=True):
        assert str(text) == str(plain)
        assert len(text.tokens) == 15
        for ours, theirs in zip(text.tokens, plain.tokens, strict=True):
            assert ours.id == theirs.id
            for name in ("log_prob", "total", "aleatoric", "epistemic"):
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-4)


def test_a_text_does_not_depend_on_the_texts_beside_it(predictive: Predictive) -> None:
    alone = predictive.generate("abc", max_new_tokens=15)
    together = predictive.generate_all(["abc", "k", "deadbeef"], max_new_tokens=15)
    assert str(together[0]) == str(alone)
    assert [str(t) for t in together[1:]] != [
        str(t) for t in predictive.generate_all(["k", "deadbeef"], max_new_tokens=15)
    ]  # but on its place: the same prompt twice is two texts


def test_the_numbers_of_a_token_are_those_of_the_mixture(predictive: Predictive) -> None:
    text = predictive.generate("bad", max_new_tokens=5)
    tokenizer = predictive.model.tokenizer
    assert tokenizer is not None
    ids = [int(t) for t in tokenizer.encode(str(text))]
    batch = {"input_ids": torch.tensor([ids[:-1]])}
    each = torch.stack(
        [predictive.model(theta, batch)[0].log_softmax(-1) for theta in predictive.posterior]
    ).double()
    mixture = each.exp().mean(0)
    own = torch.zeros(DRAWS, dtype=torch.float64)
    for position, token in enumerate(text.tokens, start=2):
        p = mixture[position]
        aleatoric = -(each[:, position].exp() * each[:, position]).sum(-1).mean()
        assert token.id == ids[position + 1]
        assert token.log_prob == pytest.approx(float(p[token.id].log()), abs=1e-5)
        assert token.total == pytest.approx(float(-(p * p.log()).sum()), abs=1e-5)
        assert token.aleatoric == pytest.approx(float(aleatoric), abs=1e-5)
        assert token.total == pytest.approx(token.aleatoric + token.epistemic, abs=1e-6)
        assert token.epistemic > 0
        own += each[:, position, token.id]
    torch.testing.assert_close(text.draw_log_probs, own, rtol=0, atol=1e-5)
    whole = math.log(float(own.exp().mean())) - float(own.mean())
    assert text.epistemic_per_token == pytest.approx(whole / 5, abs=1e-6)
    assert text.to_json()["mean"]["total"] == pytest.approx(sum(t.total for t in text.tokens) / 5)


def test_identical_draws_have_no_epistemic_uncertainty(predictive: Predictive) -> None:
    model = predictive.model
    same = Predictive(model, Draws.from_draws(model.theta.expand(4, -1), model.layout))
    text = same.generate("abc", max_new_tokens=6)
    assert max(token.epistemic for token in text.tokens) < 1e-6
    assert text.epistemic_per_token < 1e-6
    one = Predictive(model, Draws.from_draws(model.theta[None], model.layout))
    assert str(one.generate("abc", max_new_tokens=6)) == str(text)


def test_per_draw_texts_follow_their_draw(predictive: Predictive) -> None:
    texts = predictive.generate_all(
        ["ab"] * (2 * DRAWS), max_new_tokens=4, decode="per-draw", temperature=0
    )
    assert sorted(t.draw for t in texts if t.draw is not None) == [0, 0, 1, 1, 2, 2]
    for text in texts:
        assert text.draw is not None
        own = Draws.from_draws(predictive.posterior[text.draw][None], predictive.model.layout)
        alone = Predictive(predictive.model, own).generate("ab", max_new_tokens=4, temperature=0)
        assert str(text) == str(alone)


def test_a_stream_shows_every_token_as_it_comes(predictive: Predictive) -> None:
    lengths = [len(texts[0].tokens) for texts in predictive.stream(["a"], max_new_tokens=4)]
    assert lengths == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"top_k": 0}, "`top_k` must be at least 1"),
        ({"temperature": -0.1}, "`temperature` must be at least 0"),
        ({"top_p": 0.0}, "`top_p` must be above 0"),
        ({"decode": "per_draw"}, "`decode` must be one of mixture, per-draw"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    bad: dict[str, Any], message: str, predictive: Predictive
) -> None:
    with pytest.raises(UserError, match=message):
        predictive.generate("a", **bad)


# the distribution that tokens are drawn from


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0.1, 3), st.integers(1, 9))
@settings(max_examples=50)
def test_top_k_keeps_the_k_most_probable_and_their_ratios(
    logits: list[float], temperature: float, k: int
) -> None:
    log_probs = torch.tensor(logits).log_softmax(-1)
    probs = restricted(log_probs, temperature, top_k=k)
    free = (log_probs / temperature).softmax(-1)
    kept = probs > 0
    assert float(probs.sum()) == pytest.approx(1, abs=1e-5)
    assert int(kept.sum()) >= min(k, len(logits))
    if kept.any() and (~kept).any():
        assert free[kept].min() >= free[~kept].max()
    torch.testing.assert_close(probs[kept], free[kept] / free[kept].sum(), rtol=1e-4, atol=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0.05, 1))
@settings(max_examples=50)
def test_top_p_keeps_the_smallest_set_that_holds_p(logits: list[float], p: float) -> None:
    free = torch.tensor(logits).softmax(-1)
    kept = restricted(free.log(), 1.0, top_p=p) > 0
    assert float(free[kept].sum()) >= p - 1e-5
    if kept.sum() > 1:
        assert float(free[kept].sum() - free[kept].min()) < p + 1e-5
    if (~kept).any():
        assert free[kept].min() >= free[~kept].max() - 1e-7


@pytest.mark.parametrize("settings", [{"temperature": 1e-50}, {"temperature": 1e-7},
                                      {"temperature": 1.0, "top_p": 1e-50}])  # fmt: skip
def test_the_coldest_settings_take_the_most_probable_token(settings: dict[str, float]) -> None:
    log_probs = torch.tensor([0.3, 0.31, 0.39]).log()
    assert restricted(log_probs, **settings).tolist() == [0, 0, 1]


def test_top_k_comes_before_top_p() -> None:
    probs = torch.tensor([0.4, 0.3, 0.2, 0.1])
    # of the two that are left, the first holds 4/7
    torch.testing.assert_close(
        restricted(probs.log(), 1.0, top_k=2, top_p=0.55), torch.tensor([1.0, 0, 0, 0])
    )
