"""Draws, scores, metrics and texts of every command are, bit for bit, those of hashes.json."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.cases import BF16, GROUPS, HASHES, differences, measured, unlike

pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(HASHES.read_text())
    return content


def test_every_case_has_hashes(stored: dict[str, Any]) -> None:
    names = [case.name for cases in GROUPS.values() for case in cases]
    assert len(set(names)) == len(names)
    assert set(stored["cases"]) == set(names)


def test_a_difference_is_told_by_what_changed() -> None:
    old = {"a": {"draws": "1", "metrics": "2"}, "b": {"text": "3"}}
    new = {"a": {"draws": "1", "metrics": "x"}, "b": {"text": "3"}}
    assert differences(old, new) == ["a: metrics (the same: draws)"]
    assert differences(old, old) == []


# one test: the imports of a process take as long as a third of the cases
@pytest.mark.timeout(600)
def test_nothing_that_a_command_leaves_has_changed(stored: dict[str, Any]) -> None:
    here, found = measured(like=True)
    if why := unlike(stored["probe"], here):
        pytest.skip(f"this machine computes otherwise: {why}")
    known = stored["cases"]
    if stored["probe"][BF16] != here[BF16]:
        known = {name: known[name] for name in known if "bf16" not in name}
        found = {name: found[name] for name in found if "bf16" not in name}
    changed = differences(known, found)
    assert not changed, "\n" + "\n".join(changed)
