"""Tables for people, from the numbers for machines."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Evaluations = Mapping[str, Mapping[str, Any]]
"""Label of a run -> content of its evaluation file."""


CLASSES = {"perplexity": ("perplexity", 3), "NLL": ("nll", 4), "accuracy": ("accuracy", 4),
           "ECE": ("ece", 4), "Brier": ("brier", 4)}  # fmt: skip
"""Headline numbers of labels that are classes or tokens: column -> key and digits."""
REAL = {"NLL": ("nll", 4), "RMSE": ("rmse", 4), "Spearman": ("spearman", 4),
        "Pearson": ("pearson", 4), "ECE": ("ece", 4)}  # fmt: skip
"""The same of labels that are real numbers."""


def has_real_labels(evaluation: Mapping[str, Any]) -> bool:
    """Whether the labels that were scored are real numbers. Runs that differ in this have no table
    in common."""
    return any("variance" in report for report in evaluation["splits"].values())


def predictor_table(evaluations: Evaluations) -> Table:
    """Predictor x headline numbers, for every run and split."""
    classes = any(_has_classes(report) for *_, report in _splits(evaluations))
    numbers = _numbers(evaluations)
    columns = [*numbers, "bma's NLL minus it, 95 %"]
    if numbers is REAL:
        columns.append("bma's Spearman minus it")
    if classes:
        columns.insert(-1, "macro-F1")
    table = _table(evaluations, ("split", "predictor"), columns)
    for label, split, report in _splits(evaluations):
        best = min(report["predictors"].values(), key=lambda s: _or_infinity(s["nll"]))
        for name, s in report["predictors"].items():
            difference = report["bma_minus"].get(name)
            table.add_row(
                *label,
                split,
                name,
                *_headline(s, numbers),
                *([_number(report.get("macro_f1", {}).get(name), 4)] if classes else []),
                _interval(difference) if difference else "",
                *([_ranks_minus(report, name)] if numbers is REAL else []),
                style="bold" if s is best else "",
            )
        table.add_section()
    return table


def draws_table(evaluations: Evaluations) -> Table:
    """How much each draw buys: the mixture of the first k."""
    numbers = _numbers(evaluations)
    table = _table(evaluations, ("split",), ("draws", *numbers))
    for label, split, report in _splits(evaluations):
        for row in report["by_num_draws"]:
            table.add_row(*label, split, str(row["draws"]), *_headline(row, numbers))
        table.add_section()
    return table


def coverage_table(evaluations: Evaluations) -> Table | None:
    """Share of the labels inside central intervals, and how wide these are; None of classes."""
    reports = [report for *_, report in _splits(evaluations) if "coverage" in report]
    if not reports:
        return None
    levels = [interval["level"] for interval in reports[0]["coverage"]["bma"]]
    columns = chain.from_iterable((f"in {100 * level:g} %", "width") for level in levels)
    table = _table(evaluations, ("split", "predictor"), tuple(columns))
    for label, split, report in _splits(evaluations):
        for name, intervals in report["coverage"].items():
            cells = ((f"{100 * i['coverage']:.1f} %", _number(i["width"], 3)) for i in intervals)
            table.add_row(*label, split, name, *chain.from_iterable(cells))
        table.add_section()
    return table


def selective_table(evaluations: Evaluations) -> Table | None:
    """How well each uncertainty ranks the tokens by whether they are predicted wrongly, or the rows
    by the error of the predicted label; None where only classes are predicted."""
    if any(map(has_real_labels, evaluations.values())):
        return _sureness_table(evaluations)
    columns = ("errors at 50 %", "at 80 %", "at 100 %", "AURC, 95 %", "minus the first, 95 %")
    table = _table(evaluations, ("split", "tokens ranked by"), columns)
    for label, split, report in _splits(evaluations):
        for name, ranked in report["selective"].items() if not _has_classes(report) else ():
            curve = ranked["curve"]
            table.add_row(
                *label,
                split,
                name.replace("_", " "),
                *(f"{_risk_at(curve, coverage):.4f}" for coverage in (0.5, 0.8, 1.0)),
                _interval(ranked["aurc"], sign=""),
                _interval(ranked["minus_deterministic"]),
            )
        table.add_section()
    return table if table.row_count else None


def accuracy_table(evaluations: Evaluations) -> Table | None:
    """Accuracy of the classes where the least certain rows are left out; None where no classes are
    predicted."""
    columns = (
        "accuracy at 80 %, 95 %", "at 100 %", "AURC, 95 %",
        "minus deterministic max probability's at 80 %, 95 %",
    )  # fmt: skip
    table = _table(evaluations, ("split", "rows ranked by"), columns)
    for label, split, report in _splits(evaluations):
        for name, ranked in report["selective"].items() if _has_classes(report) else ():
            curve, found = ranked["curve"], ranked["accuracy_at_80"]
            table.add_row(
                *label,
                split,
                name.replace("_", " "),
                _interval(found, sign="") if found else f"{1 - _risk_at(curve, 0.8):.4f}",
                f"{1 - _risk_at(curve, 1.0):.4f}",
                _interval(ranked["aurc"], sign=""),
                _interval(ranked["accuracy_at_80_minus_max_probability"]),
            )
        table.add_section()
    return table if table.row_count else None


def _sureness_table(evaluations: Evaluations) -> Table:
    columns = ("RMSE at 50 %", "at 80 %", "at 100 %", "Spearman with |error|", "Pearson")
    table = _table(evaluations, ("split", "rows ranked by"), columns)
    for label, split, report in _splits(evaluations):
        for name, ranked in report["selective"].items():
            table.add_row(
                *label,
                split,
                name.replace("_", " "),
                *(_number(value, 4) for value in ranked["rmse"]),
                _number(ranked["spearman"], 4),
                _number(ranked["pearson"], 4),
            )
        table.add_section()
    return table


def ood_table(evaluations: Evaluations) -> Table | None:
    """How well each score tells far windows or rows from the split's; None if none were scored."""
    columns = ("AUROC, 95 %", "FPR at 95 % TPR", "far / near", "bma epistemic minus it, 95 %")
    table = _table(evaluations, ("split", "uncertainty"), columns)
    for label, split, report in _splits(evaluations):
        for name, d in report.get("ood", {}).get("scores", {}).items():
            minus = report["ood"]["epistemic_minus"].get(name)
            table.add_row(
                *label,
                split,
                name.replace("_", " "),
                _interval(d["auroc"], sign=""),
                f"{d['fpr95']['estimate']:.3f}",
                f"{d['ratio']['estimate']:.3f}" if d["ratio"] else "undefined",
                _interval(minus) if minus else "",
            )
        table.add_section()
    return table if table.row_count else None


def text_table(evaluations: Evaluations) -> Table | None:
    """Continuations beside what really follows; None if none were generated."""
    columns = ("BLEU, characters", "BLEU, words", "ROUGE-1", "ROUGE-2", "ROUGE-L", "distinct-1/2")
    table = _table(evaluations, ("split", "predictor"), (*columns, "self-BLEU"))
    for label, split, report in _splits(evaluations):
        for name, bleu in report.get("bleu", {}).items():
            rouge = report["rouge"][name]["f_measure"]
            varied = report["diversity"].get(name)
            table.add_row(
                *label,
                split,
                name.replace("_", " "),
                *(_estimate(bleu[t]["score"], 2) if t in bleu else "" for t in ("char", "13a")),
                *(
                    _estimate(rouge[k], 3) if k in rouge else ""
                    for k in ("rouge1", "rouge2", "rougeL")
                ),
                "" if varied is None else _distinct(varied),
                "" if varied is None else _number(varied["self_bleu"]["score"], 1),
            )
        table.add_section()
    return table if table.row_count else None


def _table(evaluations: Evaluations, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("run", *words) if len(evaluations) > 1 else words:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _splits(
    evaluations: Evaluations,
) -> Iterator[tuple[tuple[str, ...], str, Mapping[str, Any]]]:
    """(label of the run, if there are several), split, report."""
    for label, evaluation in evaluations.items():
        for split, report in evaluation["splits"].items():
            yield ((label,) if len(evaluations) > 1 else ()), split, report


def _numbers(evaluations: Evaluations) -> Mapping[str, tuple[str, int]]:
    return REAL if any(map(has_real_labels, evaluations.values())) else CLASSES


def _has_classes(report: Mapping[str, Any]) -> bool:
    return "macro_f1" in report


def _headline(
    s: Mapping[str, float | None], numbers: Mapping[str, tuple[str, int]]
) -> tuple[str, ...]:
    return tuple(_number(s[name], places) for name, places in numbers.values())


def _or_infinity(value: float | None) -> float:
    """A file has null for what is infinite or no number."""
    return math.inf if value is None else value


def _risk_at(curve: Mapping[str, list[float]], coverage: float) -> float:
    nearest = min(
        range(len(curve["coverages"])), key=lambda i: abs(curve["coverages"][i] - coverage)
    )
    return curve["risks"][nearest]


def _ranks_minus(report: Mapping[str, Any], name: str) -> str:
    difference = report["bma_minus_spearman"].get(name)
    return _interval(difference) if difference else ""


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _estimate(e: Mapping[str, float | None], digits: int) -> str:
    if e["low"] is None:
        return _number(e["estimate"], digits)
    return f"{e['estimate']:.{digits}f} [{e['low']:.{digits}f}, {e['high']:.{digits}f}]"


def _distinct(varied: Mapping[str, Any]) -> str:
    return " / ".join(_number(varied[k]["ratio"], 3) for k in ("distinct_1", "distinct_2"))


def scale_table(curve: Mapping[str, Any]) -> Table:
    """Validation NLL over λ, of --prior-scale auto."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("λ", "validation NLL of the mixture", "of a draw", ""):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for trial in curve["curve"]:
        numbers = (_number(trial[key], 4) for key in ("nll", "mean_of_draws"))
        chosen = "chosen" if trial["scale"] == curve["chosen"] else ""
        table.add_row(f"{trial['scale']:g}", *numbers, chosen)
    return table


def predictor_caption(evaluation: Mapping[str, Any]) -> str:
    """What the table was computed on."""
    corpus = evaluation.get("corpus", {}).get("name")
    return (f"{corpus}, " if corpus else "") + "; ".join(
        f"{split}: {_scored(report)}" for split, report in evaluation["splits"].items()
    )


def _scored(report: Mapping[str, Any]) -> str:
    if "variance" in report:
        v = report["variance"]
        return (
            f"{report['num_tokens']:,} labels, {report['num_draws']} draws, variance"
            f" {v['total']:.4g} = {v['aleatoric']:.4g} aleatoric + {v['epistemic']:.4g} epistemic,"
            " squared units of the labels"
        )
    entropy = report["entropy"]
    what = "labels" if _has_classes(report) else "target tokens"
    return (
        f"{report['num_tokens']:,} {what}, {report['num_draws']} draws, entropy"
        f" {entropy['total']:.4f} = {entropy['aleatoric']:.4f} aleatoric +"
        f" {entropy['epistemic']:.4f} epistemic nats"
    )


def _interval(d: Mapping[str, float | None] | None, sign: str = "+") -> str:
    """A number with its interval, as far as they are there."""
    if d is None or d["estimate"] is None:
        return "-"
    estimate = f"{d['estimate']:{sign}.4f}"
    if not math.isfinite(_or_infinity(d["low"])):
        return estimate
    return f"{estimate} [{d['low']:{sign}.4f}, {d['high']:{sign}.4f}]"


WIDTH = 200
"""Columns that the table takes where the terminal does not say how many it has."""


def plain(table: Table) -> str:
    """A table as text without colours, for files and pipes."""
    text = io.StringIO()
    Console(file=text, width=WIDTH, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def show(table: Table) -> None:
    """Print to the terminal, or plainly where there is none.

    On a narrow terminal the last columns are left out, and named.
    """
    console = Console()
    if not console.is_terminal:
        print(plain(table))
        return
    left_out: list[str] = []
    endless = Console(width=10_000)
    while len(table.columns) > 2 and endless.measure(table).maximum > console.width:
        left_out.insert(0, str(table.columns.pop().header))
    console.print(table)
    if left_out:
        names = ", ".join(f"'{name}'" for name in left_out)
        print(f"(left out at {console.width} columns: {names}; wide, or in a pipe, they are shown)")
