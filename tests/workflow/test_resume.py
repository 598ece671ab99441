"""A run that was stopped and resumed leaves the draws of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bayesgen.cli.main import run_command
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.sampler import Sampler
from bayesgen.runs import Run
from tests.processes import begun
from tests.workspace import CHAINS, Workspace


def draws(run: Path) -> dict[str, torch.Tensor]:
    return {p.name: load_file(p)["draws"] for p in sorted((run / "draws").glob("*.safetensors"))}


def assert_same_draws(one: Path, other: Path) -> None:
    a, b = draws(one), draws(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def logged(run: Path) -> list[dict[str, float]]:
    """The metrics of a run without its clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def flags_of(sampler: str) -> tuple[str, ...]:
    if sampler in CHAINS:
        return ("--warmup-steps", "3", "--sampling-steps", "12", "--thinning", "3")
    if sampler == "swag":
        return ("--warmup-steps", "3", "--sampling-steps", "12", "--thinning", "2", "--rank", "3",
                "--validation-every", "4")  # fmt: skip
    return ("--train-samples", "24", "--epochs", "2")


def interrupt_at(step: int, signum: int, patch: pytest.MonkeyPatch) -> None:
    """Send this process a real signal in the middle of its `step`-th update."""
    update, taken = Sampler.update, 0

    def counted(self: Sampler, state: object, batch: object) -> object:
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signum)
        return update(self, state, batch)  # type: ignore[arg-type]

    patch.setattr(Sampler, "update", counted)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_resumes_exactly(
    sampler: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (*flags_of(sampler), "--log-every", "1")
    if sampler != "laplace":
        flags += ("--chains", "2")
    assert workspace.train(sampler, "--out", "whole", *flags) == 0
    for step, signum in ((5, signal.SIGTERM), (4, signal.SIGINT)):
        resume = ("--resume", "parts") if (workspace.path / "parts").exists() else ()
        with monkeypatch.context() as patch:
            interrupt_at(step, signum, patch)
            code = workspace.train(sampler, "--out", "parts", *flags, *resume)
        assert code == 128 + signum
    assert workspace.train(sampler, "--out", "parts", "--resume", "parts", *flags) == 0
    assert_same_draws(workspace.path / "whole", workspace.path / "parts")
    assert logged(workspace.path / "whole") == logged(workspace.path / "parts")


@pytest.mark.parametrize("sampler", ["sghmc", "laplace"])
def test_activations_that_are_computed_again_change_no_bit(
    sampler: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, again = flags_of(sampler), (*flags_of(sampler), "--gradient-checkpointing")
    assert workspace.train(sampler, "--out", "plain", *flags) == 0
    with monkeypatch.context() as patch:
        interrupt_at(5, signal.SIGTERM, patch)
        assert workspace.train(sampler, "--out", "again", *again) == 128 + signal.SIGTERM
    assert workspace.train(sampler, "--out", "again", "--resume", "again", *flags) == 0
    assert_same_draws(workspace.path / "plain", workspace.path / "again")
    record = workspace.json("again/run.json")
    assert record["settings"]["gradient_checkpointing"] is True
    assert dict(record["opening"]["rows"])["memory"].endswith("of one block at a time come on top")


def test_resume_auto_continues_the_newest_unfinished_run_or_starts_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ("--base-dir", ".", "--resume", "auto")
    command = ["--sampler", "sgld", "--model", "model.pt", "--corpus", "corpus.txt",
               *flags_of("sgld"), *base]  # fmt: skip
    with monkeypatch.context() as patch:
        interrupt_at(6, signal.SIGTERM, patch)
        assert run_command("train", command) == 128 + signal.SIGTERM
    (unfinished,) = workspace.path.glob("checkpoints/samplers/sgld_sampler/run_*")
    assert not list(unfinished.glob("*_metrics.json"))
    assert run_command("train", command) == 0
    assert list(unfinished.glob("sgld_metrics.json"))
    assert run_command("train", command) == 0  # nothing left to continue: a new run
    assert len(list(workspace.path.glob("checkpoints/samplers/sgld_sampler/run_*"))) == 2


def test_a_finished_run_resumed_keeps_its_draws(workspace: Workspace) -> None:
    assert workspace.train("sgld") == 0
    before = draws(workspace.path / "run")
    assert workspace.train("sgld", "--resume", "run", "--eval") == 0
    after = draws(workspace.path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list((workspace.path / "run").glob("bayesian_eval_*.json"))


def test_resume_refuses_other_settings_model_or_data(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld") == 0
    capsys.readouterr()
    assert workspace.train("sgld", "--resume", "run", "--learning-rate", "0.5") == 2
    assert "--learning-rate 0.5" in capsys.readouterr().err
    text = (workspace.path / "corpus.txt").read_text()
    (workspace.path / "corpus.txt").write_text(text[::-1])
    assert workspace.train("sgld", "--resume", "run") == 2
    assert "are not those that the run started with" in capsys.readouterr().err
    (workspace.path / "corpus.txt").write_text(text)
    content = torch.load(workspace.path / "model.pt", weights_only=True)
    torch.save(content | {"iter_num": 1}, workspace.path / "model.pt")
    assert workspace.train("sgld", "--resume", "run") == 2
    assert "sha256 differs" in capsys.readouterr().err


def test_draws_without_a_state_are_not_thrown_away(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld") == 0
    capsys.readouterr()
    before = draws(workspace.path / "run")
    states = list((workspace.path / "run" / "state").iterdir())
    content = [path.read_bytes() for path in states]
    for path in states:
        path.unlink()
    assert workspace.train("sgld", "--resume", "run") == 2
    assert "no readable state" in capsys.readouterr().err
    assert draws(workspace.path / "run").keys() == before.keys()
    for path, data in zip(states, content, strict=True):
        path.write_bytes(data)
    next((workspace.path / "run" / "draws").iterdir()).unlink()
    assert workspace.train("sgld", "--resume", "run") == 2
    assert "files are missing" in capsys.readouterr().err


def test_two_processes_do_not_write_to_one_run(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld") == 0
    capsys.readouterr()
    with Run(workspace.path / "run").locked():
        assert workspace.train("sgld", "--resume", "run") == 2
    assert "another process" in capsys.readouterr().err


def test_a_signal_in_the_last_step_stops_before_the_evaluation(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(15, signal.SIGTERM, patch)
        assert workspace.train("sgld", *flags_of("sgld"), "--eval") == 128 + signal.SIGTERM
    assert not list((workspace.path / "run").glob("bayesian_eval_*"))
    assert workspace.train("sgld", "--resume", "run", *flags_of("sgld"), "--eval") == 0
    assert list((workspace.path / "run").glob("bayesian_eval_*.json"))


def words(out: str, steps: int) -> list[str]:
    flags = (
        "--sampler sghmc --model model.pt --corpus corpus.txt --batch-size 4 --warmup-steps 20"
        f" --sampling-steps {steps} --thinning 20 --checkpoint-every 37 --resume auto --no-wandb"
    )
    return [*flags.split(), "--out", out]


def kill_and_resume(workspace: Workspace, moments: list[float], steps: int) -> int:
    """SIGKILL the command after each number of seconds of sampling, then let it finish.

    Returns how many kills really hit a running chain.
    """
    hits = 0
    for moment in moments:
        metrics = workspace.path / "killed" / "metrics.jsonl"
        began = metrics.stat().st_mtime_ns if metrics.exists() else 0
        process = begun(lambda: run_command("train", words("killed", steps)), workspace.path)
        while process.is_alive() and (not metrics.exists() or metrics.stat().st_mtime_ns == began):
            time.sleep(0.01)
        time.sleep(moment)
        process.kill()
        process.join()
        hits += process.exitcode == -signal.SIGKILL
    assert run_command("train", words("killed", steps)) == 0
    return hits


def test_sigkill_loses_nothing(workspace: Workspace) -> None:
    assert run_command("train", words("whole", 280)) == 0
    assert kill_and_resume(workspace, [0.1, 0.3], 280) >= 1
    assert_same_draws(workspace.path / "whole", workspace.path / "killed")
    assert logged(workspace.path / "whole") == logged(workspace.path / "killed")


@pytest.mark.slow
def test_sigkill_at_ten_random_moments_loses_nothing(workspace: Workspace) -> None:
    moments = [random.Random(0).uniform(0, 0.6) for _ in range(10)]
    assert run_command("train", words("whole", 1480)) == 0
    assert kill_and_resume(workspace, moments, 1480) >= 5
    assert_same_draws(workspace.path / "whole", workspace.path / "killed")
    assert logged(workspace.path / "whole") == logged(workspace.path / "killed")
