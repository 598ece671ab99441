"""Runs that version 0.1.0 left: continued, opened, scored again and generated from."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bayesgen
from tests.golden.cases import ENVIRONMENT, HASHES, NOT_INHERITED, digest, unlike

pytest.importorskip("transformers")

RUNS = Path(__file__).parent / "fixtures" / "runs"
CHAIN, CLASSIFIER = "nanogpt-sghmc", "classifier-swag"
EXPECTED = json.loads((RUNS / "expected.json").read_text())
DRIVER = """
import contextlib, io, json, sys
sys.path.append(sys.argv[1])
from bayesgen.cli.main import main
from tests.golden.cases import probe
printed = []
for words in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(words)
    if code:
        sys.exit(f"bayesgen {words}: status {code}")
    printed.append(out.getvalue())
print(json.dumps([probe(), printed]))
"""


@pytest.fixture
def here(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is a copy of one of the folders."""
    copy = shutil.copytree(RUNS / request.param, tmp_path / "work")
    monkeypatch.chdir(copy)
    return copy


def commands(*lines: str) -> tuple[str | None, list[str]]:
    """Run command lines in one process.

    Returns why their bits cannot be compared on this machine (None: they can), and what they
    printed.
    """
    kept = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(Path(__file__).parents[1]),
         json.dumps([line.split() for line in lines])],
        env=kept | ENVIRONMENT | {"HOME": str(Path.cwd())},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    probe, printed = json.loads(done.stdout.splitlines()[-1])
    return unlike(json.loads(HASHES.read_text())["probe"], probe), printed


def newest_evaluation(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        sorted(run.glob("bayesian_eval_*[0-9].json"))[-1].read_text()
    )
    return content


def assert_close(found: Any, stored: Any, where: str = "") -> None:
    """The same plain data, numbers within 1e-6."""
    assert type(found) is type(stored), where
    if isinstance(stored, dict):
        assert found.keys() == stored.keys(), where
        for key in stored:
            assert_close(found[key], stored[key], f"{where}.{key}")
    elif isinstance(stored, list):
        assert len(found) == len(stored), where
        for i, (a, b) in enumerate(zip(found, stored, strict=True)):
            assert_close(a, b, f"{where}[{i}]")
    elif isinstance(stored, float):
        assert math.isclose(found, stored, rel_tol=1e-6, abs_tol=1e-6), (where, found, stored)
    else:
        assert found == stored, where


@pytest.mark.parametrize(
    ("here", "draws", "sampler"), [(CHAIN, 2, "sghmc"), (CLASSIFIER, 4, "swag")], indirect=["here"]
)
def test_a_posterior_is_opened(here: Path, draws: int, sampler: str) -> None:
    posterior = bayesgen.Posterior.load("run")
    assert len(posterior) == draws
    assert posterior.info is not None
    assert posterior.info.sampler == sampler
    assert all(theta.shape == (posterior.layout.size,) for theta in posterior)
    task = posterior.info.settings["task"]
    model = bayesgen.load_model(posterior.info.settings["model"], task=task)
    assert posterior.layout.size <= model.num_parameters


@pytest.mark.parametrize("here", [CHAIN], indirect=True)
def test_a_stopped_chain_ends_as_one_that_was_not(here: Path) -> None:
    assert not list(here.glob("run/*_metrics.json"))
    why, (_, text) = commands(
        "train --resume run", "generate run --device cpu --prompt fox --max-new-tokens 9 --json"
    )
    assert len(list((here / "run" / "draws").iterdir())) == 6
    assert (here / "run" / "sghmc_metrics.json").is_file()
    assert newest_evaluation(here / "run")["splits"].keys() == {"val"}
    assert len(json.loads(text)["texts"][0]["tokens"]) == 9
    if why:
        pytest.skip(f"opened and continued; this machine computes otherwise: {why}")
    assert digest(here / "run") == EXPECTED[CHAIN]


@pytest.mark.parametrize("here", [CLASSIFIER], indirect=True)
def test_a_finished_run_is_scored_as_it_was(here: Path) -> None:
    run = here / "run"
    before, files = newest_evaluation(run), set(run.glob("bayesian_eval_*"))
    assert before["splits"]["val"]["predictors"]["bma"]["nll"] > 0
    why, (_, shown, _) = commands(
        "evaluate run --device cpu",
        "prior show run --json",
        # finished: nothing is left to do, and nothing that is there may change
        "train --resume run",
    )
    assert set(run.glob("bayesian_eval_*")) > files
    assert_close(newest_evaluation(run), before)
    assert json.loads(shown)["rank"] == 3
    if why:
        pytest.skip(f"scored; this machine computes otherwise: {why}")
    # of the three evaluations the one of the command `evaluate`
    again = min(path.stem for path in set(run.glob("bayesian_eval_*")) - files)
    for path in run.glob("bayesian_eval_*"):
        if path.stem != again:
            path.unlink()
    # a Gaussian that is resumed writes the same draws again, and their scores are kept twice
    apart = {"tokens"}
    found = {kind: value for kind, value in digest(run).items() if kind not in apart}
    assert found == {k: v for k, v in EXPECTED[CLASSIFIER].items() if k not in apart}
