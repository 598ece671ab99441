"""A task is added from outside the package, as docs/how-to/add-task.md says; commands take it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bayesgen import Posterior
from bayesgen.cli.main import run_command
from bayesgen.data.choosing import held_out
from bayesgen.models import load_model
from bayesgen.tasks import TASKS
from tests.docs.pages import DOCS, blocks

ROOT = Path(__file__).parents[1]
CHAIN = ("--sampler", "sgld", "--task", "parity", "--model", "bits.pt", "--data", "numbers.txt",
         "--learning-rate", "0.05", "--warmup-steps", "4", "--sampling-steps", "8",
         "--thinning", "2", "--batch-size", "8", "--parameters", "all", "--out", "run")  # fmt: skip


BITS = (torch.arange(64)[:, None] >> torch.arange(6)) & 1


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def write_task(folder: Path) -> None:
    """The file of the page."""
    (block,) = blocks(DOCS / "how-to" / "add-task.md", "python")
    (folder / "my_parity.py").write_text(block.code)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network and numbers, where the task is known."""
    write_task(tmp_path)
    torch.save(network().state_dict(), tmp_path / "bits.pt")
    (tmp_path / "numbers.txt").write_text("\n".join(map(str, range(64))))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(TASKS, "_registered", dict(TASKS._registered))
    monkeypatch.delitem(sys.modules, "my_parity", raising=False)
    importlib.import_module("my_parity")
    return tmp_path


def evaluation(run: Path) -> dict[str, Any]:
    (path,) = run.glob("bayesian_eval_*[0-9].json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_it_is_sampled_scored_and_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("train", [*CHAIN, "--eval"]) == 0
    record = json.loads((here / "run" / "run.json").read_text())
    assert (record["model"]["task"], record["num_observations"]) == ("parity", 58)
    scored = evaluation(here / "run")["splits"]["val"]
    assert (scored["num_tokens"], scored["num_draws"]) == (6, 4)
    # the scores are those of the draws themselves
    posterior = Posterior.load(here / "run")
    held = torch.from_numpy(held_out(64, 0.1, 0, "numbers")[1])
    each = torch.stack(
        [posterior.model(theta, {"bits": BITS[held].float()}) for theta in posterior]
    )
    log_probs = each.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(each))).log()
    nll = float(-log_probs.gather(1, (held % 2)[:, None]).mean())
    assert scored["predictors"]["bma"]["nll"] == pytest.approx(nll, rel=1e-5)
    assert set(scored["macro_f1"]) == set(scored["predictors"]) - {"mean_of_draws"}
    assert "bma" in capsys.readouterr().out


def test_its_run_is_scored_again_and_continued(here: Path) -> None:
    assert run_command("train", [*CHAIN]) == 0
    assert run_command("evaluate", ["run"]) == 0
    assert evaluation(here / "run")["splits"].keys() == {"val"}
    assert len(Posterior.load("run").predict({"bits": torch.zeros(3, 6)})) == 3


def test_its_settings_are_those_of_labelled_data(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", [*CHAIN, "--corpus", "shakespeare"]) == 2
    assert "--corpus has no effect on parity" in capsys.readouterr().err
    assert run_command("finetune", ["--task", "parity", "--model", "bits.pt", "--data", "x"]) == 2
    assert "--task must be one of sequence-classification" in capsys.readouterr().err


def test_a_name_that_is_none_is_refused_with_the_nearest(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", [*CHAIN[:3], "parrity", *CHAIN[4:]]) == 2
    assert "not 'parrity'; did you mean parity?" in capsys.readouterr().err


def test_the_network_is_loaded_by_its_own_loader(here: Path) -> None:
    model = load_model("bits.pt", task="parity")
    batch = {"bits": torch.ones(1, 6), "labels": torch.tensor([1])}
    torch.testing.assert_close(model(model.theta, batch), network()(batch["bits"]))
    assert model.labels == "class"


def test_help_lists_what_an_installed_package_adds(tmp_path: Path) -> None:
    write_task(tmp_path)
    info = tmp_path / "parity-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parity\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bayesgen.tasks]\nparity = my_parity:TASK\n")
    code = (
        "import sys, atexit; from bayesgen.cli.main import main;"
        "atexit.register(lambda: print('torch' in sys.modules));"
        "sys.exit(main(['train', '--help']))"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "100"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "parity" in " ".join(done.stdout.split())
    assert done.stdout.endswith("False\n")
