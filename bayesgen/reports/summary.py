"""`<sampler>_summary.txt`: a finished run, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayesgen.reports.tables import (
    accuracy_table,
    coverage_table,
    ood_table,
    plain,
    predictor_caption,
    predictor_table,
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
        f"draws       {totals['draws']} from {totals['chains']} chains, {totals['steps']:,} steps",
        f"clipped     the gradient of {totals['clipped_steps']:,} steps",
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
        lines += ["", plain(predictor_table({"": evaluation})), "", predictor_caption(evaluation)]
        for table in (accuracy_table({"": evaluation}), ood_table({"": evaluation})):
            if table is not None:
                lines += ["", plain(table)]
        intervals = coverage_table({"": evaluation})
        if intervals is not None:
            lines += ["", "labels inside central intervals", plain(intervals)]
    return "\n".join(lines) + "\n"
