"""What a posterior predicts: the average of f(θ_s, ·) over the draws, and text from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bayesgen.config import check_ranges
from bayesgen.config.jobs import DecodingSettings
from bayesgen.draws import Draws
from bayesgen.likelihoods import Gaussian
from bayesgen.models.functional import Batch, FunctionalModel
from bayesgen.predictive import generation
from bayesgen.predictive.forward import Forward, Precision, scoring_precision
from bayesgen.predictive.generation import GeneratedText, Token
from bayesgen.predictive.mixture import GaussianMixture, mixture_of
from bayesgen.predictive.reading import Strategy

__all__ = ["Forward", "GeneratedText", "Precision", "Predictive", "Token", "scoring_precision"]


class Predictive:
    """A model with a posterior over its weights, as one predictive distribution.

    Args:
        model: the network, with the layout that the draws have.
        posterior: the draws.
        precision: of the network's arithmetic when it scores; probabilities are always float32.

    Example:
        >>> import torch, bayesgen
        >>> posterior = bayesgen.load("runs/x")
        >>> predictive = bayesgen.Predictive(posterior.model, posterior)
        >>> log_probs = predictive.log_probs({"input_ids": torch.tensor([[1, 2, 3]])})
        >>> torch.allclose(log_probs.exp().sum(-1), torch.ones(1, 3))
        True
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
        return mixture_of(self._each(self.forward.log_probs, batch))

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
        self, prompts: Sequence[str | Sequence[int]], strategy: Strategy = "auto", **settings: Any
    ) -> list[GeneratedText]:
        """One text for each of `prompts` (texts or token ids), in one batch; see `generate`."""
        *_, texts = self.stream(prompts, strategy, **settings)
        return texts

    def stream(
        self, prompts: Sequence[str | Sequence[int]], strategy: Strategy = "auto", **settings: Any
    ) -> Iterator[list[GeneratedText]]:
        """The texts of `generate_all` while they grow: the list after every token."""
        decoding = DecodingSettings(**settings)
        check_ranges(decoding)
        return generation.generate(self.model, self.posterior, prompts, decoding, strategy)
