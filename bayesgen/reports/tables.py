"""Tables of the numbers in evaluation files."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from bayesgen.evaluation.metrics import METRICS
from bayesgen.runs.files import RunRecord

Evaluations = Mapping[str, Mapping[str, Any]]  # label of a run -> content of its evaluation file
Report = Mapping[str, Any]  # what an evaluation file says of one split
Items = Iterable[tuple[str, Mapping[str, Any]]]  # what a table has a row for: name -> numbers
WIDTH = 200  # columns that a table takes where the terminal does not say how many it has


class Column(NamedTuple):
    """A number of each row."""

    heading: str
    path: str  # keys to it, one in the other, with slashes between them
    # its format; in brackets, that of a number with its interval, and in parentheses, of the
    # interval alone; none for a text
    form: str = ".4f"

    def cell(self, item: Mapping[str, Any]) -> str:
        """Empty where the item has no such number, and a dash where it is unknown."""
        value: Any = item
        for key in self.path.split("/"):
            if value is None:
                break
            if key not in value:
                return ""
            value = value[key]
        if value is None:
            return "-"
        if not self.form.startswith(("[", "(")):
            return format(value, self.form)
        # a file has null for what is infinite or no number
        known = {k: v for k, v in value.items() if isinstance(v, int | float) and math.isfinite(v)}
        shown = {k: format(v, self.form[1:-1]) for k, v in known.items()}
        number = shown.get("estimate", "-") if self.form[0] == "[" else ""
        if not {"low", "high"} <= shown.keys():
            return number or "-"
        return f"{number} [{shown['low']}, {shown['high']}]".strip()


class Layout(NamedTuple):
    """A table with a row for each item of a split."""

    first: str  # heading of the items' names, where they have any
    items: Callable[[Report], Items]  # of a split; none where it has no such numbers
    columns: Callable[[], Iterable[Column]]  # shown where there is a number somewhere


def table_of(name: str, evaluations: Evaluations) -> Table | None:
    """One of `TABLES`, for every run and split; None where there is nothing to show."""
    layout, several = TABLES[name], len(evaluations) > 1
    named = bool(layout.first)
    rows = [
        ([label] * several + [split], [item] * named, numbers, report)
        for label, evaluation in evaluations.items()
        for split, report in evaluation["splits"].items()
        for item, numbers in layout.items(report)
    ]
    columns = [c for c in layout.columns() if any(c.cell(numbers) for _, _, numbers, _ in rows)]
    words = ["run"] * several + ["split"] + [layout.first] * named
    table = empty_table(words, [column.heading for column in columns])
    for i, (place, item, numbers, report) in enumerate(rows):
        if i and rows[i - 1][0] != place:
            table.add_section()
        known = [own["nll"] for own in report["predictors"].values() if own["nll"] is not None]
        best = name == "predictors" and known and numbers["nll"] == min(known)
        cells = (column.cell(numbers) for column in columns)
        table.add_row(*place, *item, *cells, style="bold" if best else "")
    return table if rows else None


def tables_of(evaluations: Evaluations, names: Iterable[str]) -> list[Table]:
    """Those of the tables `names` that there are numbers for."""
    return [table for name in names if (table := table_of(name, evaluations)) is not None]


def empty_table(words: Sequence[str], numbers: Sequence[str], wide: bool = False) -> Table:
    """Columns of words on the left, and of numbers; `wide`: with space around them."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=wide, pad_edge=wide, padding=(0, 1, 0, int(wide)))
    for name in words:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


# -- what they are of ----------------------------------------------------------------------------


def _metrics() -> list[Column]:
    return [
        Column(metric.heading or name.replace("_", " "), name, f".{metric.digits}f")
        for name, metric in METRICS.items()
    ]


def _predictors(report: Report) -> Items:
    others = ("macro_f1", "bma_minus", "bma_minus_spearman")
    for name, numbers in report["predictors"].items():
        yield name, numbers | {k: report[k][name] for k in others if name in report.get(k, {})}


def _coverage(report: Report) -> Items:
    for name, intervals in report.get("coverage", {}).items():
        shares = {f"in {c['level']:g}": f"{100 * c['coverage']:.1f} %" for c in intervals}
        yield name, shares | {f"width {c['level']:g}": c["width"] for c in intervals}


def _ranked(kind: str) -> Callable[[Report], Items]:
    """The uncertainties that rank the errors in labels of this kind, with the risks at some
    coverages."""

    def items(report: Report) -> Items:
        own = "number" if "variance" in report else "class" if "macro_f1" in report else "token"
        for name, ranked in report.get("selective", {}).items() if own == kind else ():
            curve = ranked.get("curve", {"coverages": [], "risks": []})
            risks = zip(curve["coverages"], curve["risks"], strict=True)
            risk = {f"{100 * c:.0f}": r for c, r in risks}
            rmse = dict(zip(("50", "80", "100"), ranked.get("rmse", ()), strict=False))
            right = {c: 1 - r for c, r in risk.items()}
            if kind == "class" and ranked["accuracy_at_80"] is None:
                ranked = ranked | {"accuracy_at_80": {"estimate": right["80"]}}
            yield _words(name), {**ranked, "risk": risk, "right": right, "rmse": rmse}

    return items


def _detections(report: Report) -> Items:
    for name, found in report.get("ood", {}).get("scores", {}).items():
        minus = report["ood"]["epistemic_minus"]
        yield _words(name), found | ({"minus": minus[name]} if name in minus else {})


def _texts(report: Report) -> Items:
    for name, bleu in report.get("bleu", {}).items():
        varied = report["diversity"].get(name, {})
        ratios = [varied[k]["ratio"] for k in ("distinct_1", "distinct_2") if varied]
        distinct = " / ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        said = {**bleu, **report["rouge"][name]["f_measure"], **varied, "distinct": distinct}
        yield "difference" if name == "bma_minus_deterministic" else name, said


def _words(name: str) -> str:
    return name.replace("max_probability", "max-prob.").replace("_", " ")


TABLES: Mapping[str, Layout] = {
    # predictor x metrics
    "predictors": Layout("predictor", _predictors, lambda: (
        *_metrics(),
        Column("bma's NLL minus it, 95 %", "bma_minus", "[+.4f]"),
        Column("bma's Spearman − it", "bma_minus_spearman", "(+.3f)"),
    )),
    # share of the labels inside central intervals, and how wide these are
    "coverage": Layout("predictor", _coverage, lambda: (
        column
        for level in (0.5, 0.8, 0.9, 0.95)
        for column in (Column(f"in {100 * level:g} %", f"in {level:g}", ""),
                       Column("width", f"width {level:g}", ".3f"))
    )),
    # how much each draw buys: the mixture of the first k
    "draws": Layout("", lambda report: (("", row) for row in report["by_num_draws"]), lambda: (
        Column("draws", "draws", ""), *_metrics(),
    )),
    # how well each uncertainty ranks tokens by whether they are predicted wrongly,
    "tokens": Layout("tokens ranked by", _ranked("token"), lambda: (
        Column("errors at 50 %", "risk/50"),
        Column("at 80 %", "risk/80"),
        Column("at 100 %", "risk/100"),
        Column("AURC, 95 %", "aurc", "[.4f]"),
        Column("difference to entropy", "minus_deterministic", "[+.4f]"),
    )),
    # rows by whether their class is,
    "classes": Layout("rows ranked by", _ranked("class"), lambda: (
        Column("accuracy at 80 % coverage", "accuracy_at_80", "[.4f]"),
        Column("at 100 %", "right/100"),
        Column("AURC, 95 %", "aurc", "[.4f]"),
        Column("difference to max-prob.", "accuracy_at_80_minus_max_probability", "[+.4f]"),
    )),
    # and rows by the error of a predicted number
    "numbers": Layout("rows ranked by", _ranked("number"), lambda: (
        Column("RMSE at 50 %", "rmse/50"),
        Column("at 80 %", "rmse/80"),
        Column("at 100 %", "rmse/100"),
        Column("Spearman with |error|", "spearman"),
        Column("Pearson", "pearson"),
    )),
    # how well each uncertainty detects out-of-distribution windows or rows
    "ood": Layout("out-of-distribution by", _detections, lambda: (
        Column("AUROC, 95 %", "auroc", "[.4f]"),
        Column("FPR at 95 % TPR", "fpr95/estimate", ".3f"),
        Column("ratio of means", "ratio/estimate", ".3f"),
        Column("bma epistemic minus it", "minus", "[+.4f]"),
    )),
    # continuations beside what really follows
    "texts": Layout("continued by", _texts, lambda: (
        Column("BLEU, characters", "char/score", "[.1f]"),
        Column("BLEU, words", "13a/score/estimate", ".1f"),
        Column("ROUGE-1", "rouge1/estimate", ".3f"),
        Column("ROUGE-2", "rouge2/estimate", ".3f"),
        Column("ROUGE-L", "rougeL", "[.3f]"),
        Column("distinct-1/2", "distinct", ""),
        Column("self-BLEU", "self_bleu/score", ".1f"),
    )),
}  # fmt: skip
SUMMARY = ("classes", "ood", "coverage")  # what a summary shows beside the predictors


def scale_table(curve: Mapping[str, Any]) -> Table:
    """Validation NLL over λ, of `prior_scale=auto`."""
    columns = (
        Column("λ", "scale", "g"),
        Column("validation NLL of the mixture", "nll"),
        Column("of a draw", "mean_of_draws"),
    )
    table = empty_table((), [*(column.heading for column in columns), ""])
    for trial in curve["curve"]:
        chosen = "chosen" if trial["scale"] == curve["chosen"] else ""
        table.add_row(*(column.cell(trial) for column in columns), chosen)
    return table


def predictor_caption(evaluation: Mapping[str, Any]) -> str:
    """What the table was computed on."""
    corpus = evaluation.get("corpus", {}).get("name")
    return (f"{corpus}, " if corpus else "") + "; ".join(
        f"{split}: {_scored(report)}" for split, report in evaluation["splits"].items()
    )


def _scored(report: Report) -> str:
    labels = "target tokens" if "entropy" in report and "macro_f1" not in report else "labels"
    said = f"{report['num_tokens']:,} {labels}, {counted(report['num_draws'], 'draw')}"
    units = {"variance": (".4g", ", squared units of the labels"), "entropy": (".4f", " nats")}
    for what in units.keys() & report.keys():
        form, unit = units[what]
        part = {name: format(value, form) for name, value in report[what].items()}
        sum_of = f"{part['aleatoric']} aleatoric + {part['epistemic']} epistemic"
        said += f", {what} {part['total']} = {sum_of}{unit}"
    return said


def counted(count: int, noun: str) -> str:
    """`1 draw`, `2 draws`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def plain(table: Table) -> str:
    """A table as text without colours, for files and pipes."""
    text = io.StringIO()
    # In a notebook rich would display the table instead of writing it to `text`.
    Console(file=text, width=WIDTH, no_color=True, force_jupyter=False).print(table)
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


def summary(run: RunRecord, totals: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> str:
    """`<sampler>_summary.txt`: a finished run as text, with the content of its
    <sampler>_metrics.json and of an evaluation file, if there is one."""
    data, model = run.data, run.model
    lines = [
        f"{run.sampler} posterior over {model.name}",
        "",
        f"model       {model.family}, {run.num_bayesian:,} Bayesian parameters of"
        f" {run.num_parameters:,}",
        f"data        {data.name}, N = {run.num_observations:,} (sha256 {data.sha256[:12]}...)",
        f"draws       {counted(totals['draws'], 'draw')} from"
        f" {counted(totals['chains'], 'chain')}, {counted(totals['steps'], 'step')}",
        f"clipped     the gradient of {counted(totals['clipped_steps'], 'step')}",
        f"training    NLL {totals['nll']:.4f} nats per observation at the end",
        f"time        {totals['seconds']:.0f} s, {totals['steps_per_second']:.1f} steps/s,"
        f" peak memory {totals['peak_memory_mib']:.0f} MiB",
        "",
        "before the run",
        *(f"  {name:<16}{value}" for name, value in run.opening.rows),
        *(f"  WARNING {text}" for text in run.opening.warnings),
        "",
        "settings that are not the default, and where they came from",
        *(
            f"  {k:<28}{run.settings[k]!s:<22}  {source}"
            for k, source in sorted(run.sources.items())
        ),
    ]
    if evaluation is not None:
        predictors, *others = map(plain, tables_of({"": evaluation}, ("predictors", *SUMMARY)))
        lines += ["", predictors, "", predictor_caption(evaluation)]
        lines += [line for table in others for line in ("", table)]
    return "\n".join(lines) + "\n"
