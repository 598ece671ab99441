"""docs/architecture.md is true: its rooms are the package's, in the order that imports obey."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def documented() -> list[str]:
    """The rooms of the table in docs/architecture.md, first to last."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)


def layers() -> list[list[str]]:
    """import-linter's layers, lowest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if "layers" in c)
    return [[name.strip() for name in layer.split(":")] for layer in reversed(contract["layers"])]


def test_every_room_that_is_named_exists_and_every_room_is_named() -> None:
    paths = (ROOT / "bayesgen").iterdir()
    rooms = {p.stem for p in paths if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert set(documented()) == rooms - {"__init__"}


def test_rooms_are_listed_in_the_order_of_the_layers() -> None:
    level = {name: number for number, names in enumerate(layers()) for name in names}
    rooms = documented()
    assert sorted(rooms, key=level.__getitem__) == rooms


def test_every_file_that_the_walk_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", text)
    assert named
    for name in named:
        assert (ROOT / "bayesgen" / name).is_file() or (ROOT / name).is_file(), name


def test_scripts_call_the_library_and_not_its_command_line() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    of_cli = [c for c in settings["contracts"] if c.get("forbidden_modules") == ["bayesgen.cli"]]
    (contract,) = of_cli
    assert contract["source_modules"] == ["benchmarks", "examples", "results"]
    # import-linter reads no notebooks
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        assert "bayesgen.cli" not in notebook.read_text(), notebook.name
