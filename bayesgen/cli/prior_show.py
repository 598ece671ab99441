"""`bayesgen prior show`: a learned prior, explained."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bayesgen.cli.options import Parser, add_flags, parse
from bayesgen.config import PriorShowSettings
from bayesgen.config.provenance import combine

EXAMPLES = """
examples:
  widths by block, the model, and how it was learned:
    bayesgen prior show prior.safetensors
  for a program:
    bayesgen prior show prior.safetensors --json
"""


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="bayesgen prior show",
        usage="bayesgen prior show FILE [flags]",
        description="Explain a learned prior: what it is of, how wide it is beside the weights, how"
        " many directions it has, and how it was learned.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="a prior, or the folder that holds it")
    add_flags(parser, PriorShowSettings)
    flags = parse(parser, argv, {})
    path = Path(str(flags.pop("file")))
    settings = combine(PriorShowSettings, flags, {}, "").settings

    from bayesgen.priors import read_prior
    from bayesgen.priors.explained import explain
    from bayesgen.reports.prior import prior_document, prior_header, prior_table
    from bayesgen.reports.tables import show

    prior = read_prior(path, "FILE")
    explained = explain(prior)
    if settings.json:
        print(json.dumps(prior_document(prior, explained), ensure_ascii=False))
        return 0
    print(prior_header(prior, explained))
    show(prior_table(explained))
    return 0
