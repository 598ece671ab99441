"""What a learned prior is, as text and as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table
from torch import Tensor

from bayesgen.evaluation.prior_predictive import PriorPredictive
from bayesgen.priors.learned import SHIFT, Explained, Group, LearnedPrior
from bayesgen.reports.tables import empty_table
from bayesgen.runs.files import finite

MANY_CLASSES = 10  # classes up to which each has a row
DENSITY = "N(μ, λ · ½ (diag(v) + QᵀQ) + ε I): λ multiplies the covariance, Q is divided by √(K − 1)"


def prior_header(prior: LearnedPrior, explained: Explained) -> str:
    """Its model, size and width, and how it was learned, a line each."""
    total = explained.total
    model = prior.record.get("model", {})
    hashed = f" (sha256 {str(model['sha256'])[:12]}...)" if model.get("sha256") else ""
    rank = "0: no deviations, every weight on its own"
    if prior.rank:
        rank = (
            f"{prior.rank} deviations, as good as {explained.effective_rank:.1f} of equal length"
            f" (effective rank); {100 * total.low_rank:.1f} % of the variance"
        )
    sds = f"{total.prior_sd:.3g} at λ = 1, where the weights' own sd is {total.weight_sd:.3g}"
    rows = {
        "model": f"{model.get('name', 'unknown')}{hashed}",
        "parameters": f"{total.numbers:,} in {total.tensors:,} tensors",
        "density": DENSITY,
        "rank": rank,
        "width": f"median sd {sds}",
    }
    upstream = dict(prior.record.get("upstream", {}))
    shift = upstream.pop(SHIFT, None)
    if isinstance(shift, int | float):
        rows[SHIFT] = f"the mean lies {100 * shift:.2g} % of the start's length from it"
    lines = [f"{name:<14}{_plain(text)}" for name, text in rows.items()]
    facts = [f"  {_plain(key):<26}{_plain(value)}" for key, value in _flat(upstream)]
    return "\n".join([*lines, *(["learned by"] if facts else []), *facts])


def prior_table(explained: Explained) -> Table:
    """Widths beside weights, by groups of parameters."""
    numbers = ("numbers", "weights' sd", "prior sd, λ = 1", "ratio", "low rank")
    table = empty_table(("parameters",), numbers)
    for group in explained.groups:
        table.add_row(escape(group.name), *_cells(group))
    table.add_section()
    table.add_row("all", *_cells(explained.total), style="bold")
    return table


def predictive_table(found: PriorPredictive) -> Table:
    """What draws from a prior predict: least, median and largest of the draws, and the mixture."""
    columns = ("least", "median", "largest", "mixture", "loaded weights", "uniform")
    table = empty_table(("",), columns, wide=True)

    def row(name: str, each: Tensor, *others: float | None) -> None:
        three = (float(each.min()), float(each.median()), float(each.max()))
        table.add_row(name, *("" if v is None else f"{v:.4g}" for v in (*three, *others)))

    row("NLL of a draw, nats", found.draws, found.nll, found.loaded, found.uniform)
    if found.confidence is not None:
        row("mean largest probability", found.confidence)
    if found.shares is not None:
        for c, shares in enumerate(found.shares.T[:MANY_CLASSES]):
            row(f"share of class {c}", shares, float(shares.mean()))
    if found.outputs is not None:
        row("mean prediction", found.outputs[0], float(found.outputs[0].mean()))
        row("its sd over texts", found.outputs[1], float(found.outputs[1].mean()))
    return table


def prior_document(prior: LearnedPrior, explained: Explained) -> dict[str, Any]:
    """The same as plain data."""
    content = {
        **prior.record,
        "parameters": len(prior.layout.entries),
        "numbers": prior.layout.size,
        "rank": prior.rank,
        "effective_rank": explained.effective_rank,
        "all": asdict(explained.total),
        "groups": [asdict(group) for group in explained.groups],
    }
    return dict(finite(content))


def _cells(group: Group) -> tuple[str, ...]:
    ratio = f"{group.prior_sd / group.weight_sd:.3g}" if group.weight_sd else "-"
    widths = f"{group.weight_sd:.3g}", f"{group.prior_sd:.3g}", ratio
    return f"{group.numbers:,}", *widths, f"{100 * group.low_rank:.1f} %"


def _flat(record: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}", str(value)


def _plain(text: str) -> str:
    """`text` without the characters that steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
