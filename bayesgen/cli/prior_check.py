"""`bayesgen prior check`: what a prior predicts before any data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bayesgen.cli.options import Parser, add_flags, flag, parse
from bayesgen.config import (
    LABELS,
    CheckPriorSettings,
    check_prior_settings,
    check_ranges,
    idle_prior_settings,
)
from bayesgen.config.provenance import combine
from bayesgen.errors import UserError, warn

if TYPE_CHECKING:
    from bayesgen.evaluation.prior_predictive import PriorPredictive

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
MANY_CLASSES = 10
"""Classes up to which each has a column."""


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
    labelled = settings.task in LABELS
    if (labelled and "corpus" in flags) or (not labelled and "data" in flags):
        wrong, right = ("--corpus", "--data") if labelled else ("--data", "--corpus")
        raise UserError(f"{wrong} has no effect on {settings.task}, which takes {right}")
    return settings


def main(argv: list[str]) -> int:
    settings = choose(argv)

    import torch

    from bayesgen.config import ScoringSettings
    from bayesgen.evaluation.passes import evenly_spaced
    from bayesgen.evaluation.prior_predictive import prior_predictive
    from bayesgen.priors import build_prior
    from bayesgen.workflow.inputs import read_inputs
    from bayesgen.workflow.job import weights_of
    from bayesgen.workflow.loading import model_of
    from bayesgen.workflow.preflight import met

    model = model_of(settings)
    inputs = read_inputs(model, settings)
    rows = inputs.material(ScoringSettings(eval_splits=("val",)), None).scored["val"]
    rows = rows.take(evenly_spaced(len(rows), settings.num_samples).numpy())
    prior = build_prior(settings, weights_of(model))
    torch.manual_seed(settings.seed)
    draws = torch.stack([prior.sample() for _ in range(settings.num_draws)])
    print(f"prior: {prior.describe()}; the weights' own sd is {float(model.theta.std()):.3g}")
    rest = model.num_parameters - model.layout.size
    print(f"of {model.layout.size:,} parameters ({rest:,} others stay)")
    for title, text in met(prior.record()):
        print(f"{title}: {text}")
    print(
        f"{len(draws)} draws on {rows.num_targets:,} labels of {inputs.data['name']}'s validation"
    )
    _show(prior_predictive(model, draws, rows))
    return 0


def _show(found: PriorPredictive) -> None:
    from rich import box
    from rich.table import Table

    from bayesgen.reports.tables import show

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for name in ("least", "median", "largest", "mixture", "loaded weights", "uniform"):
        table.add_column(name, justify="right", no_wrap=True)

    def row(name: str, values: object, *others: float | None) -> None:
        import torch

        each = torch.as_tensor(values)
        three = (float(each.min()), float(each.median()), float(each.max()))
        table.add_row(name, *("" if v is None else f"{v:.4g}" for v in (*three, *others)))

    row("NLL of a draw, nats", found.draws, found.nll, found.loaded, found.uniform)
    if found.confidence is not None:
        row("mean largest probability", found.confidence)
    for c in range(0 if found.shares is None else min(found.shares.shape[1], MANY_CLASSES)):
        assert found.shares is not None
        row(f"share of class {c}", found.shares[:, c], float(found.shares[:, c].mean()))
    if found.outputs is not None:
        row("mean prediction", found.outputs[0], float(found.outputs[0].mean()))
        row("its sd over texts", found.outputs[1], float(found.outputs[1].mean()))
    show(table)
    if found.entropy is not None and found.aleatoric is not None:
        print(
            f"entropy {found.entropy:.4f} = {found.aleatoric:.4f} aleatoric +"
            f" {found.entropy - found.aleatoric:.4f} epistemic nats"
        )
    if found.uniform is not None and not found.nll <= found.uniform:
        warn(
            f"the mixture is worse ({found.nll:.3f}) than knowing nothing"
            f" ({found.uniform:.3f}): these weights are sure of what they cannot know; lower"
            " --prior-scale (or --prior-std), or --head-prior-std"
        )
