"""The scripts in results/ and benchmarks/: their help, the names of their folders, tiny runs."""

from __future__ import annotations

import ast
import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import bayesgen
from bayesgen.errors import Interrupted, UserError
from bayesgen.runs import Run
from tests.encoder import FILLERS, save_encoder
from tests.workspace import furnished

ROOT = Path(__file__).parents[2]
RESULTS = sorted(path for path in (ROOT / "results").glob("*.py") if path.stem != "common")
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
SHORT: dict[str, Any] = {"warmup_steps": 4, "sampling_steps": 8, "thinning": 4, "batch_size": 4}
ENCODER = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of the weights of all-MiniLM-L6-v2, which transfer.json is of."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Loads a script as Python does that is given its path; modules beside it are forgotten."""
    before = set(sys.modules)

    def load(path: Path) -> ModuleType:
        monkeypatch.syspath_prepend(str(path.parent))
        return importlib.import_module(path.stem)

    yield load
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(
            (str(ROOT / "results"), str(ROOT / "benchmarks"))
        ):
            del sys.modules[name]


@pytest.mark.parametrize("path", [*RESULTS, *BENCHMARKS], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_help(
    path: Path,
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = script(path)
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as stop:
        module.main()
    assert stop.value.code == 0
    assert str(module.__doc__).splitlines()[0] in capsys.readouterr().out


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_a_table_begins_with_what_its_script_says(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text()), clean=False)
    assert said is not None
    assert path.with_suffix(".md").read_text().startswith(said.strip())


def test_runs_of_transfer_lie_where_those_of_before_lie(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = script(ROOT / "results" / "transfer.py")
    monkeypatch.setattr(transfer, "file_sha256", lambda _: ENCODER)
    every = json.loads((ROOT / "results" / "transfer.json").read_text())
    assert set(every) == set(transfer.TASKS)
    for name, lines in every.items():
        study = transfer.Study(transfer.TASKS[name], "encoder", None, Path("t"), "layers=-2:")
        arms = {line["arm"]: line["protocol"] for line in lines}
        assert arms == {arm: study.protocol(arm) for arm in transfer.ARMS}


def test_names_of_trials(script: Any) -> None:
    transfer = script(ROOT / "results" / "transfer.py")
    study = transfer.Study(transfer.TASKS["shakespeare"], "m", None, Path("t"), "layers=-2:")

    def name(arm: str, chosen: dict[str, Any]) -> str:
        return str(study._trial(arm, 200, chosen).relative_to("t/shakespeare"))

    assert name("adamw", study._adamw(200, 0.3, 10.0, 240)) == (
        "f3e45b178ba8/200/tune_adamw_0.0003_10_14.117647058823529"
    )
    auto = {"temperature": 0.001, "prior_scale": "auto", "prior_scale_steps": 240}
    assert name("sghmc_learned", auto) == "5f0afdda1638/200/tune_sghmc_learned_0.001_auto_240"
    path = {"learning_rate": study._rate(3.0), "prior_scale": 10.0}
    assert name("swag_learned", path) == "542110c93b25/200/tune_swag_learned_0.003_10.0"
    assert transfer.words({"prior_std": 1e6, "learning_rate": 3e-4, "rank": 20}) == (
        "--prior-std", "1e6", "--learning-rate", "3e-4", "--rank", "20",
    )  # fmt: skip


def test_a_run_is_made_once_and_continued(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = script(ROOT / "results" / "common.py")
    furnished(tmp_path)
    monkeypatch.chdir(tmp_path)
    out = Path("run")
    settings: dict[str, Any] = {
        **SHORT, "model": "model.pt", "data": "corpus.txt", "sampler": "sghmc", "eval": True,
    }  # fmt: skip
    assert common.report(out, "val") is None
    assert common.sample(out, **settings) == out
    scored = common.report(out, "val")
    assert set(scored["predictors"]) == set(common.PREDICTORS)
    recorded = (out / "run.json").read_bytes()

    # a finished run is taken as it is
    with monkeypatch.context() as patched:
        patched.setattr(bayesgen, "sample", None)
        assert common.sample(out, **settings) == out

    # and an unfinished one is continued
    (out / "sghmc_metrics.json").unlink()
    common.sample(out, **settings)
    assert Run(out).finished
    assert (out / "run.json").read_bytes() == recorded
    assert common.report(out, "val") == scored

    # a text that is scored whole, as results/transfer.py does
    (tmp_path / "other.txt").write_text((tmp_path / "corpus.txt").read_text()[:200])
    content = bayesgen.evaluate(out, text=Path("other.txt"), splits=["val"]).content
    assert list(content["splits"]) == ["val", "text"]
    assert content["text"]["name"] == "other.txt"
    assert common.report(out, "val") == scored


@pytest.mark.parametrize("error", [UserError("`out`: no"), Interrupted(2, Path("run"), 3)])
def test_an_error_of_the_user_is_one_line(script: Any, error: Exception) -> None:
    common = script(ROOT / "results" / "common.py")

    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        common.script(fail)
    assert stop.value.code == ("error: `out`: no" if isinstance(error, UserError) else 130)


def test_similarity_from_end_to_end(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    similarity = script(ROOT / "results" / "similarity.py")
    common = script(ROOT / "results" / "common.py")
    save_encoder(tmp_path / "encoder")
    draw = random.Random(0)
    for name, count in (("train", 40), ("dev", 12)):
        lines = []
        for i in range(count):
            first, second = (draw.sample(FILLERS, k=5) for _ in range(2))
            score = len({*first} & {*second})
            words = "\t".join((" ".join(first), " ".join(second)))
            lines.append(f"genre\tfile\t2012\t{i}\t{score}.0\t{words}\n")
        (tmp_path / "stsb").mkdir(exist_ok=True)
        (tmp_path / "stsb" / f"{name}.tsv").write_text("".join(lines))

    # what the script asks for, but shorter
    def finetune(out: Path, **settings: Any) -> Path:
        settings.pop("num_train_epochs")
        return Path(common.finetune(out, **settings, max_steps=4))

    monkeypatch.setattr(similarity, "finetune", finetune)
    monkeypatch.setattr(
        similarity, "sample", lambda out, **settings: common.sample(out, **{**settings, **SHORT})
    )
    monkeypatch.setattr(similarity, "TABLE", tmp_path / "table.md")
    monkeypatch.chdir(tmp_path)
    words = ["--model", "encoder", "--data-dir", ".", "--folder", "kept", "--seeds", "1", "2"]
    monkeypatch.setattr(sys, "argv", ["similarity.py", *words])
    similarity.main()
    table = (tmp_path / "table.md").read_text()
    assert table.startswith(str(similarity.__doc__))
    assert "| `bma` |" in table
    assert "12 pairs, 2 draws; mean ± standard deviation over 2 seeds" in table
    monkeypatch.setattr(sys, "argv", ["similarity.py", *words, "--table-only"])
    similarity.main()
    assert (tmp_path / "table.md").read_text() == table


def test_walks_through_the_api(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    walks = script(ROOT / "benchmarks" / "walks.py")
    monkeypatch.setattr(sys, "argv", ["walks.py", "--api"])
    walks.main()
    found = capsys.readouterr().out
    rows = [line for line in found.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == [
        "| 80 labelled rows to their scores", "| a learning rate to the update",
    ]  # fmt: skip
    assert int(rows[1].split(" | ")[6]) > 0  # modules on the stack at the first update
