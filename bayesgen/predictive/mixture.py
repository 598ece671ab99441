"""The predictive: the average of f(θ_s, ·) over the draws, in probability space.

    log p(y | x) = logsumexp_s log p(y | x, θ_s) − log S

Logits are never averaged, and the exponential of a mean log-likelihood is never called a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bayesgen import likelihoods
from bayesgen.models.functional import Batch, FunctionalModel
from bayesgen.posterior import Posterior
from bayesgen.predictive import generation
from bayesgen.predictive.generation import GeneratedText
from bayesgen.predictive.reading import Strategy
from bayesgen.settings import DecodingSettings, check_ranges

Precision = Literal["fp32", "bf16"]


class Forward:
    """A model whose weights are set by a vector: the cheap way through many draws in turn.

    Args:
        precision: of the network's arithmetic; probabilities are always float32.

    Raises:
        ValueError: the model's outputs are no logits of classes.
    """

    def __init__(self, model: FunctionalModel, precision: Precision = "fp32") -> None:
        if model.likelihood is not likelihoods:
            raise ValueError(f"a {model.info.task} model has no distribution over classes")
        self.precision = precision
        self._call = model.call
        # weights are rounded once a draw, not at every product
        self._flat = model.bind(torch.bfloat16 if precision == "bf16" else None)
        self.device = model.device

    def load(self, theta: Tensor) -> None:
        """Make `theta` [P] the weights from here on."""
        self._flat.theta.copy_(theta)

    @torch.no_grad()
    def log_probs(self, batch: Batch) -> Tensor:
        """log p(class | input) [..., V], float32, on the model's device: of a language model
        [B, T, V], of a classifier [B, V]."""
        inputs = {k: v.to(self.device) for k, v in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self._call(self._flat.module, inputs)
        return logits.float().log_softmax(-1)


class Predictive:
    """A model with a posterior over its weights, as one predictive distribution.

    Args:
        model: the network, with the layout that the draws have.
        posterior: the draws.
        precision: of the network's arithmetic when it scores; probabilities are always float32.
    """

    def __init__(
        self, model: FunctionalModel, posterior: Posterior, precision: Precision = "fp32"
    ) -> None:
        if model.layout != posterior.layout:
            raise ValueError(
                "the posterior's parameters are not the model's: load the model with the run's own"
                " --model and --parameters"
            )
        self.model = model
        self.posterior = posterior
        self.forward = Forward(model, precision)

    def log_probs(self, batch: Batch) -> Tensor:
        """log of the mixture's probabilities, [B, T, V], float32."""
        return mixture(self._each(batch), len(self.posterior))

    def _each(self, batch: Batch) -> Iterable[Tensor]:
        for theta in self.posterior:
            self.forward.load(theta)
            yield self.forward.log_probs(batch)

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
