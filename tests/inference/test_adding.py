"""A sampler is one file, from outside the package, too: examples/mysgld.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import bayesgen
from bayesgen.errors import UserError
from bayesgen.inference.registry import SAMPLERS, SamplerSpec
from examples.mysgld import SAMPLER, MySGLDSettings
from tests.workflow.test_resume import assert_same_draws, interrupt_at
from tests.workspace import SHORT, Workspace

FILE = Path(__file__).parents[2] / "examples" / "mysgld.py"


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> SamplerSpec[MySGLDSettings]:
    """The sampler, until the end of a test."""
    monkeypatch.setattr(SAMPLERS, "_registered", dict(SAMPLERS._registered))
    return SAMPLERS.register(SAMPLER)


def test_it_is_one_short_file() -> None:
    assert len(FILE.read_text().splitlines()) <= 80


def test_an_installed_package_adds_it_by_an_entry_point(tmp_path: Path) -> None:
    """It is in --help and in the errors, without torch; its preset is known in config.py."""
    shutil.copy(FILE, tmp_path / "mysgld_of_someone.py")
    info = tmp_path / "someone-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bayesgen.samplers]\nmysgld = mysgld_of_someone:SAMPLER\n"
    )
    (tmp_path / "config.py").write_text('CONFIG_MYSGLD = {"noise_weight": 0.25}\n')
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = (
        "import sys\n"
        "from bayesgen.cli.main import main\n"
        "try: code = main(['train', '--sampler', *sys.argv[1:]])\n"
        "except SystemExit as done: code = done.code\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)\n"
    )

    def train(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    shown = train("mysgld", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "--noise-weight" in shown.stdout
    assert SAMPLER.summary in " ".join(shown.stdout.split())
    misspelt = train("mysgdl")
    assert misspelt.returncode == 2
    assert "unknown sampler 'mysgdl'; did you mean mysgld?" in misspelt.stderr
    elsewhere = train("sgld", "--noise-weight", "0.5")
    assert "--noise-weight is not a setting of sgld; it belongs to mysgld" in elsewhere.stderr
    out_of_range = train("mysgld", "--noise-weight", "2")
    assert "--noise-weight must be at most 1" in out_of_range.stderr
    (tmp_path / "config.py").write_text('CONFIG_MYSGLD = {"noise_wait": 0.25}\n')
    unknown = train("mysgld", "--eval-max-samples", "3")
    assert "CONFIG_MYSGLD has no setting 'noise_wait'" in unknown.stderr


def test_it_runs_resumes_and_is_scored(
    registered: SamplerSpec[MySGLDSettings],
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (workspace.path / "config.py").write_text('CONFIG_MYSGLD = {"noise_weight": 0.25}\n')
    flags = (*SHORT["sgld"], "--learning-rate", "0.5", "--eval")
    assert workspace.train("mysgld", *flags, "--out", "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(7, signal.SIGTERM, patch)
        assert workspace.train("mysgld", *flags) == 128 + signal.SIGTERM
    assert workspace.train("mysgld", *flags, "--resume", "run") == 0
    assert_same_draws(workspace.path / "whole", workspace.path / "run")

    record = workspace.json("run/run.json")
    assert record["sampler"] == "mysgld"
    assert record["settings"]["noise_weight"] == 0.25
    assert record["sources"]["noise_weight"] == "config.py CONFIG_MYSGLD"
    rows = dict(record["opening"]["rows"])
    assert "memory" in rows
    assert "noise per step" in rows
    assert workspace.json("run/mysgld_metrics.json")["draws"] == 2
    scores = workspace.json("run/bayesian_eval_*.json")["splits"]["val"]["predictors"]
    assert 0 < scores["bma"]["nll"] < 10
    assert "mysgld" in (workspace.path / "run" / "mysgld_summary.txt").read_text()
    assert "bma" in capsys.readouterr().out


def test_the_python_api_takes_it(
    registered: SamplerSpec[MySGLDSettings], workspace: Workspace
) -> None:
    short = {"warmup_steps": 2, "sampling_steps": 4, "thinning": 2, "batch_size": 4}
    model = bayesgen.load_model("model.pt")
    posterior = bayesgen.sample(model, "corpus.txt", sampler="mysgld", noise_weight=0.25, **short)
    assert len(posterior) == 2
    with pytest.raises(UserError, match="`noise_wait` is no setting of mysgld; did you mean"):
        bayesgen.sample(model, "corpus.txt", sampler="mysgld", noise_wait=0.25, **short)


def test_it_has_defaults_where_the_data_are_labelled(
    registered: SamplerSpec[MySGLDSettings],
) -> None:
    chosen = SAMPLERS["mysgld"].defaults("sequence-classification")
    assert (chosen["learning_rate"], chosen["prior"]) == (0.9, "pretrained")
    assert SAMPLERS["mysgld"].defaults("regression")["learning_rate"] == pytest.approx(0.18)


def test_it_is_gone_after_a_test() -> None:
    assert "mysgld" not in SAMPLERS
    with pytest.raises(UserError, match="unknown sampler 'mysgld'; did you mean sgld"):
        SAMPLERS["mysgld"]
