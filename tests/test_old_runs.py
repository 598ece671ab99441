"""Runs that version 0.1.0 left: continued, opened, scored again and generated from."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import bayesgen
from tests.golden.cases import ENVIRONMENT, HASHES, NOT_INHERITED, digest, unlike

pytest.importorskip("transformers")

RUNS = Path(__file__).parent / "fixtures" / "runs"
CHAIN, CLASSIFIER = "nanogpt-sghmc", "classifier-swag"
EXPECTED = json.loads((RUNS / "expected.json").read_text())
DRIVER = """
import contextlib, io, json, os, sys
sys.path.append(sys.argv[1])
from bayesgen.cli.main import main
from tests.golden.cases import probe
printed = {}
for folder, lines in json.loads(sys.argv[2]).items():
    os.chdir(folder)
    for line in lines:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = main(line.split())
        if code:
            sys.exit(f"bayesgen {line}: status {code}")
        printed[line] = out.getvalue()
    os.chdir("..")
print(json.dumps([probe(), printed]))
"""


COMMANDS = {
    CHAIN: (
        "train --resume run",
        "generate run --device cpu --prompt fox --max-new-tokens 9 --json",
    ),
    CLASSIFIER: (
        "evaluate run --device cpu",
        "prior show run --json",
        # finished: nothing is left to do, and nothing that is there may change
        "train --resume run",
    ),
}


@pytest.fixture
def here(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is a copy of one of the folders."""
    copy = shutil.copytree(RUNS / request.param, tmp_path / "work")
    monkeypatch.chdir(copy)
    return copy


class After(NamedTuple):
    """The copies of the folders in `path`, after the commands.

    `printed` is what each command printed, `why` why bits cannot be compared on this machine
    (None: they can).
    """

    path: Path
    printed: dict[str, str]
    why: str | None


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> After:
    """All commands in one process: its imports take longer than they."""
    path = tmp_path_factory.mktemp("old")
    for name in COMMANDS:
        shutil.copytree(RUNS / name, path / name)
    kept = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(Path(__file__).parents[1]), json.dumps(COMMANDS)],
        cwd=path, env=kept | ENVIRONMENT | {"HOME": str(path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    probe, printed = json.loads(done.stdout.splitlines()[-1])
    return After(path, printed, unlike(json.loads(HASHES.read_text())["probe"], probe))


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


def test_a_stopped_chain_ends_as_one_that_was_not(after: After) -> None:
    assert not list(RUNS.glob(f"{CHAIN}/run/*_metrics.json"))
    run, text = after.path / CHAIN / "run", after.printed[COMMANDS[CHAIN][1]]
    assert len(list((run / "draws").iterdir())) == 6
    assert (run / "sghmc_metrics.json").is_file()
    assert newest_evaluation(run)["splits"].keys() == {"val"}
    assert len(json.loads(text)["texts"][0]["tokens"]) == 9
    if after.why:
        pytest.skip(f"opened and continued; this machine computes otherwise: {after.why}")
    assert digest(run) == EXPECTED[CHAIN]


def test_a_finished_run_is_scored_as_it_was(after: After) -> None:
    old, run = RUNS / CLASSIFIER / "run", after.path / CLASSIFIER / "run"
    before = newest_evaluation(old)
    files = {run / path.name for path in old.glob("bayesian_eval_*")}
    assert before["splits"]["val"]["predictors"]["bma"]["nll"] > 0
    assert set(run.glob("bayesian_eval_*")) > files
    assert_close(newest_evaluation(run), before)
    assert json.loads(after.printed["prior show run --json"])["rank"] == 3
    if after.why:
        pytest.skip(f"scored; this machine computes otherwise: {after.why}")
    # of the three evaluations the one of the command `evaluate`
    again = min(path.stem for path in set(run.glob("bayesian_eval_*")) - files)
    for path in run.glob("bayesian_eval_*"):
        if path.stem != again:
            path.unlink()
    # a Gaussian that is resumed writes the same draws again, and their scores are kept twice
    apart = {"tokens"}
    found = {kind: value for kind, value in digest(run).items() if kind not in apart}
    assert found == {k: v for k, v in EXPECTED[CLASSIFIER].items() if k not in apart}
