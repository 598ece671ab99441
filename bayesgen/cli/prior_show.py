"""`bayesgen prior show`: a learned prior, explained."""

from __future__ import annotations

import json
from pathlib import Path

from bayesgen.cli.command import Command, Given
from bayesgen.config import PriorShowSettings


def _run(given: Given[PriorShowSettings]) -> str | None:
    from bayesgen.priors import read_prior
    from bayesgen.priors.explained import explain
    from bayesgen.reports.prior import prior_document, prior_header, prior_table
    from bayesgen.reports.tables import show

    prior = read_prior(Path(given.words["file"]), "FILE")
    explained = explain(prior)
    if given.settings.json:
        print(json.dumps(prior_document(prior, explained), ensure_ascii=False))
        return None
    print(prior_header(prior, explained))
    show(prior_table(explained))
    return "bayesgen prior check --help"


COMMAND = Command(
    name="prior show",
    description="Explain a learned prior: what it is of, how wide it is beside the weights, how"
    " many directions it has, and how it was learned.",
    settings=PriorShowSettings,
    run=_run,
    words={"file": {"metavar": "FILE", "help": "a prior, or the folder that holds it"}},
    examples="""
# widths by block, the model, and how it was learned
bayesgen prior show prior.safetensors
# for a program
bayesgen prior show prior.safetensors --json
""",
)
