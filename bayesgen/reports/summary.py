"""`<sampler>_summary.txt`: a finished run as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayesgen.reports.tables import (
    SUMMARY,
    counted,
    plain,
    predictor_caption,
    table_of,
    tables_of,
)
from bayesgen.runs import RunRecord


def summary(run: RunRecord, totals: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> str:
    """The text of the summary.

    Args:
        totals: content of <sampler>_metrics.json.
        evaluation: content of an evaluation file, or None.
    """
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
            f"  {name:<28}{run.settings[name]!s:<22}  {source}"
            for name, source in sorted(run.sources.items())
        ),
    ]
    if evaluation is not None:
        shown = {"": evaluation}
        predictors = table_of("predictors", shown)
        assert predictors is not None
        lines += ["", plain(predictors), "", predictor_caption(evaluation)]
        for table in tables_of(shown, SUMMARY):
            lines += ["", plain(table)]
    return "\n".join(lines) + "\n"
