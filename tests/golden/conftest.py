"""The longest test begins first, beside the others: at the end it would run alone."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "tests/golden/" not in item.nodeid)
