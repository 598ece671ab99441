"""`bayesgen prior ...`: priors that were learned elsewhere, and what they predict before any data.

`prior learn` is a run of the sampler `swag` that watches its validation loss: it does whatever
`train` does, such as resume and bf16.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from bayesgen.cli.command import Command, Given, Word, typed
from bayesgen.cli.train import COMMAND as TRAIN
from bayesgen.cli.train import RESUME, for_sampler
from bayesgen.config.fields import refuse_idle
from bayesgen.config.jobs import CheckPriorSettings, PriorImportSettings, PriorShowSettings
from bayesgen.errors import UserError
from bayesgen.tasks import TASKS

TRAINED = ("batch_size", "train_samples", "precision")
"""Settings of what is trained: nothing is, here."""

LEARN = replace(
    TRAIN,
    name="prior learn",
    description="Continue pretraining, and fit a Gaussian to the path of the weights: the prior of"
    " a later task. The folder holds prior.safetensors, its mean and the best weights as models,"
    " and the run.",
    words={"--resume": RESUME},
    defaults=lambda _: {"validation_every": 100, "learning_rate": 1e-4, "num_draws": 1},
    adapt=partial(for_sampler, only="swag"),
    examples="""
# masked words on the texts of a task (no label is read), then a classifier under that prior
bayesgen prior learn --model models/all-MiniLM-L6-v2 --task masked-lm \\
    --corpus ag_news --block-size 64 --out checkpoints/priors/news
bayesgen train --model checkpoints/priors/news/mean \\
    --task sentence-classification --data ag_news --train-samples 100 --eval \\
    --prior swag --prior-path checkpoints/priors/news --prior-scale auto
# a language model
bayesgen prior learn --model out/ckpt.pt --corpus shakespeare --rank 30
# stopped by Ctrl-C, a reboot or a kill? It continues where it was
bayesgen prior learn --resume checkpoints/priors/news
# what was learned
bayesgen prior show checkpoints/priors/news
""",
)


def _show(given: Given[PriorShowSettings]) -> str | None:
    from bayesgen.priors import read_prior
    from bayesgen.priors.learned import explain
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


SHOW = Command(
    name="prior show",
    description="Explain a learned prior: what it is of, how wide it is beside the weights, how"
    " many directions it has, and how it was learned.",
    settings=PriorShowSettings,
    run=_show,
    words={"file": Word("FILE", "a prior, or the folder that holds it")},
    examples="""
# widths by block, the model, and how it was learned
bayesgen prior show prior.safetensors
# for a program
bayesgen prior show prior.safetensors --json
""",
)


def _check(given: Given[CheckPriorSettings]) -> str:
    settings = given.settings
    settings.validate()
    if settings.prior_scale == "auto":
        raise UserError("`prior_scale=auto`: choose a number; a run chooses λ by its own data")
    wrong, right = ("corpus", "data") if TASKS[settings.task].is_labelled else ("data", "corpus")
    idle = {
        **settings.without_effect(),
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
        total, own = found.entropy, found.aleatoric
        print(f"entropy {total:.4f} = {own:.4f} aleatoric + {total - own:.4f} epistemic nats")
    return typed("train", "--task", settings.task, "--prior", settings.prior, "--help")


CHECK = Command(
    name="prior check",
    description="Draw weights from a prior and show what they predict, before any data.",
    settings=CheckPriorSettings,
    run=_check,
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


def _import(given: Given[PriorImportSettings]) -> str:
    from bayesgen.models import load_model
    from bayesgen.priors import write_prior
    from bayesgen.workflow.prior import check_files, distance, import_prior

    settings = check_files(given.settings)
    model = load_model(str(settings.model), task=settings.task)
    prior = import_prior(settings, model)
    out = Path(str(settings.out))
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_prior(prior, out)
    print(
        f"{out}: {prior.layout.size:,} numbers in {len(prior.layout.entries)} tensors, rank"
        f" {prior.rank}, {out.stat().st_size / 2**20:.1f} MiB"
    )
    away = distance(prior, model)
    print(f"the mean lies {100 * away:.2g} % of the length of the model's weights from them")
    return typed("prior", "show", out)


IMPORT = Command(
    name="prior import",
    description="Make one prior file of those that another program left: --published PATH, or"
    " --mean, --variance and --deviations, or --swag-state, each with --model and --out. Nothing in"
    " them is executed.",
    settings=PriorImportSettings,
    run=_import,
    own_model=True,
    examples="""
# the published prior of a ResNet-50 (four files), for a ResNet of transformers
bayesgen prior import --published priors/resnet50_ssl_prior --rows divided \\
    --model microsoft/resnet-50 --parameters 'resnet.*' --out prior.safetensors
# files by their names, of an encoder with the head of masked tokens
bayesgen prior import --mean mean.pt --variance variance.pt --deviations covmat.pt \\
    --rows undivided --model bert-base-uncased --task masked-lm --out prior.safetensors
# the state dict of a SWAG module of swa_gaussian, of a nanoGPT
bayesgen prior import --swag-state swag-300.pt --model ckpt.pt --task causal-lm \\
    --out prior.safetensors

The code of the published priors makes N(μ, λ diag(v) + λ² QᵀQ + ε I) of the first rows of Q: λ
stands on the factor where √λ belongs and SWAG's ½ is missing; here it is N(μ, λ ½ (diag(v) + QᵀQ)
+ ε I) of all rows.
""",
)
