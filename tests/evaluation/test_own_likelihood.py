"""A likelihood of the user's own: a plain object, and the NLL of the predictors alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Poisson

from bayesgen.draws import Draws
from bayesgen.evaluation import evaluate_split
from bayesgen.evaluation.cache import TokenCache
from bayesgen.evaluation.walk import nll_of
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward, Predictive
from bayesgen.reports.tables import plain, predictor_caption, table_of
from bayesgen.runs.files import finite
from tests.evaluation.reports import by_draws
from tests.evaluation.test_regression import Points


@dataclass(frozen=True)
class Counts:
    """Labels [B, 2] that are counts: Poisson with the outputs as log-rates; -1 is missing."""

    def per_sequence(self, outputs: Tensor, labels: Tensor) -> Tensor:
        density = Poisson(outputs.exp()).log_prob(labels.clamp(min=0))
        return (density * (labels >= 0)).sum(1)

    def total(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.per_sequence(outputs, labels).sum()

    def count(self, labels: Tensor) -> Tensor:
        return (labels >= 0).sum()


def rows(count: int, seed: int, source: str = "counts") -> Points:
    generator = torch.Generator().manual_seed(seed)
    y = torch.poisson(torch.full((count, 2), 2.0), generator=generator)
    y[1::3, 1] = -1
    return Counted(torch.randn(count, 3, generator=generator), y, source)


class Counted(Points):
    @property
    def num_targets(self) -> int:
        return int((self.y >= 0).sum())


@pytest.fixture
def predictive() -> Predictive:
    torch.manual_seed(0)
    model = FunctionalModel(
        torch.nn.Linear(3, 2), lambda apply, batch: apply(batch["x"]), likelihood=Counts()
    )
    noise = 0.3 * torch.randn(7, model.layout.size, generator=torch.Generator().manual_seed(1))
    return Predictive(model, Draws.from_draws(model.theta + noise, model.layout))


def test_it_is_scored_by_its_nll_alone(predictive: Predictive, tmp_path: Path) -> None:
    data, model = rows(40, 0), predictive.model
    cache = TokenCache(tmp_path)
    report = evaluate_split(predictive, data, rows(9, 5, "other"), batch_size=7, cache=cache)
    count = data.num_targets
    each = torch.stack(
        [model.likelihood.per_sequence(model(theta, vars(data)), data.y).double()
         for theta in predictive.posterior]
    )  # fmt: skip
    bma = each.logsumexp(0) - math.log(7)
    found = {name: values["nll"] for name, values in report.content["predictors"].items()}
    assert found["bma"] == pytest.approx(-float(bma.sum()) / count, rel=1e-5)
    assert found["mean_of_draws"] == pytest.approx(-float(each.sum()) / 7 / count, rel=1e-5)
    alone = model.likelihood.total(model(model.theta, vars(data)), data.y)
    assert found["deterministic"] == pytest.approx(-float(alone) / count, rel=1e-5)
    assert (report.content["num_tokens"], report.content["fitted_temperature"]) == (count, None)
    assert found["temperature_scaled"] is None
    assert "temperature" in report.content["predictors"]["temperature_scaled"]["no_nll"]
    assert by_draws(report)[7] == report.content["predictors"]["bma"]
    assert list(by_draws(report)) == [1, 2, 3, 5, 7]
    torch.testing.assert_close(report.window_nll["bma"], -bma, rtol=1e-5, atol=1e-5)
    assert report.content["bma_minus"].keys() == {
        "deterministic",
        "posterior_mean",
        "mean_of_draws",
    }
    mixed, _ = nll_of(Forward(model), torch.stack(list(predictive.posterior)), data)
    assert mixed == pytest.approx(found["bma"], rel=1e-6)


def test_a_second_look_runs_no_network_and_tables_show_it(
    predictive: Predictive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, held_in, cache = rows(40, 0), rows(9, 5, "other"), TokenCache(tmp_path)
    first = finite(evaluate_split(predictive, data, held_in, cache=cache).content)

    def no_network(*_: Any) -> Tensor:
        raise AssertionError("the network was run")

    monkeypatch.setattr(predictive.forward, "outputs", no_network)
    again = finite(evaluate_split(predictive, data, held_in, cache=cache).content)
    assert json.loads(json.dumps(again, allow_nan=False)) == json.loads(json.dumps(first))
    evaluation = {"splits": {"test": again}}
    table = table_of("predictors", {"run": evaluation})
    assert table is not None
    header, *body = [line.split() for line in plain(table).splitlines() if line.strip(" ─")]
    assert header[:3] == ["split", "predictor", "NLL"]
    assert [row[1] for row in body] == list(first["predictors"])
    assert body[1][2] == "-"
    assert predictor_caption(evaluation).startswith("test: 67 labels, 7 draws")
