"""NLL of weights in memory, against the report that scores everything."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bayesgen.data.windows import Windows
from bayesgen.evaluation import evaluate_split
from bayesgen.evaluation.nll import log_likelihoods, nll_of
from bayesgen.evaluation.prior_predictive import prior_predictive
from bayesgen.models import FunctionalModel
from bayesgen.posterior import Posterior
from bayesgen.predictive import Forward, Predictive

TOKENS = np.random.default_rng(0).integers(0, 11, 101).astype(np.uint16)


def draws_of(model: FunctionalModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return model.theta + 0.3 * torch.randn(4, model.layout.size, generator=generator)


def test_it_is_the_nll_of_the_report(tiny_gpt: FunctionalModel) -> None:
    windows, draws = Windows.tiled(TOKENS, 8), draws_of(tiny_gpt)  # the last one is padded
    posterior = Posterior.from_draws(draws, tiny_gpt.layout)
    report = evaluate_split(Predictive(tiny_gpt, posterior), windows, windows)
    mixed, each = nll_of(Forward(tiny_gpt), tiny_gpt.likelihood, draws, windows, batch_size=5)
    assert mixed == pytest.approx(report.predictors["bma"].nll, rel=1e-6)
    assert each == pytest.approx(report.predictors["mean_of_draws"].nll, rel=1e-6)


def test_without_a_draw_it_is_infinite(tiny_gpt: FunctionalModel) -> None:
    none = draws_of(tiny_gpt)[:0]
    windows = Windows.tiled(TOKENS, 8)
    assert nll_of(Forward(tiny_gpt), tiny_gpt.likelihood, none, windows) == (math.inf, math.inf)


def test_the_prior_predictive_is_that_of_its_draws(tiny_gpt: FunctionalModel) -> None:
    windows, draws = Windows.tiled(TOKENS, 8), draws_of(tiny_gpt)
    found = prior_predictive(tiny_gpt, draws, windows, batch_size=4)
    every = log_likelihoods(Forward(tiny_gpt), tiny_gpt.likelihood, draws, windows)
    torch.testing.assert_close(found.draws, -every.sum(1) / 100)
    log_probs = torch.stack(
        [
            tiny_gpt(theta, windows.batch(np.arange(len(windows)))).log_softmax(-1).flatten(0, 1)
            for theta in draws
        ]
    )[:, :100].double()
    mixture = log_probs.exp().mean(0)
    assert found.nll == pytest.approx(
        -float(mixture[torch.arange(100), TOKENS[1:].astype(np.int64)].log().mean()), rel=1e-5
    )
    assert found.entropy == pytest.approx(float(torch.special.entr(mixture).sum(-1).mean()), 1e-5)
    own = torch.special.entr(log_probs.exp()).sum(-1).mean()
    assert found.aleatoric == pytest.approx(float(own), 1e-5)
    assert found.confidence is not None
    torch.testing.assert_close(
        found.confidence, log_probs.exp().amax(-1).mean(1), rtol=1e-5, atol=1e-5
    )
    assert found.uniform == pytest.approx(math.log(11))
    assert found.shares is None  # nobody looks at a table of tokens
