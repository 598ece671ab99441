"""NLL of weights in memory, against the report that scores everything."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from bayesgen.data.examples import Examples
from bayesgen.data.labelled import load_labelled
from bayesgen.data.windows import Rows, Windows
from bayesgen.draws import Draws
from bayesgen.evaluation import evaluate_split
from bayesgen.evaluation.prior_predictive import prior_predictive
from bayesgen.evaluation.walk import Split, densities, nll_of
from bayesgen.likelihoods import Gaussian
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward, Predictive
from tests.encoder import save_encoder, write_rows
from tests.evaluation.test_regression import Points

TOKENS = np.random.default_rng(0).integers(0, 11, 101).astype(np.uint16)


def draws_of(model: FunctionalModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return model.theta + 0.3 * torch.randn(4, model.layout.size, generator=generator)


def log_likelihoods(
    forward: Forward, draws: torch.Tensor, rows: Rows, batch_size: int = 64
) -> torch.Tensor:
    return densities(forward, Split.of(forward, rows, batch_size), draws)


def test_it_is_the_nll_of_the_report(tiny_gpt: FunctionalModel) -> None:
    windows, draws = Windows.tiled(TOKENS, 8), draws_of(tiny_gpt)  # the last one is padded
    posterior = Draws.from_draws(draws, tiny_gpt.layout)
    report = evaluate_split(Predictive(tiny_gpt, posterior), windows, windows)
    mixed, each = nll_of(Forward(tiny_gpt), draws, windows, batch_size=5)
    assert mixed == pytest.approx(report.content["predictors"]["bma"]["nll"], rel=1e-6)
    assert each == pytest.approx(report.content["predictors"]["mean_of_draws"]["nll"], rel=1e-6)


def test_without_a_draw_it_is_infinite(tiny_gpt: FunctionalModel) -> None:
    none = draws_of(tiny_gpt)[:0]
    windows = Windows.tiled(TOKENS, 8)
    assert nll_of(Forward(tiny_gpt), none, windows) == (math.inf, math.inf)


def test_the_prior_predictive_is_that_of_its_draws(tiny_gpt: FunctionalModel) -> None:
    windows, draws = Windows.tiled(TOKENS, 8), draws_of(tiny_gpt)
    found = prior_predictive(tiny_gpt, draws, windows, batch_size=4)
    every = log_likelihoods(Forward(tiny_gpt), draws, windows)
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


def test_labels_are_told_in_the_order_of_the_rows(tmp_path: Path) -> None:
    """However they are read: texts of different lengths, the longest first."""
    model, rows = classifier(tmp_path)
    draws = draws_of(model)
    found = log_likelihoods(Forward(model), draws, rows, batch_size=4)
    assert found.shape == (4, len(rows))
    for place in range(len(rows)):
        batch = rows.batch(np.array([place]))
        for theta, own in zip(draws, found, strict=True):
            expected = model(theta, batch).log_softmax(-1)[0, batch["labels"][0]]
            assert float(own[place]) == pytest.approx(float(expected), abs=1e-5)


def test_any_number_is_a_label(tmp_path: Path) -> None:
    """Of real labels none means "no observation", but for NaN."""
    labels = torch.tensor([0.0, 1.0, -100.0, 3.0, math.nan])
    points = Points(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), labels)
    model = FunctionalModel(
        torch.nn.Linear(3, 1), lambda apply, batch: apply(batch["x"]), likelihood=Gaussian(2.0)
    )
    (found,) = log_likelihoods(Forward(model), model.theta[None], points, 2)
    outputs = model(model.theta, points.batch(np.arange(5)))
    expected = Normal(outputs[:, 0], 2.0).log_prob(labels.nan_to_num())
    torch.testing.assert_close(found[:4].float(), expected[:4])
    assert found[4] == 0


def test_what_is_frozen_runs_once_for_all_draws(tmp_path: Path) -> None:
    model, rows = classifier(tmp_path)
    forward, calls = Forward(model), []
    layer = forward._flat.module.get_submodule("bert.embeddings.word_embeddings")
    layer.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for number in (1, 8):
        calls.clear()
        draws = model.theta.expand(number, -1)
        log_likelihoods(forward, draws, rows, batch_size=5)
        counts.append(len(calls))
    assert counts[0] == counts[1] >= len(rows) // 5


def classifier(folder: Path) -> tuple[FunctionalModel, Examples]:
    """Three classes, with a Bayesian head, and rows for it."""
    from bayesgen.models import huggingface

    task = "sequence-classification"
    name = str(save_encoder(folder / "encoder"))
    model = huggingface.load(name, task, "head", num_labels=3)
    data = load_labelled(str(write_rows(folder / "rows.tsv", 30)), task=task).train
    tokenizer: Any = model.tokenizer
    return model, Examples(data, tokenizer.tokenizer, 32)
