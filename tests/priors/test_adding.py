"""A prior from outside the package, as docs/how-to/add-prior.md says: one file, named by an entry
point or registered in Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bayesgen.cli.main import main, run_command
from bayesgen.config import PRIORS
from tests.docs.pages import DOCS, blocks
from tests.processes import Ended, ended
from tests.workspace import Workspace, furnished

ROOT = Path(__file__).parents[2]
(PAGE,) = (b for b in blocks(DOCS / "how-to" / "add-prior.md", "python") if "PriorSpec(" in b.code)
FILE = PAGE.code
"""mylaplace.py, as the page shows it."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    return furnished(tmp_path)


def installed(folder: Path) -> Path:
    """A folder of packages in which a package with that file is installed."""
    package = folder / "site" / "mylaplace-1.dist-info"
    package.mkdir(parents=True)
    (package.parent / "mylaplace.py").write_text(FILE)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mylaplace\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[bayesgen.priors]\nmylaplace = mylaplace:MYLAPLACE\n"
    )
    return package.parent


def bayesgen(*words: str, packages: Path) -> Ended:
    """A command line in a process of its own, in which the packages are."""

    def with_them() -> int:
        sys.path.insert(0, str(packages))
        vars(PRIORS).pop("_items", None)  # they are looked for again
        return main(words)

    return ended(with_them, packages)


SHORT = (
    "train", "--sampler", "sgld", "--model", "model.pt", "--corpus", "corpus.txt",
    "--warmup-steps", "4", "--sampling-steps", "8", "--thinning", "4", "--batch-size", "4",
)  # fmt: skip


def test_a_prior_of_another_package_is_a_flag_as_ours_are(here: Workspace) -> None:
    packages = installed(here.path)
    done = bayesgen(
        *SHORT, "--prior", "mylaplace", "--prior-std", "0.3", "--prior-scale", "4", "--eval",
        "--out", "run", packages=packages,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # pre-flight table, record, summary and scores
    assert "Laplace(0, 0.6)" in done.stderr
    record = json.loads(Path("run/run.json").read_text())
    assert record["settings"]["prior"] == "mylaplace"
    assert record["prior"]["density"] == "Laplace(0, 0.6)"
    summary = Path("run/sgld_summary.txt").read_text()
    assert "Laplace(0, 0.6)" in summary
    assert "bma" in here.json("run/bayesian_eval_*[0-9].json")["splits"]["val"]["predictors"]
    # a name that is almost one, and a setting that it does not have
    wrong = bayesgen(*SHORT, "--prior", "mylaplac", packages=packages)
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    assert "did you mean mylaplace?" in wrong.stderr
    idle = bayesgen(*SHORT, "--prior", "mylaplace", "--prior-path", "x", packages=packages)
    assert idle.returncode == 2
    assert "--prior-path needs --prior swag" in idle.stderr


def test_help_lists_a_prior_of_another_package(here: Workspace) -> None:
    """Python finds it from the beginning, without torch."""
    code = (
        "import sys, atexit; from bayesgen.cli.main import main;"
        "atexit.register(lambda: print('torch' in sys.modules));"
        "sys.exit(main(['train', '--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(installed(here.path)), str(ROOT)])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "mylaplace" in done.stdout
    assert done.stdout.endswith("False\n")


def test_a_prior_that_is_registered_has_its_scale_chosen_too(
    here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace: dict[str, object] = {}
    exec(FILE, namespace)
    monkeypatch.setattr(PRIORS, "_items", dict(PRIORS._items))
    PRIORS.register(namespace["MYLAPLACE"])  # type: ignore[arg-type]
    flags = ("--prior", "mylaplace", "--prior-scale", "auto", "--prior-scale-steps", "2")
    assert here.train("sghmc", *flags) == 0
    curve = here.json("run/prior_scale.json")
    assert {trial["scale"] for trial in curve["curve"]} >= {0.1, 1.0, 10.0}


def test_names_of_priors_cost_no_torch() -> None:
    code = "import sys; from bayesgen.config import PRIORS; list(PRIORS); PRIORS['swag']"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False"


def test_a_prior_without_a_grid_wants_a_number(
    here: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace: dict[str, object] = {}
    exec(FILE.replace(", scales=(0.1, 1.0, 10.0)", ""), namespace)
    monkeypatch.setattr(PRIORS, "_items", dict(PRIORS._items))
    PRIORS.register(namespace["MYLAPLACE"])  # type: ignore[arg-type]
    flags = [*SHORT[1:], "--prior", "mylaplace", "--prior-scale", "auto"]
    assert run_command("train", flags) == 2
    assert "--prior-scale auto: --prior mylaplace has no grid" in capsys.readouterr().err
