"""The predictive: the average of f(θ_s, ·) over the draws, in probability space.

    log p(y | x) = logsumexp_s log p(y | x, θ_s) − log S

Logits are never averaged, and the exponential of a mean log-likelihood is never called a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bayesgen.config import DecodingSettings, check_ranges
from bayesgen.draws import Draws
from bayesgen.likelihoods import IGNORED, Categorical, Gaussian
from bayesgen.models.functional import Batch, FunctionalModel
from bayesgen.predictive import generation
from bayesgen.predictive.gaussian import GaussianMixture
from bayesgen.predictive.generation import GeneratedText
from bayesgen.predictive.reading import Strategy
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


class Predictive:
    """A model with a posterior over its weights, as one predictive distribution.

    Args:
        model: the network, with the layout that the draws have.
        posterior: the draws.
        precision: of the network's arithmetic when it scores; probabilities are always float32.
    """

    def __init__(
        self, model: FunctionalModel, posterior: Draws, precision: Precision = "fp32"
    ) -> None:
        if model.layout != posterior.layout:
            raise ValueError(
                "the posterior's parameters are not the model's: load the model with the run's own"
                " `model` and `parameters`"
            )
        self.model = model
        self.posterior = posterior
        self.forward = Forward(model, precision)

    def log_probs(self, batch: Batch) -> Tensor:
        """log of the mixture's probabilities, [B, T, V], float32.

        Raises:
            ValueError: the model's labels are no classes.
        """
        return mixture(self._each(self.forward.log_probs, batch), len(self.posterior))

    def distribution(self, batch: Batch) -> GaussianMixture:
        """The mixture for B real-valued labels, in their units.

        Raises:
            ValueError: the model's labels are no real numbers.
        """
        if not isinstance(self.model.likelihood, Gaussian):
            raise ValueError(f"the labels of a {self.model.info.task} model are no real numbers")
        outputs = [f.flatten().cpu() for f in self._each(self.forward.outputs, batch)]
        return GaussianMixture.of(torch.stack(outputs), self.model.likelihood.std)

    def _each(self, read: Callable[[Batch], Tensor], batch: Batch) -> Iterator[Tensor]:
        for theta in self.posterior:
            self.forward.load(theta)
            yield read(batch)

    def generate(self, prompt: str, strategy: Strategy = "auto", **settings: Any) -> GeneratedText:
        """Text that continues `prompt`; `str()` of it is the whole.

        Args:
            strategy: how the draws read (see `bayesgen.predictive.reading`).
            settings: fields of `DecodingSettings`: `max_new_tokens`, `temperature`, `top_k`,
                `top_p`, `decode`, `seed`.

        Raises:
            ValueError: the model has no tokenizer, or the prompt is empty.
        """
        return self.generate_all([prompt], strategy, **settings)[0]

    def generate_all(
        self,
        prompts: Sequence[str | Sequence[int]],
        strategy: Strategy = "auto",
        **settings: Any,
    ) -> list[GeneratedText]:
        """One text for each of `prompts` (texts or token ids), in one batch; see `generate`."""
        *_, texts = self.stream(prompts, strategy, **settings)
        return texts

    def stream(
        self,
        prompts: Sequence[str | Sequence[int]],
        strategy: Strategy = "auto",
        **settings: Any,
    ) -> Iterator[list[GeneratedText]]:
        """The texts of `generate_all` while they grow: the list after every token."""
        decoding = DecodingSettings(**settings)
        check_ranges(decoding)
        return generation.generate(self.model, self.posterior, prompts, decoding, strategy)


def scoring_precision(wanted: Precision, model: FunctionalModel) -> Precision:
    """`wanted`, but float32 where the processor has no bfloat16 of its own and would be slower."""
    if wanted == "bf16" and model.device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if wanted == "bf16" and model.device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if native else "fp32"
    return wanted


def mixture(log_probs: Iterable[Tensor], count: int) -> Tensor:
    """log of the mean of `count` probability tensors that come one at a time."""
    total: Tensor | None = None
    for term in log_probs:
        total = term if total is None else torch.logaddexp(total, term)
    if total is None:
        raise ValueError("a mixture needs at least one draw")
    return total - math.log(count)
