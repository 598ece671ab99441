"""Tables for people, from the numbers for machines."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def predictor_table(evaluation: Mapping[str, Any]) -> Table:
    """Predictor x headline numbers, for every split of an evaluation file's content."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("split", "predictor"):
        table.add_column(name, no_wrap=True)
    for name in ("perplexity", "NLL", "accuracy", "ECE", "Brier"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bma's NLL minus it, 95 %", justify="right", no_wrap=True)
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


WIDTH = 120
"""Columns that the table takes where the terminal does not say how many it has."""


def plain(table: Table) -> str:
    """A table as text without colours, for files and pipes."""
    text = io.StringIO()
    Console(file=text, width=WIDTH, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def show(table: Table) -> None:
    """Print to the terminal, or plainly where there is none."""
    console = Console()
    if console.is_terminal:
        console.print(table)
    else:
        print(plain(table))
