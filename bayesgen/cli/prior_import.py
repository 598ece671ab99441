"""`bayesgen prior import`: a prior that another program learned, with the names that it lacks."""

from __future__ import annotations

from pathlib import Path

from bayesgen.cli.command import Command, Given, typed
from bayesgen.config import PriorImportSettings


def _run(given: Given[PriorImportSettings]) -> str:
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


COMMAND = Command(
    name="prior import",
    description="Make one prior file of those that another program left: --published PATH, or"
    " --mean, --variance and --deviations, or --swag-state, each with --model and --out. Nothing in"
    " them is executed.",
    settings=PriorImportSettings,
    run=_run,
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
