"""The command line: help without torch, the scripts, the baseline, the quickstart."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from bayesgen.cli.command import preset_classes
from bayesgen.cli.main import COMMANDS, main, run_command
from bayesgen.config import described
from bayesgen.config.fields import read_config
from bayesgen.config.jobs import BaselineSettings
from bayesgen.inference.registry import SAMPLERS, settings_classes
from tests.workspace import Workspace

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_needs_no_torch(command: str) -> None:
    code = (
        "import sys\n"
        "from bayesgen.cli.main import main\n"
        "try: main([*sys.argv[1].split(), '--help'])\n"
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
        run_command("train", ["--sampler", sampler, "--help-all"])
    shown = capsys.readouterr().out
    for name in described(SAMPLERS[sampler].settings):
        assert f"--{name.replace('_', '-')}" in shown


def test_help_is_short_and_grouped_by_what_a_flag_is_about(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            run_command("train", [flag])
        shown[flag] = capsys.readouterr().out
    short, whole = shown["--help"], shown["--help-all"]
    assert short.startswith("usage: bayesgen train [flags]\n")
    assert len(short.splitlines()) < 90 < len(whole.splitlines())
    groups = ["model", "data", "prior", "sampler", "run", "evaluation", "help", "examples"]
    for text in (short, whole):
        assert [line[:-1] for line in text.splitlines() if line.endswith(":") and line[0] != " "
                and " " not in line] == groups  # fmt: skip
    within = whole[whole.index("\nprior:") : whole.index("\nsampler:")]
    assert "--prior-epsilon" in within
    assert "--prior-epsilon" not in short
    assert "--prior-std" in short


@pytest.mark.parametrize("name", ["train", "prior check", "quickstart"])
def test_help_of_a_command_by_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["help", *name.split()])
    assert done.value.code == 0
    assert f"bayesgen {name}" in capsys.readouterr().out
    assert main(["help"]) == 0
    assert name in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bayesgen {version('bayesgen')}\n"


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
    presets, _ = read_config(None, preset_classes())
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
def test_scripts_run_the_same_commands(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--nonsense", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown flag --nonsense")
    assert "Traceback" not in done.stderr


BASELINE = ("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "8",
            "--max-iters", "12", "--eval-interval", "6", "--eval-iters", "2")  # fmt: skip


def test_baseline_then_posterior_with_defaults_in_between(workspace: Workspace) -> None:
    out = "checkpoints/baseline/models/baseline_model_2k.pt"
    assert run_command("baseline", ["--corpus", "corpus.txt", "--out", out, *BASELINE]) == 0
    assert (workspace.path / "checkpoints/baseline/models/baseline_model_2k_meta.pkl").is_file()
    flags = ["--corpus", "corpus.txt", "--warmup-steps", "0", "--sampling-steps", "2",
             "--thinning", "1", "--eval"]  # fmt: skip
    assert run_command("train", flags) == 0
    (run,) = workspace.path.glob("checkpoints/samplers/sghmc_sampler/run_*")
    assert (run / "sghmc_summary.txt").is_file()


def test_each_command_ends_with_the_next_one(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a baseline to an exported posterior, by typing what was printed."""

    def next_of(*words: str) -> list[str]:
        assert main(words) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("next: ")
        return shlex.split(last.removeprefix("next: "))

    words = next_of("baseline", "--corpus", "corpus.txt", "--out", "a model.pt", *BASELINE)
    assert words == [
        "bayesgen", "train", "--model", "a model.pt", "--corpus", "corpus.txt", "--eval",
    ]  # fmt: skip
    short = ("--warmup-steps", "0", "--sampling-steps", "2", "--thinning", "1", "--out", "run")
    words = next_of(*words[1:-1], *short)
    assert words == ["bayesgen", "evaluate", "run"]
    words = next_of(*words[1:])
    assert words == ["bayesgen", "generate", "run"]
    words = next_of(*words[1:], "--max-new-tokens", "2", "--prompt", "the")
    assert words == ["bayesgen", "export", "run", "--out", "posterior"]
    assert next_of(*words[1:])[0] == "python"


def test_quickstart_makes_everything_once(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.path / "long.txt").write_text((workspace.path / "corpus.txt").read_text() * 4)
    flags = ["--corpus", "long.txt", "--baseline-iters", "4", "--warmup-steps", "2",
             "--sampling-steps", "4", "--thinning", "2", "--text-tokens", "5"]  # fmt: skip
    assert run_command("quickstart", flags) == 0
    first = capsys.readouterr().out
    assert "bma" in first
    assert "target tokens, 2 draws" in first
    draws = sorted(workspace.path.glob("checkpoints/quickstart/*_sghmc_*/draws/*"))
    times = [p.stat().st_mtime_ns for p in draws]
    assert len(draws) == 2
    assert run_command("quickstart", flags) == 0
    assert capsys.readouterr().out.count("already exist") == 3
    assert [p.stat().st_mtime_ns for p in draws] == times
