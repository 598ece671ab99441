"""A network under one set of weights after the other."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bayesgen.likelihoods import IGNORED, Categorical
from bayesgen.models.functional import Batch, FunctionalModel
from bayesgen.predictive.trunk import Trunk, find_trunk

Precision = Literal["fp32", "bf16"]


class Forward:
    """A model whose weights are set by a vector: the cheap way through many draws in turn.

    Args:
        precision: of the network's arithmetic; outputs and probabilities are always float32.
    """

    def __init__(self, model: FunctionalModel, precision: Precision = "fp32") -> None:
        self.precision = precision
        self._no_classes = (
            None
            if isinstance(model.likelihood, Categorical)
            else f"a {model.info.task} model has no distribution over classes"
        )
        self._call = model.call
        # weights are rounded once a draw, not at every product
        self._flat = model.bind(torch.bfloat16 if precision == "bf16" else None)
        self.device = model.device

    def load(self, theta: Tensor) -> None:
        """Make `theta` [P] the weights from here on."""
        self._flat.theta.copy_(theta)

    def trunk(self, batch: Batch) -> Trunk | None:
        """What the passes of all θ over a batch like this have in common, or None."""
        return find_trunk(self._flat, lambda: self.outputs(batch))

    @torch.no_grad()
    def outputs(self, batch: Batch) -> Tensor:
        """What the network puts out, float32, on the model's device: logits [..., V] of classes,
        or means [B, 1] of real-valued labels."""
        inputs = {k: v.to(self.device) for k, v in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._call(self._flat.module, inputs).float()

    def log_probs(self, batch: Batch) -> Tensor:
        """log p(class | input) [..., V], float32, on the model's device: of a language model
        [B, T, V], of a classifier [B, V].

        Raises:
            ValueError: the model's labels are no classes.
        """
        return self._logits(batch).log_softmax(-1)

    def target_log_probs(self, batch: Batch) -> Tensor:
        """The same of the n labels that are observations alone [n, V], in their order: of masked
        tokens a few of all that the network reads.

        Raises:
            ValueError: the model's labels are no classes.
        """
        logits = self._logits(batch)
        scored = (batch["labels"] != IGNORED).to(self.device)
        chosen = logits.flatten(0, -2) if bool(scored.all()) else logits[scored]
        return chosen.log_softmax(-1)

    def _logits(self, batch: Batch) -> Tensor:
        if self._no_classes:
            raise ValueError(self._no_classes)
        return self.outputs(batch)


def scoring_precision(wanted: Precision, model: FunctionalModel) -> Precision:
    """`wanted`, but float32 where the processor has no bfloat16 of its own and would be slower."""
    if wanted == "bf16" and model.device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if wanted == "bf16" and model.device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if native else "fp32"
    return wanted
