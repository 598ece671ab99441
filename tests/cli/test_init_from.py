"""--init-from: a run that starts at the mean weights of another one."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayesgen.cli.main import run_command
from bayesgen.cli.train import COMMAND as TRAIN
from bayesgen.export.pretrained import BayesianCausalLM
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.sampler import Sampler
from bayesgen.posterior import open_posterior
from bayesgen.workflow.inputs import model_of, read_inputs
from bayesgen.workflow.prior_scale import _identity as identity
from tests.workflow.test_resume import assert_same_draws, interrupt_at
from tests.workspace import BLOCK, Workspace, furnished

PRIOR = ("--prior", "pretrained", "--prior-std", "0.05")
ELSEWHERE = [sampler for sampler in SAMPLERS if sampler != "ekf"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MAP run on what a workspace holds."""
    path = tmp_path_factory.mktemp("finished")
    flags = ("--learning-rate", "0.01", "--epochs", "5", *PRIOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert furnished(path).train("map", *flags, "--out", "mode", "--eval") == 0
    return path / "mode"


@pytest.fixture
def mode(finished: Path, workspace: Workspace) -> torch.Tensor:
    """The weights of a MAP run in the folder `mode`."""
    shutil.copytree(finished, workspace.path / "mode")
    (file,) = (workspace.path / "mode" / "draws").iterdir()
    return load_file(file)["draws"][0]


def predictors(workspace: Workspace, run: str) -> dict[str, Any]:
    found: dict[str, Any] = workspace.json(f"{run}/bayesian_eval_*[0-9].json")["splits"]["val"]
    return dict(found["predictors"])


@pytest.mark.parametrize("sampler", ELSEWHERE)
def test_every_sampler_starts_at_the_mode_of_another_run(
    sampler: str, workspace: Workspace, mode: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    update = Sampler.update

    def watched(self: Sampler, state: Any, batch: Any) -> Any:
        starts.append(self.theta(state))
        return update(self, state, batch)

    monkeypatch.setattr(Sampler, "update", watched)
    assert workspace.train(sampler, *PRIOR, "--init-from", "mode", "--eval") == 0
    assert torch.equal(starts[0].cpu(), mode)
    found = predictors(workspace, "run")
    there = predictors(workspace, "mode")
    assert found["deterministic"]["nll"] == pytest.approx(there["bma"]["nll"], rel=1e-5)
    assert found["deterministic"]["nll"] != pytest.approx(there["deterministic"]["nll"], rel=1e-2)


def test_the_prior_stays_around_the_loaded_weights(
    workspace: Workspace, mode: torch.Tensor
) -> None:
    flags = (*PRIOR, "--learning-rate", "0", "--log-every", "1")
    assert workspace.train("sgld", *flags) == 0
    assert workspace.train("sgld", *flags, "--init-from", "mode", "--out", "moved") == 0
    loaded = open_posterior("run").model.theta
    lost = (mode - loaded).double().square().sum() / (2 * 0.05**2)

    def log_prior(run: str) -> tuple[float, int]:
        first = (workspace.path / run / "metrics.jsonl").read_text().splitlines()[0]
        record = workspace.json(f"{run}/run.json")
        return json.loads(first)["log_prior"], record["num_observations"]

    (there, n), (here, _) = log_prior("run"), log_prior("moved")
    assert (there - here) * n == pytest.approx(float(lost), rel=1e-3)


def test_the_run_keeps_its_start_and_counts_its_gradients(
    workspace: Workspace, mode: torch.Tensor
) -> None:
    assert workspace.train("sghmc", *PRIOR) == 0
    assert workspace.train("sghmc", *PRIOR, "--init-from", "mode", "--out", "moved") == 0
    totals = workspace.json("mode/map_metrics.json")["gradient_evaluations"]
    alone = workspace.json("run/sghmc_metrics.json")["gradient_evaluations"]
    both = workspace.json("moved/sghmc_metrics.json")["gradient_evaluations"]
    assert both == alone + totals
    start = workspace.json("moved/run.json")["start"]
    assert (start["run"], start["sampler"]) == ("mode", "map")
    assert workspace.json("run/run.json")["start"] is None
    (workspace.path / "mode" / "run.json").unlink()  # it is not needed any more
    model = open_posterior("moved").model
    assert torch.equal(model.theta, mode)
    assert not torch.equal(model.loaded, mode)
    assert run_command("evaluate", ["moved"]) == 0


def test_a_resumed_run_knows_where_it_started(
    workspace: Workspace, mode: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (*PRIOR, "--init-from", "mode")
    assert workspace.train("sghmc", *flags, "--out", "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(5, signal.SIGTERM, patch)
        assert workspace.train("sghmc", *flags, "--out", "parts") == 128 + signal.SIGTERM
    (workspace.path / "mode" / "run.json").unlink()
    assert workspace.train("sghmc", *flags, "--out", "parts", "--resume", "parts") == 0
    assert_same_draws(workspace.path / "whole", workspace.path / "parts")


def test_lambda_is_chosen_from_the_start(workspace: Workspace, mode: torch.Tensor) -> None:
    flags = (*PRIOR, "--prior-scale", "auto", "--prior-scale-steps", "2")
    assert workspace.train("map", *flags, "--learning-rate", "0") == 0
    assert workspace.train("map", *flags, "--learning-rate", "0", "--init-from", "mode",
                           "--out", "moved") == 0  # fmt: skip
    curves = [workspace.json(f"{run}/prior_scale.json")["curve"] for run in ("run", "moved")]
    at_the_mode = predictors(workspace, "mode")["bma"]["nll"]
    assert all(trial["nll"] == pytest.approx(at_the_mode, rel=0.05) for trial in curves[1])
    assert all(trial["nll"] > 1.05 * at_the_mode for trial in curves[0])


def refused(workspace: Workspace, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    capsys.readouterr()
    assert run_command("train", ["--model", "model.pt", "--corpus", "corpus.txt", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_what_is_no_start_is_refused_in_one_line(
    workspace: Workspace, mode: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workspace.path

    def why(*flags: str) -> str:
        return refused(workspace, capsys, *flags)

    assert "no run at 'nowhere'" in why("--init-from", "nowhere")
    assert "starts at the prior's mean" in why("--sampler", "ekf", "--init-from", "mode")
    (path / "config.py").write_text("CONFIG_EKF = {'init_from': 'mode'}")
    assert "starts at the prior's mean" in why("--sampler", "ekf")
    assert "moved other parameters" in why("--init-from", "mode", "--parameters", "last-layer")
    assert workspace.train("map", "--chains", "2", "--out", "two") == 0
    assert "has several chains" in why("--init-from", "two")
    totals = path / "mode" / "map_metrics.json"
    content = totals.read_text()
    totals.unlink()
    assert "is not finished" in why("--init-from", "mode")
    totals.write_text(content.replace("gradient_evaluations", "gradients"))
    assert "'gradient_evaluations' is missing" in why("--init-from", "mode")
    totals.write_text(content)
    record = json.loads((path / "mode" / "run.json").read_text())
    record["model"]["sha256"] = "0" * 64
    (path / "mode" / "run.json").write_text(json.dumps(record))
    assert "is of another model" in why("--init-from", "mode")


def test_adapters_are_those_of_the_start(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = ("--parameters", "lora", "--lora-r", "2", "--lora-alpha")
    assert workspace.train("map", *adapters, "4", "--out", "mode") == 0
    assert workspace.train("sgld", *adapters, "4", "--init-from", "mode") == 0
    why = refused(workspace, capsys, *adapters, "5", "--init-from", "mode")
    assert "was made with --lora-alpha 4.0" in why


def test_the_start_of_a_gaussian_is_its_mean_and_not_that_of_its_draws(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("swag", "--num-draws", "1", "--out", "path") == 0
    mean = load_file("path/gaussian-c0.safetensors")["mean"]
    assert workspace.train("sgld", "--init-from", "path") == 0
    assert torch.equal(open_posterior("run").model.theta, mean)
    save_file({"mean": mean[:-1]}, "path/gaussian-c0.safetensors")
    why = refused(workspace, capsys, "--init-from", "path")
    assert "gaussian-c0.safetensors' is damaged" in why
    assert not torch.equal(load_file("path/draws/c0-000000.safetensors")["draws"][0], mean)


def test_an_exported_network_has_the_weights_of_the_start(
    workspace: Workspace, mode: torch.Tensor
) -> None:
    assert workspace.train("sgld", *PRIOR, "--init-from", "mode") == 0
    source = open_posterior("run")
    made = BayesianCausalLM.from_posterior(source.model, source)
    ids = torch.arange(BLOCK)[None]
    there = source.model(mode, {"input_ids": ids})
    torch.testing.assert_close(made.network(ids).logits, there, rtol=1e-4, atol=1e-5)


def test_trials_of_another_start_are_not_taken_for_those_of_this_one(
    workspace: Workspace, mode: torch.Tensor
) -> None:
    settings = TRAIN.understand(["--model", "model.pt", "--corpus", "corpus.txt"]).settings
    inputs = read_inputs(model_of(settings), settings)
    at_the_loaded = identity("sghmc", settings, inputs)
    inputs.model.start_at(mode)
    at_the_mode = identity("sghmc", settings, inputs)
    inputs.model.start_at(mode + 1)
    assert at_the_loaded != at_the_mode != identity("sghmc", settings, inputs)


@pytest.mark.parametrize(
    "start", [None, 5, {}, {"gradient_evaluations": None}, {"sha256": 3}], ids=str
)
@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_a_damaged_record_of_the_start_is_refused(
    command: str,
    start: Any,
    workspace: Workspace,
    mode: torch.Tensor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert workspace.train("sgld", *PRIOR, "--init-from", "mode") == 0
    file = workspace.path / "run" / "run.json"
    record = json.loads(file.read_text())
    whole = record["start"]
    record["start"] = whole | start if isinstance(start, dict) and start else start
    file.write_text(json.dumps(record))
    capsys.readouterr()
    assert run_command(command, ["run"] if command == "evaluate" else ["--resume", "run"]) == 2
    assert re.search(r"'start[\w.]*' is missing or wrong", capsys.readouterr().err)


@pytest.mark.parametrize("damage", ["gone", "other", "shorter"])
def test_a_damaged_start_is_refused(
    damage: str, workspace: Workspace, mode: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld", *PRIOR, "--init-from", "mode") == 0
    file: Path = workspace.path / "run" / "start.safetensors"
    if damage == "gone":
        file.unlink()
    else:
        save_file({"theta": mode + 1 if damage == "other" else mode[:-1]}, file)
    capsys.readouterr()
    assert run_command("evaluate", ["run"]) == 2
    assert "start.safetensors' is missing or damaged" in capsys.readouterr().err
