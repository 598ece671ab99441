"""What tests look up in the report of a split."""

from __future__ import annotations

from typing import Any

from bayesgen.evaluation import SplitReport


def by_draws(report: SplitReport) -> dict[int, dict[str, Any]]:
    """Number of draws -> metrics of the mixture of the first so many."""
    rows = report.content["by_num_draws"]
    return {row["draws"]: {k: v for k, v in row.items() if k != "draws"} for row in rows}
