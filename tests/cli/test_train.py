"""The training command, on real files: what it leaves behind, and that the numbers are right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bayesgen.cli.main import run_command
from bayesgen.inference.registry import SAMPLERS
from tests.independent import states_of, target_log_likelihoods
from tests.workspace import BLOCK, CHAINS, Workspace


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_leaves_a_finished_run(
    sampler: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train(sampler, "--eval") == 0
    run = workspace.path / "run"
    record = workspace.json("run/run.json")
    totals = workspace.json(f"run/{sampler}_metrics.json")
    draws = sorted((run / "draws").glob("*.safetensors"))
    expected = 2 if sampler in CHAINS else 1 if sampler == "map" else 30
    assert totals["draws"] == len(draws) == expected
    size = record["num_bayesian"]
    assert all(load_file(d)["draws"].shape == (1, size) for d in draws)
    assert all(torch.isfinite(load_file(d)["draws"]).all() for d in draws)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == totals["steps"]
    assert all(math.isfinite(row["nll"]) for row in lines)
    assert totals["gradient_evaluations"] >= totals["steps"]
    summary = (run / f"{sampler}_summary.txt").read_text()
    assert "bma" in summary
    assert "flag --batch-size" in summary
    val = workspace.json("run/bayesian_eval_*.json")["splits"]["val"]
    predictors = val["predictors"]
    assert set(predictors) == {
        "deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma",
    }  # fmt: skip
    # Jensen: the mixture is never worse than the average of its parts
    assert predictors["bma"]["nll"] <= predictors["mean_of_draws"]["nll"] + 1e-9
    for scores in predictors.values():
        assert scores["perplexity"] == pytest.approx(math.exp(scores["nll"]))
        assert 0 <= scores["ece"] <= 1
        assert 0 <= scores["accuracy"] <= 1
        assert 0 <= scores["brier"] <= 2
    assert val["entropy"]["epistemic"] >= -1e-6  # exactly 0 for one draw, up to rounding
    assert val["num_draws"] == expected
    assert "bma" in capsys.readouterr().out


@pytest.mark.parametrize("parameters", ["all", "transformer.h.0.mlp.*"])
def test_reported_nll_is_that_of_the_draws_on_disk(parameters: str, workspace: Workspace) -> None:
    assert (
        workspace.train(
            "sgld",
            "--eval",
            "--parameters",
            parameters,
            "--learning-rate",
            "3",
            "--ramp-fraction",
            "0",
        )
        == 0
    )
    record = json.loads((workspace.path / "run" / "run.json").read_text())
    checkpoint = torch.load(workspace.path / "model.pt", weights_only=True)
    characters = checkpoint["tokenizer"]["characters"]
    text = (workspace.path / "corpus.txt").read_text()
    val = np.array([characters.index(c) for c in text[int(len(text) * 0.9) :]])
    states = states_of(workspace.path / "run", record, checkpoint)
    log_likelihoods = [target_log_likelihoods(state, val) for state in states]
    stacked = torch.stack(log_likelihoods)
    bma = -(stacked.logsumexp(0) - math.log(len(stacked))).mean()
    reported = workspace.json("run/bayesian_eval_*.json")["splits"]["val"]
    assert reported["num_tokens"] == len(val) - 1
    predictors = reported["predictors"]
    assert predictors["bma"]["nll"] == pytest.approx(float(bma), abs=1e-5)
    assert predictors["mean_of_draws"]["nll"] == pytest.approx(-float(stacked.mean()), abs=1e-5)
    deterministic = -target_log_likelihoods(checkpoint["model"], val).mean()
    assert predictors["deterministic"]["nll"] == pytest.approx(float(deterministic), abs=1e-5)
    assert predictors["bma"]["nll"] != pytest.approx(predictors["deterministic"]["nll"], abs=1e-4)


def draws(run: Path) -> list[torch.Tensor]:
    return [load_file(p)["draws"] for p in sorted((run / "draws").glob("*.safetensors"))]


def test_same_seed_same_bits_and_another_seed_not(workspace: Workspace) -> None:
    for out, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert workspace.train("sghmc", "--out", out, "--seed", seed) == 0
    a, b, c = (draws(workspace.path / out) for out in "abc")
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], c[0])


def test_chains_are_different_and_each_reproducible(workspace: Workspace) -> None:
    assert workspace.train("sgld", "--chains", "2") == 0
    both = draws(workspace.path / "run")
    assert len(both) == 4
    assert not torch.equal(both[0], both[2])
    assert workspace.train("sgld", "--out", "one") == 0
    assert torch.equal(draws(workspace.path / "one")[0], both[0])


def test_train_samples_make_the_data_set_and_n_follows(workspace: Workspace) -> None:
    assert workspace.train("sgld", "--train-samples", "5") == 0
    assert workspace.json("run/run.json")["num_observations"] == 5 * BLOCK


def test_gradient_accumulation_changes_nothing_but_rounding(workspace: Workspace) -> None:
    assert workspace.train("sgld", "--out", "whole") == 0
    assert workspace.train("sgld", "--out", "parts", "--gradient-accumulation", "3") == 0
    for a, b in zip(draws(workspace.path / "whole"), draws(workspace.path / "parts"), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_eval_uses_as_many_draws_and_windows_as_asked(workspace: Workspace) -> None:
    flags = ("--eval", "--eval-splits", "val", "train", "--eval-num-posterior-samples", "1")
    assert workspace.train("sgld", *flags, "--eval-max-samples", "3") == 0
    splits = workspace.json("run/bayesian_eval_*.json")["splits"]
    assert set(splits) == {"val", "train"}
    assert splits["train"]["num_draws"] == 1
    assert splits["train"]["num_tokens"] == 3 * BLOCK


def test_eval_takes_a_far_text_and_continues_texts(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.path / "far.txt").write_text("Dogs! foxes; quick mats? " * 5)
    flags = ("--eval", "--eval-num-text-samples", "3", "--ood-corpus", "far.txt",
             "--eval-precision", "bf16")  # fmt: skip
    assert workspace.train("sgld", *flags) == 0
    content = workspace.json("run/bayesian_eval_*[0-9].json")
    val = content["splits"]["val"]
    assert content["precision"] in {"fp32", "bf16"}
    assert val["num_texts"] == 3
    assert len(workspace.json("run/*_texts.json")["val"]["continuations"]["bma"]) == 3
    far = math.ceil((len("ogs foxes quick mats " * 5) - 1) / BLOCK)
    assert val["ood"]["scores"]["bma_epistemic"]["num_outside"] == far
    assert f"{val['predictors']['bma']['nll']:.4f}" in capsys.readouterr().out
    assert workspace.json("run/run.json")["settings"]["ood_corpus"] == "far.txt"


def test_a_run_that_went_far_astray_is_shown_all_the_same(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its perplexity is infinite, which the file holds as null."""
    assert workspace.train("vi", "--init-std", "300", "--eval") == 0
    predictors = workspace.json("run/bayesian_eval_*.json")["splits"]["val"]["predictors"]
    assert predictors["bma"]["perplexity"] is None
    assert f"{predictors['bma']['nll']:.4f}" in capsys.readouterr().out


def test_last_layer_alone_is_bayesian(workspace: Workspace) -> None:
    assert workspace.train("laplace", "--parameters", "last-layer") == 0
    (entry,) = workspace.json("run/run.json")["parameters"]
    assert entry["name"] == "transformer.wte.weight"


@pytest.mark.parametrize("zero", ["temperature", "preconditioner-damping", "warmup-steps", "seed"])
def test_an_explicit_zero_is_honoured(zero: str, workspace: Workspace) -> None:
    assert workspace.train("sgld", f"--{zero}", "0") == 0
    assert workspace.json("run/run.json")["settings"][zero.replace("-", "_")] == 0


def test_flag_beats_environment_beats_config_beats_default(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.path / "config.py").write_text(
        "CONFIG_SGLD = {'thinning': 2, 'prior_std': 0.5, 'device': 'mps', 'base_dir': 'x'}\n"
    )
    monkeypatch.setenv("DEVICE", "cpu")
    assert workspace.train("sgld", "--prior-std", "0.3") == 0
    record = workspace.json("run/run.json")
    settings, sources = record["settings"], record["sources"]
    assert (settings["prior_std"], sources["prior_std"]) == (0.3, "flag --prior-std")
    assert (settings["device"], sources["device"]) == ("cpu", "environment DEVICE")
    assert (settings["base_dir"], sources["base_dir"]) == ("x", "config.py CONFIG_SGLD")
    assert (settings["thinning"], sources["thinning"]) == (4, "flag --thinning")
    assert "learning_rate" not in sources
    summary = (workspace.path / "run" / "sgld_summary.txt").read_text()
    assert "config.py CONFIG_SGLD" in summary


def test_dotenv_gives_the_environment(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_DIR", "")
    monkeypatch.delenv("BASE_DIR")
    (workspace.path / ".env").write_text("BASE_DIR=elsewhere\n")
    try:
        flags = ["--sampler", "sgld", "--model", "model.pt", "--corpus", "corpus.txt",
                 "--warmup-steps", "0", "--sampling-steps", "1", "--thinning", "1"]  # fmt: skip
        assert run_command("train", flags) == 0
    finally:
        monkeypatch.delenv("BASE_DIR", raising=False)
    assert list(workspace.path.glob("elsewhere/checkpoints/samplers/sgld_sampler/run_*/run.json"))


def test_bf16_runs_and_keeps_theta_in_float32(workspace: Workspace) -> None:
    assert workspace.train("baoa", "--precision", "bf16") == 0
    assert all(d.dtype == torch.float32 for d in draws(workspace.path / "run"))


def test_a_hot_ballistic_or_frozen_chain_is_warned_of(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sghmc", "--friction", "0.0001", "--learning-rate", "1e-12") == 0
    warnings = workspace.json("run/run.json")["opening"]["warnings"]
    assert [w.split(":")[0] for w in warnings] == ["ballistic", "frozen"]
    assert "ballistic" in capsys.readouterr().err
    assert workspace.train("sgld", "--out", "hot", "--temperature", "1000") == 0
    warnings = workspace.json("hot/run.json")["opening"]["warnings"]
    assert any(w.startswith("hot") for w in warnings)


def test_a_diverging_chain_stops_soon_with_what_to_lower(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    # a prior with any force would hold the step size
    flags = ("--learning-rate", "1e30", "--prior-std", "1e12", "--sampling-steps", "500",
             "--checkpoint-every", "1")  # fmt: skip
    assert workspace.train("sgld", *flags) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "not finite" in message
    assert "--learning-rate" in message
    step = int(message.split("after step ")[1].split(":")[0])
    assert step <= 12
    state = load_file(workspace.path / "run" / "state" / "c0.safetensors") if step > 1 else {}
    assert all(torch.isfinite(t).all() for k, t in state.items() if k == "leaf.0001")


def test_wandb_offline_logs_and_is_never_required(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_AVAILABLE", "true")
    assert workspace.train("sgld", "--out", "with") == 0
    assert list((workspace.path / "with").glob("wandb/offline-run-*"))
    assert workspace.train("sgld", "--out", "without", "--no-wandb") == 0
    assert not (workspace.path / "without" / "wandb").exists()


def test_a_run_of_adapters_is_sampled_scored_and_continued(workspace: Workspace) -> None:
    flags = ("--parameters", "lora", "--lora-r", "2", "--lora-alpha", "4", "--eval")
    assert workspace.train("sghmc", *flags) == 0
    record = workspace.json("run/run.json")
    assert {p["name"].split(".")[-3] for p in record["parameters"]} == {"lora_A", "lora_B"}
    assert record["num_bayesian"] == 2 * (16 + 48)
    assert run_command("evaluate", ["run", "--eval-max-samples", "4"]) == 0
    assert run_command("generate", ["run", "--prompt", "the", "--max-new-tokens", "3"]) == 0
    assert workspace.train("sghmc", *flags, "--resume", "run") == 0
    settings = json.loads((workspace.path / "run" / "run.json").read_text())["settings"]
    assert (settings["lora_r"], settings["lora_alpha"]) == (2, 4.0)
