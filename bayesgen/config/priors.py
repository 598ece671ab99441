"""Settings of the commands that make and explain learned priors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from bayesgen.config.fields import Names
from bayesgen.tasks import TASKS


@dataclass(frozen=True)
class PriorShowSettings:
    json: Annotated[bool, "print one JSON document"] = False


@dataclass(frozen=True)
class PriorImportSettings:
    published: Annotated[
        str | None,
        "folder with *_mean.pt, *_variance.pt and *_covmat.pt (and *_model.pt), or their path up to"
        " the _: the same as the next four flags",
    ] = None
    mean: Annotated[str | None, "file of the means, a tensor [P]"] = None
    variance: Annotated[str | None, "file of the variances, a tensor [P]"] = None
    deviations: Annotated[str | None, "file of the deviations, a tensor [K, P]"] = None
    model_file: Annotated[
        str | None,
        "state dict of the network that the prior was learned from: its shapes must be the model's",
    ] = None
    rows: Annotated[
        Literal["divided", "undivided"] | None,
        "whether the deviations are divided by √(K − 1) already; needed of 3 and more",
    ] = None
    order: Annotated[
        Literal["module", "torchvision"] | None,
        "order of the parameters in the files, where the model is a ResNet and no `model_file`"
        " shows it",
    ] = None
    swag_state: Annotated[
        str | None, "state dict of a SWAG module (swa_gaussian), in the place of all these"
    ] = None
    model: Annotated[
        str | None, "folder or name of the Hugging Face model, or nanoGPT checkpoint: gives names"
    ] = None
    task: Annotated[str, Names(partial(tuple, TASKS)), "what the model does"] = (
        "image-classification"
    )
    parameters: Annotated[
        str,
        "which of the model's parameters the files hold: all, or shell patterns over their names"
        " with commas between, such as 'resnet.*'",
    ] = "all"
    out: Annotated[str | None, "file to write (.safetensors)"] = None
