"""Tables for people, from the numbers for machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def predictor_table(evaluation: Mapping[str, Any]) -> Table:
    """Predictor x headline numbers, for every split of an evaluation file's content."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("split")
    table.add_column("predictor")
    for name in ("perplexity", "NLL (nats)", "accuracy", "ECE", "Brier"):
        table.add_column(name, justify="right")
    table.add_column("bma − it (95 %)", justify="right")
    for split, report in evaluation["splits"].items():
        best = min(report["predictors"].values(), key=lambda s: float(s["nll"]))
        for name, s in report["predictors"].items():
            difference = report["bma_minus"].get(name)
            table.add_row(
                split,
                name,
                f"{s['perplexity']:.3f}",
                f"{s['nll']:.4f}",
                f"{s['accuracy']:.4f}",
                f"{s['ece']:.4f}",
                f"{s['brier']:.4f}",
                _difference(difference) if difference else "",
                style="bold" if s is best else "",
            )
        table.add_section()
    return table


def predictor_caption(evaluation: Mapping[str, Any]) -> str:
    """What the table was computed on."""
    return "; ".join(
        f"{split}: {r['num_tokens']:,} target tokens, {r['num_draws']} draws, entropy"
        f" {r['entropy']['total']:.4f} = {r['entropy']['aleatoric']:.4f} aleatoric +"
        f" {r['entropy']['epistemic']:.4f} epistemic nats"
        for split, r in evaluation["splits"].items()
    )


def _difference(d: Mapping[str, float]) -> str:
    return f"{d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]"


def plain(table: Table, width: int = 110) -> str:
    """A table as text without colours, for files."""
    console = Console(width=width, no_color=True, record=True, quiet=True)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())
