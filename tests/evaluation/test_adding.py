"""A metric from outside the package: one function, seen wherever the built-in ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayesgen.cli.main import main
from bayesgen.evaluation import METRICS, Metric, Undefined
from bayesgen.evaluation.walk import Split
from tests.docs.pages import DOCS, blocks
from tests.workspace import Workspace

SINGLE = ("deterministic", "temperature_scaled", "posterior_mean", "bma")
"""Predictors whose scores of every token are at hand."""


def page() -> dict[str, Any]:
    """What the file of docs/how-to/add-metric.md defines."""
    (block,) = (b for b in blocks(DOCS / "how-to" / "add-metric.md", "python") if "def " in b.code)
    namespace: dict[str, Any] = {}
    exec(block.code, namespace)
    return namespace


def share_of_nothing(said: Any, split: Split) -> float:
    raise Undefined("nothing has no share")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics of this file, for the time of a test."""
    monkeypatch.setattr(METRICS, "_registered", dict(METRICS._registered))
    METRICS.register(page()["METRIC"])
    METRICS.register(Metric("share", share_of_nothing, ("token",), heading="share of nothing"))
    METRICS.register(
        Metric("bits", lambda said, split: said.nll / np.log(2), ("token",), of_sums=True)
    )


def test_a_metric_is_in_the_file_the_tables_and_the_summary(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--device", "cpu", "--eval-splits", "val")
    assert workspace.train("sghmc", "--eval", *flags) == 0
    (path,) = Path("run").glob("bayesian_eval_*[0-9].json")
    path.unlink()
    capsys.readouterr()
    assert main(["evaluate", "run", *flags]) == 0  # from what was kept: no network runs
    printed = capsys.readouterr().out
    report = workspace.json("run/bayesian_eval_*[0-9].json")["splits"]["val"]
    predictors = report["predictors"]
    for name in SINGLE:
        scores = predictors[name]
        assert scores["error_rate"] == pytest.approx(1 - scores["accuracy"])
        assert (scores["share"], scores["no_share"]) == (None, "nothing has no share")
        assert f"{scores['error_rate']:.5f}" in printed
    # the average of the draws has what their sums give, and the first few draws' mixture, too
    assert "error_rate" not in predictors["mean_of_draws"]
    assert predictors["mean_of_draws"]["bits"] == pytest.approx(
        predictors["mean_of_draws"]["nll"] / np.log(2)
    )
    assert all("error_rate" not in row for row in report["by_num_draws"])
    for text in (printed, Path("run/sghmc_summary.txt").read_text()):
        (header, *_) = [line for line in text.splitlines() if "predictor" in line]
        assert "error rate" in header
        assert "share of nothing" in header
        assert header.index("Brier") < header.index("error rate")


def test_one_of_sums_that_was_registered_later_is_not_known_of_every_draw(
    workspace: Workspace,
) -> None:
    flags = ("--device", "cpu", "--eval-splits", "val")
    assert workspace.train("sghmc", "--eval", *flags) == 0
    METRICS.register(
        Metric("late", lambda said, split: said.accuracy / 2, ("token",), "higher", of_sums=True)
    )
    for path in Path("run").glob("bayesian_eval_*"):
        path.unlink()
    assert main(["evaluate", "run", *flags]) == 0
    predictors = workspace.json("run/bayesian_eval_*[0-9].json")["splits"]["val"]["predictors"]
    assert predictors["bma"]["late"] == predictors["bma"]["accuracy"] / 2
    assert "late" not in predictors["mean_of_draws"]


def test_its_name_is_that_of_no_other(workspace: Workspace) -> None:
    assert list(METRICS)[-3:] == ["error_rate", "share", "bits"]
    assert METRICS["nll"].direction == "lower"
    with pytest.raises(Exception, match="unknown metric 'acuracy'; did you mean accuracy"):
        METRICS["acuracy"]
