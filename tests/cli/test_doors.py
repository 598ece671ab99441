"""The doors: help without torch, the console command, the baseline, the quickstart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bayesgen.cli.main import COMMANDS, door, main
from bayesgen.config import BaselineSettings, described
from bayesgen.config.provenance import read_config
from bayesgen.inference.registry import SAMPLERS, settings_classes
from tests.workspace import Workspace

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_flag_with_examples_and_needs_no_torch(command: str) -> None:
    code = (
        "import sys\n"
        "from bayesgen.cli.main import main\n"
        "try: main([sys.argv[1], '--help'])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command], capture_output=True, text=True, check=True
    )
    assert "examples:" in done.stdout


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_help_of_a_sampler_lists_its_own_flags(
    sampler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        door("train", ["--sampler", sampler, "--help"])
    shown = capsys.readouterr().out
    for name in described(SAMPLERS[sampler].settings):
        assert f"--{name.replace('_', '-')}" in shown


def test_every_flag_of_the_contract_exists() -> None:
    promised = """learning-rate batch-size train-samples seed temperature prior prior-std prior-path
        prior-scale corpus model out precision gradient-accumulation parameters task data chains
        eval eval-splits eval-num-posterior-samples eval-max-samples eval-num-text-samples wandb
        """.split()  # noqa: SIM905
    known = {name: set(described(cls)) for name, cls in settings_classes().items()}
    for settings in known.values():
        assert {name.replace("-", "_") for name in promised} <= settings
    assert {"warmup_steps", "sampling_steps", "thinning"} <= known["sgld"]
    assert "epochs" in known["ekf"]


def test_the_presets_that_ship_are_the_defaults_written_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Installed without config.py, the product behaves the same."""
    monkeypatch.chdir(ROOT)
    presets, _ = read_config(None, settings_classes())
    # a preset for all labelled data would undo the defaults of real-valued labels
    assert set(presets) == {f"CONFIG_{name.upper()}" for name in (*SAMPLERS, "baseline")}
    for name, cls in (*settings_classes().items(), ("baseline", BaselineSettings)):
        known = described(cls)
        for key, value in presets[f"CONFIG_{name.upper()}"].items():
            assert value == known[key].default, (name, key)


def test_the_package_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize(
    "script",
    [
        "bayesian_training_script",
        "evaluate",
        "generate",
        "similarity",
        "export",
        "train_baseline",
        "finetune",
        "learn_prior",
        "quickstart",
    ],
)
def test_scripts_are_doors_to_the_same_commands(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--nonsense", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown flag --nonsense")
    assert "Traceback" not in done.stderr


BASELINE = ("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "8",
            "--max-iters", "12", "--eval-interval", "6", "--eval-iters", "2")  # fmt: skip


def test_baseline_then_posterior_with_defaults_in_between(workspace: Workspace) -> None:
    out = "checkpoints/baseline/models/baseline_model_2k.pt"
    assert door("baseline", ["--corpus", "corpus.txt", "--out", out, *BASELINE]) == 0
    assert (workspace.path / "checkpoints/baseline/models/baseline_model_2k_meta.pkl").is_file()
    flags = ["--corpus", "corpus.txt", "--warmup-steps", "0", "--sampling-steps", "2",
             "--thinning", "1", "--eval"]  # fmt: skip
    assert door("train", flags) == 0
    (run,) = workspace.path.glob("checkpoints/samplers/sghmc_sampler/run_*")
    assert (run / "sghmc_summary.txt").is_file()


def test_quickstart_makes_everything_once(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.path / "long.txt").write_text((workspace.path / "corpus.txt").read_text() * 4)
    flags = ["--corpus", "long.txt", "--baseline-iters", "4", "--warmup-steps", "2",
             "--sampling-steps", "4", "--thinning", "2", "--text-tokens", "5"]  # fmt: skip
    assert door("quickstart", flags) == 0
    first = capsys.readouterr().out
    assert "bma" in first
    assert "target tokens, 2 draws" in first
    draws = sorted(workspace.path.glob("checkpoints/quickstart/*_sghmc_*/draws/*"))
    times = [p.stat().st_mtime_ns for p in draws]
    assert len(draws) == 2
    assert door("quickstart", flags) == 0
    assert capsys.readouterr().out.count("there already") == 3
    assert [p.stat().st_mtime_ns for p in draws] == times
