"""Runs whose files were damaged: every command says which one, in a line, and stops."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bayesgen.cli.main import run_command
from bayesgen.errors import UserError
from bayesgen.runs import Run
from bayesgen.runs.files import ADAPTERS
from tests.workspace import furnished

READERS = {"evaluate": [], "generate": ["--prompt", "the", "--max-new-tokens", "2"]}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    path = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert furnished(path).train("sgld") == 0
    return path


@pytest.fixture
def run(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of it, in the working directory, that a test may damage."""
    shutil.copytree(shelf, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Run(Path("run"))


def refused(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command on the run ends with."""
    capsys.readouterr()
    argv = ["--resume", "run"] if command == "train" else ["run", *READERS[command]]
    assert run_command(command, argv) == 2
    *bars, line = capsys.readouterr().err.strip().splitlines()
    assert all("%|" in bar for bar in bars)
    assert line.startswith("error: ")
    return line


def edit(run: Run, change: Callable[[dict[str, Any]], object]) -> None:
    """Change run.json as someone with an editor might."""
    path = run.path / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def put(record: dict[str, Any], key: str, value: Any = ...) -> None:
    """Set what lies at `key`, or remove it."""
    *outer, last = key.split(".")
    for part in outer:
        record = record[part]
    if value is ...:
        del record[last]
    else:
        record[last] = value


# -- run.json ------------------------------------------------------------------------------------


NEEDED = (
    "sampler", "settings", "settings.corpus", "settings.data_dir", "settings.meta_path",
    "settings.parameters", "settings.seed", "settings.task", "settings.temperature",
    "settings.train_samples", "sources", "model", "model.name", "model.family", "model.sha256",
    "data", "data.name", "data.sha256", "block_size", "num_observations", "num_parameters",
    "num_bayesian", "opening", "opening.rows", "opening.warnings", "versions", "parameters",
)  # fmt: skip
"""Keys that runs of every version have."""


@pytest.mark.parametrize("key", NEEDED)
def test_whatever_is_missing_is_named(run: Run, key: str) -> None:
    run.record()
    edit(run, lambda record: put(record, key))
    with pytest.raises(UserError, match=f"'{key}' is missing or wrong") as caught:
        run.record()
    assert "'run/run.json': " in str(caught.value)
    assert "\n" not in str(caught.value)


ENTRY = {"name": "w", "shape": [2, 2], "offset": 0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("settings", []),
        ("settings.seed", -1),
        ("settings.seed", "0"),
        ("settings.train_samples", 0),
        ("settings.corpus", None),
        ("settings.meta_path", 3),
        ("model", "model.pt"),
        ("model.sha256", None),
        ("data", None),
        ("block_size", 0),
        ("block_size", True),
        ("block_size", 8.0),
        ("block_size", "8"),
        ("parameters", []),
        ("parameters", {}),
        ("parameters", "w"),
        ("parameters", [["w", [2, 2], 0]]),
        ("parameters", [{"name": "w", "shape": [2, 2]}]),
        ("parameters", [ENTRY | {"name": 1}]),
        ("parameters", [ENTRY | {"shape": 4}]),
        ("parameters", [ENTRY | {"shape": [-2, -2]}]),
        ("parameters", [ENTRY | {"shape": [0]}]),
        ("parameters", [ENTRY | {"shape": [2.0]}]),
        ("parameters", [ENTRY | {"offset": 1}]),
        ("parameters", [ENTRY | {"offset": 0.0}]),
        ("parameters", [ENTRY, ENTRY]),
        ("parameters", [ENTRY, ENTRY | {"offset": 4}]),
        ("parameters", [ENTRY, ENTRY | {"name": "b", "offset": 5}]),
    ],
)
def test_whatever_is_wrong_is_named(run: Run, key: str, value: Any) -> None:
    edit(run, lambda record: put(record, key, value))
    with pytest.raises(UserError, match=f"'{key}' is missing or wrong"):
        run.record()


def test_a_layout_that_adds_up_is_read(run: Run) -> None:
    rows = [ENTRY, {"name": "scale", "shape": [], "offset": 4}, ENTRY | {"name": "b", "offset": 5}]
    edit(run, lambda record: put(record, "parameters", rows))
    assert run.record().parameters == rows


def test_a_record_is_written_without_loss(run: Run) -> None:
    """Also where another version left keys that this one does not know, and lacks newer ones."""
    content = run.read_json("run.json")
    content["colour"], content["model"]["colour"], content["start"] = "red", ["blue"], None
    for key in ("prior", "machine", "model.task"):
        put(content, key)
    run.write_json("run.json", content)
    assert run.record().to_json() == content


@pytest.mark.parametrize("levels", [30, 400, 10**5])
@pytest.mark.parametrize("command", ["evaluate", "generate", "train"])
def test_records_in_records_without_end_are_one_line(
    run: Run, command: str, levels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (run.path / "run.json").read_text().strip().removesuffix("}")
    deep = '{"a":' * levels + "1" + "}" * levels
    (run.path / "run.json").write_text(f'{text}, "more": {deep}}}')
    assert "'run/run.json' is missing or damaged (nested too deeply)" in refused(command, capsys)


def test_a_source_of_no_setting_is_named(run: Run) -> None:
    edit(run, lambda record: put(record, "sources.gone", "flag --gone"))
    with pytest.raises(UserError, match=r"'settings\.gone' is missing or wrong"):
        run.record()


def test_a_run_from_before_there_were_adapters_is_read(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in (*(f"settings.{name}" for name in ADAPTERS), "model.task"):
        edit(run, lambda record, key=key: put(record, key))
    for command, argv in READERS.items():
        assert run_command(command, ["run", *argv]) == 0
    edit(run, lambda record: put(record, "settings.parameters", "head, lora"))
    assert "'settings.lora_r' is missing or wrong" in refused("evaluate", capsys)


@pytest.mark.parametrize("command", ["evaluate", "generate", "train"])
@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("settings", "'settings.corpus' is missing or wrong"),
        ("model", "'model.name' is missing or wrong"),
        ("data", "'data.name' is missing or wrong"),
        ("parameters", "'parameters' is missing or wrong"),
        ("block_size", "'block_size' is missing or wrong"),
    ],
)
def test_an_emptied_record_is_one_line(
    run: Run, command: str, key: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run, lambda record: put(record, key, {}))
    assert says in refused(command, capsys)


@pytest.mark.parametrize("command", ["evaluate", "generate", "train"])
def test_a_record_that_is_a_list_is_one_line(
    run: Run, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "run.json").write_text("[1, 2]")
    assert "'run/run.json' is missing or damaged (no JSON object)" in refused(command, capsys)


# -- draws ---------------------------------------------------------------------------------------


def flat(theta: Tensor) -> Tensor:
    return theta[0]


def twice(theta: Tensor) -> Tensor:
    return torch.cat([theta, theta], dim=1)


def none(theta: Tensor) -> Tensor:
    return theta[:0]


def not_a_number(theta: Tensor) -> Tensor:
    theta[0, 3] = torch.nan
    return theta


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flat, "is not a readable shard of draws"),
        (twice, "is not a readable shard of draws"),
        (none, "is not a readable shard of draws"),
        (not_a_number, "is damaged: a draw in it is not finite"),
    ],
)
def test_a_damaged_draw_is_one_line(
    run: Run,
    command: str,
    damage: Callable[[Tensor], Tensor],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = run.draw_paths()[1]
    save_file({"draws": damage(load_file(path)["draws"])}, path)
    line = refused(command, capsys)
    assert f"'{path}'" in line
    assert says in line


@pytest.mark.parametrize("command", READERS)
def test_a_draw_with_a_foreign_name_is_one_line(
    run: Run, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run.draw_paths()[1], run.path / "draws" / "c0-1x.safetensors")
    assert "'run/draws/c0-1x.safetensors' is not named as a draw is" in refused(command, capsys)


# -- files that cannot be written ----------------------------------------------------------------


def test_a_run_that_finds_no_room_is_one_line_and_leaves_no_part(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in run.draw_paths():
        path.unlink()
    for path in (*run.path.glob("state/*"), *run.path.glob("*_metrics.json")):
        path.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, hard))
        assert run_command("train", ["--resume", "run"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "' could not be written (File too large)" in capsys.readouterr().err
    assert not list(run.path.rglob(".*.tmp"))


@pytest.mark.parametrize("command", READERS)
def test_parameters_of_another_name_are_one_line(
    run: Run, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run, lambda record: record["parameters"][0].update(name="renamed"))
    assert "are not those of 'model.pt'" in refused(command, capsys)
