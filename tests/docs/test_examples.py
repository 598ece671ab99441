"""The examples run as they stand, and the docs show what they hold."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, blocks
from tests.encoder import save_encoder

EXAMPLES = ROOT / "examples"
SHORT = {
    'sampler="sghmc"': 'sampler="sghmc", warmup_steps=4, sampling_steps=4, thinning=2',
    'splits=["val"]': 'splits=["val"], max_samples=20',
    "max_new_tokens=200": "max_new_tokens=20",
}
"""What stands in the place of what takes long."""
few_steps = pytest.mark.filterwarnings("ignore::bayesgen.errors.BayesgenWarning")
BASELINE = "checkpoints/baseline/models/baseline_model_2k.pt"


def environment() -> dict[str, str]:
    """One in which `bayesgen` and `import bayesgen` are this tree's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def shortened(code: str) -> str:
    """`code` with few steps, on little text."""
    for long, short in SHORT.items():
        code = code.replace(long, short)
    return code


def execute(code: str) -> None:
    """Run `code` in this process, which has imported torch already."""
    exec(compile(shortened(code), "example", "exec"), {"__name__": "__main__"})


@pytest.fixture
def baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a tiny baseline in it."""
    from bayesgen.cli.main import main

    monkeypatch.chdir(tmp_path)
    sizes = ("--n-layer", "1", "--n-head", "1", "--n-embd", "16", "--block-size", "32")
    steps = ("--max-iters", "20", "--eval-interval", "20", "--eval-iters", "2")
    assert main(["baseline", "--out", BASELINE, *sizes, *steps]) == 0
    return tmp_path


def test_the_five_lines(baseline: Path) -> None:
    """As a script of its own, in a process of its own."""
    script = baseline / "quickstart.py"
    script.write_text(shortened((EXAMPLES / "quickstart.py").read_text()), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script],
        cwd=baseline, env=environment(), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bma" in done.stdout
    assert "The import statement " in done.stdout


@few_steps
def test_get_started(baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python of the page, block after block."""
    page = list(blocks(DOCS / "get-started.md", "python"))
    assert [block.runs for block in page] == [True, False]
    execute("\n".join(block.code for block in page))
    assert "bma" in capsys.readouterr().out


@few_steps
def test_the_readme_runs(baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks(ROOT / "README.md", "python")
    execute(block.code)
    assert "bma" in capsys.readouterr().out


@few_steps
def test_a_network_of_ones_own_takes_15_lines(capsys: pytest.CaptureFixture[str]) -> None:
    code = (EXAMPLES / "own_network.py").read_text()
    body = code[code.index('"""', 3) + 3 :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 15
    (shown,) = (b for b in blocks(DOCS / "how-to" / "own-network.md", "python") if b.runs)
    assert shown.code.strip() == body.strip()
    execute(code)
    assert "tensor" in capsys.readouterr().out


def test_the_page_on_adding_a_sampler_shows_the_example() -> None:
    """`tests/inference/test_adding.py` runs it; the tests of the other pages read their files."""
    file, *_ = blocks(DOCS / "how-to" / "add-sampler.md", "python")
    assert file.code == (EXAMPLES / "mysgld.py").read_text()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_use_the_public_api_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not re.match(r"bayesgen\.(cli|workflow)", node.module or ""), path.name


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["language_model", "classifier"])
def test_notebooks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for key, value in environment().items():
        monkeypatch.setenv(key, value)
    if name == "classifier":
        pytest.importorskip("transformers")
        monkeypatch.setenv("ENCODER", str(save_encoder(tmp_path / "encoder")))
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    written = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "bma" in written
    assert "error:" not in written
