"""Sentence models whose encoder stays as it is: their texts are embedded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bayesgen.data.embedded import Embedded, cache_folder
from bayesgen.data.examples import Examples
from bayesgen.models.functional import weights_sha256
from bayesgen.models.sentence import SentenceModel
from bayesgen.parameters import Layout

NAMES = {
    "_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type",
    "transformers_version",
}  # fmt: skip
"""What an encoder's configuration says beside what it computes."""


def frozen_encoder(module: nn.Module, moving: Layout | None = None) -> SentenceModel | None:
    """`module`, if it is a sentence model whose encoder stays as it is; else None.

    Args:
        moving: the parameters that move; by default those that require a gradient.
    """
    if not isinstance(module, SentenceModel):
        return None
    if moving is None:
        moves = any(p.requires_grad for p in module.encoder.parameters())
    else:
        moves = any(name.startswith(f"{module.base_model_prefix}.") for name in moving.names)
    return None if moves else module


def embedded(examples: Examples, module: SentenceModel, data_dir: Path | None) -> Embedded:
    """`examples` as embeddings of the encoder of `module`, float32, without dropout.

    Args:
        data_dir: where they are kept, if it can be written (see `cache_folder`).
    """

    def embed(batch: Mapping[str, Tensor]) -> Tensor:
        inputs = {k: v.to(module.device) for k, v in batch.items() if k != "labels"}
        with torch.no_grad():
            return module.embed(**inputs)

    return Embedded(examples, embed, encoder_sha256(module), cache_folder(data_dir))


def encoder_sha256(module: SentenceModel) -> str:
    """Hash of what the encoder of `module` computes: its weights and its configuration."""
    config = module.encoder.config.to_dict()
    settings = {key: value for key, value in config.items() if key not in NAMES}
    content = json.dumps(settings, sort_keys=True, default=str) + weights_sha256(module.encoder)
    return hashlib.sha256(content.encode()).hexdigest()
