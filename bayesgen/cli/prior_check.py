"""`bayesgen prior check`: what a prior predicts before any data."""

from __future__ import annotations

from bayesgen.cli.command import Command, Given, typed
from bayesgen.config import (
    CheckPriorSettings,
    check_prior_settings,
    idle_prior_settings,
    refuse_idle,
)
from bayesgen.errors import UserError
from bayesgen.tasks import TASKS

TRAINED = ("batch_size", "train_samples", "precision")
"""Settings of what is trained: nothing is, here."""


def _run(given: Given[CheckPriorSettings]) -> str:
    settings = given.settings
    check_prior_settings(settings)
    if settings.prior_scale == "auto":
        raise UserError("`prior_scale=auto`: choose a number; a run chooses λ by its own data")
    wrong, right = ("corpus", "data") if TASKS[settings.task].is_labelled else ("data", "corpus")
    idle = {
        **idle_prior_settings(settings),
        **dict.fromkeys(TRAINED, "has no effect here: nothing is trained"),
        wrong: f"has no effect on {settings.task}, which takes `{right}`",
    }
    refuse_idle(given.flags, idle)

    from bayesgen.reports.prior import predictive_table
    from bayesgen.reports.tables import show
    from bayesgen.workflow.prior import check_prior

    lines, found = check_prior(settings)
    print("\n".join(lines))
    show(predictive_table(found))
    if found.entropy is not None and found.aleatoric is not None:
        total, aleatoric = found.entropy, found.aleatoric
        print(
            f"entropy {total:.4f} = {aleatoric:.4f} aleatoric + {total - aleatoric:.4f} epistemic"
            " nats"
        )
    return typed("train", "--task", settings.task, "--prior", settings.prior, "--help")


COMMAND = Command(
    name="prior check",
    description="Draw weights from a prior and show what they predict, before any data.",
    settings=CheckPriorSettings,
    run=_run,
    hidden=(*TRAINED, "prior_scale_steps"),
    examples="""
# does a learned prior make a classifier that is unsure of everything, as it should be?
bayesgen prior check --model models/all-MiniLM-L6-v2 --task sequence-classification \\
    --data ag_news --parameters layers=-2:,head --prior-path checkpoints/priors/news \\
    --prior-scale 100
# an isotropic prior around a language model, for comparison
bayesgen prior check --model out/ckpt.pt --corpus shakespeare --prior pretrained \\
    --prior-std 0.01
""",
)
