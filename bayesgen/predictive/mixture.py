"""The predictive: the average of f(θ_s, ·) over the draws, in probability space.

    log p(y | x) = logsumexp_s log p(y | x, θ_s) − log S

Logits are never averaged, and the exponential of a mean log-likelihood is never called a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from bayesgen.models.functional import Batch, FunctionalModel
from bayesgen.posterior import Posterior


class Forward:
    """A model whose weights are set by a vector: the cheap way through many draws in turn."""

    def __init__(self, model: FunctionalModel) -> None:
        self._call = model.call
        self._flat = model.bind()
        self.device = model.device

    def load(self, theta: Tensor) -> None:
        """Make `theta` [P] the weights from here on."""
        self._flat.theta.copy_(theta)

    @torch.no_grad()
    def log_probs(self, batch: Batch) -> Tensor:
        """log p(token | context) [B, T, V], float32, on the model's device."""
        inputs = {k: v.to(self.device) for k, v in batch.items()}
        return self._call(self._flat.module, inputs).float().log_softmax(-1)


class Predictive:
    """A model with a posterior over its weights, as one predictive distribution.

    Args:
        model: the network, with the layout that the draws have.
        posterior: the draws.
    """

    def __init__(self, model: FunctionalModel, posterior: Posterior) -> None:
        if model.layout != posterior.layout:
            raise ValueError(
                "the posterior's parameters are not the model's: load the model with the run's own"
                " --model and --parameters"
            )
        self.model = model
        self.posterior = posterior
        self._forward = Forward(model)

    def log_probs(self, batch: Batch) -> Tensor:
        """log of the mixture's probabilities, [B, T, V], float32."""
        return mixture(self._each(batch), len(self.posterior))

    def _each(self, batch: Batch) -> Iterable[Tensor]:
        for theta in self.posterior:
            self._forward.load(theta)
            yield self._forward.log_probs(batch)

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 200,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> str:
        """Text that continues `prompt`, each token drawn from the mixture.

        `temperature` and `top_k` act on the mixture, not on the draws. The draws are held in memory
        meanwhile: thin the posterior where there are many.

        Raises:
            ValueError: the model has no tokenizer, or the prompt is empty.
        """
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            raise ValueError("this model has no tokenizer: it cannot read a prompt")
        tokens = [int(t) for t in tokenizer.encode(prompt)]
        if not tokens:
            raise ValueError("the prompt is empty")
        draws = [theta.to(self.model.device) for theta in self.posterior]
        generator = torch.Generator().manual_seed(seed)
        for _ in range(max_new_tokens):
            context = torch.tensor([tokens[-(self.model.block_size or len(tokens)) :]])
            log_probs = mixture(self._last(draws, context), len(draws)).cpu()
            tokens.append(_sample(log_probs[: tokenizer.vocab_size], temperature, top_k, generator))
        return tokenizer.decode(tokens)

    def _last(self, draws: list[Tensor], context: Tensor) -> Iterable[Tensor]:
        for theta in draws:
            self._forward.load(theta)
            yield self._forward.log_probs({"input_ids": context})[0, -1]


def mixture(log_probs: Iterable[Tensor], count: int) -> Tensor:
    """log of the mean of `count` probability tensors that come one at a time."""
    total: Tensor | None = None
    for term in log_probs:
        total = term if total is None else torch.logaddexp(total, term)
    if total is None:
        raise ValueError("a mixture needs at least one draw")
    return total - math.log(count)


def _sample(
    log_probs: Tensor, temperature: float, top_k: int | None, generator: torch.Generator
) -> int:
    if temperature == 0:
        return int(log_probs.argmax())
    scaled = log_probs / temperature
    if top_k is not None and top_k < len(scaled):
        scaled[scaled < scaled.topk(top_k).values[-1]] = -torch.inf
    return int(torch.multinomial(scaled.softmax(-1), 1, generator=generator))
