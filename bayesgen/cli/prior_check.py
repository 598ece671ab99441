"""`bayesgen prior check`: what a prior predicts before any data."""

from __future__ import annotations

import argparse

from bayesgen.cli.options import Parser, add_flags, flag, parse
from bayesgen.config import (
    CheckPriorSettings,
    check_prior_settings,
    check_ranges,
    idle_prior_settings,
)
from bayesgen.config.provenance import combine
from bayesgen.errors import UserError
from bayesgen.tasks import TASKS

EXAMPLES = """
examples:
  does a learned prior make a classifier that is unsure of everything, as it should be?
    bayesgen prior check --model models/all-MiniLM-L6-v2 --task sequence-classification \\
        --data ag_news --parameters layers=-2:,head --prior-path checkpoints/priors/news \\
        --prior-scale 100
  an isotropic prior around a language model, for comparison:
    bayesgen prior check --model out/ckpt.pt --corpus shakespeare --prior pretrained \\
        --prior-std 0.01
"""
TRAINED = ("batch_size", "train_samples", "precision")
"""Settings of what is trained: nothing is, here."""


def choose(argv: list[str]) -> CheckPriorSettings:
    """Understand a command line."""
    parser = Parser(
        prog="bayesgen prior check",
        description="Draw weights from a prior and show what they predict, before any data.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, CheckPriorSettings, hidden=(*TRAINED, "prior_scale_steps"))
    flags = parse(parser, argv, {})
    settings = combine(CheckPriorSettings, flags, {}, "").settings
    check_ranges(settings)
    check_prior_settings(settings)
    if settings.prior_scale == "auto":
        raise UserError("--prior-scale auto: choose a number; a run chooses λ by its own data")
    for name, why in idle_prior_settings(settings).items():
        if name in flags:
            raise UserError(f"{flag(name)} {why}")
    for name in TRAINED:
        if name in flags:
            raise UserError(f"{flag(name)} has no effect here: nothing is trained")
    labelled = TASKS[settings.task].is_labelled
    if (labelled and "corpus" in flags) or (not labelled and "data" in flags):
        wrong, right = ("--corpus", "--data") if labelled else ("--data", "--corpus")
        raise UserError(f"{wrong} has no effect on {settings.task}, which takes {right}")
    return settings


def main(argv: list[str]) -> int:
    settings = choose(argv)

    from bayesgen.reports.prior import predictive_table
    from bayesgen.reports.tables import show
    from bayesgen.workflow.check_prior import check_prior

    lines, found = check_prior(settings)
    print("\n".join(lines))
    show(predictive_table(found))
    if found.entropy is not None and found.aleatoric is not None:
        total, aleatoric = found.entropy, found.aleatoric
        print(
            f"entropy {total:.4f} = {aleatoric:.4f} aleatoric + {total - aleatoric:.4f} epistemic"
            " nats"
        )
    return 0
