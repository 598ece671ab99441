"""A model with other weights, in the form that it was loaded from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesgen.models import nanogpt
from bayesgen.models.functional import FunctionalModel
from bayesgen.models.hf_interface import HuggingFaceTokenizer, quiet


def save_model(model: FunctionalModel, theta: Tensor, path: Path) -> Path:
    """Write `model` with the weights `theta` [P]; what `load_model` takes.

    Args:
        path: a folder, which is replaced; of a nanoGPT checkpoint the file `path`.pt.

    Returns:
        The folder or file.
    """
    flat = model.bind()
    flat.theta.copy_(theta)
    if isinstance(flat.module, nanogpt.GPT):
        assert model.tokenizer is not None
        file = path.with_suffix(".pt")
        nanogpt.write_checkpoint(
            file, flat.module.cpu(), model.tokenizer,
            optimizer={}, iter_num=0, best_val_loss=0.0, config={},
        )  # fmt: skip
        return file
    staging = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    with quiet():
        network: Any = flat.module
        network.save_pretrained(staging)
        if isinstance(model.tokenizer, HuggingFaceTokenizer):
            model.tokenizer.tokenizer.save_pretrained(staging)
    shutil.rmtree(path, ignore_errors=True)
    staging.replace(path)
    return path
