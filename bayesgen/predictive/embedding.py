"""Embeddings of texts and similarities of pairs under every draw: how certain a similarity is.

An embedding is what `SentenceModel.embed` gives. The similarity of two texts is the score of a
model that was trained on scores, in the units of these, and else the cosine of their embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesgen.draws import Draws
from bayesgen.likelihoods import Gaussian
from bayesgen.models.functional import Batch, FunctionalModel
from bayesgen.predictive.mixture import GaussianMixture


@dataclass(frozen=True)
class EmbeddingSpread:
    """Embeddings of n texts over the draws."""

    mean: Tensor  # of each dimension, [n, H], float32
    sd: Tensor  # the same; 0 with one draw

    @property
    def relative_sd(self) -> Tensor:
        """√(trace of the covariance) / ‖mean‖ of each text, [n]."""
        lengths: Tensor = torch.linalg.vector_norm(torch.stack([self.sd, self.mean]), dim=2)
        return lengths[0] / lengths[1]

    @property
    def largest(self) -> Tensor:
        """The dimension with the largest sd, of each text, [n]."""
        return self.sd.argmax(1)


@dataclass(frozen=True)
class SimilaritySpread:
    """Similarities of m pairs over the draws."""

    deterministic: Tensor  # of the weights that the chain started from, [m], float32
    each: Tensor  # of every draw [S, m], float32
    noise_std: float | None  # σ of a score around it; None where the model gives no scores

    @property
    def mean(self) -> Tensor:
        """The posterior mean, [m]."""
        return self.each.mean(0)

    @property
    def sd(self) -> Tensor:
        """The epistemic standard deviation, [m]. With one draw it is 0."""
        return self.each.std(0, correction=0)

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """Central interval of the similarity: quantiles over the draws, [m] each."""
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2])
        low, high = torch.quantile(self.each, ends, dim=0)
        return low, high

    def predicted(self, level: float) -> tuple[Tensor, Tensor] | None:
        """Central interval of a score, its noise included: that of the mixture
        1/S Σ_s N(similarity_s, σ²), [m] each; None where the model gives no scores."""
        if self.noise_std is None:
            return None
        return GaussianMixture.of(self.each, self.noise_std).interval(level)


def embeddings(model: FunctionalModel, posterior: Draws, batch: Batch) -> Tensor:
    """Embeddings [S, B, H] of B texts under every draw, float32, on the CPU.

    Args:
        batch: what `SentenceModel.embed` takes, "input_ids" [B, T] among it.

    Raises:
        ValueError: the model has no embeddings.
    """
    return torch.stack(list(_embedded(model, posterior, [batch])))


def similarity(model: FunctionalModel, first: Tensor, second: Tensor) -> Tensor:
    """Similarity [...] of the embeddings `first` and `second`, [..., H] each, float32."""
    if model.labels != "number":
        return F.cosine_similarity(first.float(), second.float(), dim=-1)
    pairs = torch.stack([first, second], -2)
    with torch.no_grad():
        scores: Tensor = model.module(sentence_embedding=pairs.flatten(0, -3)).logits
    return scores.view(first.shape[:-1]).float()


def compare(
    model: FunctionalModel,
    posterior: Draws,
    batches: Sequence[Batch],
    pairs: Tensor,
    advance: Callable[[int], Any] = lambda texts: None,
) -> tuple[EmbeddingSpread, SimilaritySpread]:
    """The embeddings of the texts in `batches`, and the similarities of the texts at `pairs`
    [m, 2]; ValueError where the model has no embeddings.

    Every draw is loaded once, and memory does not grow with the draws but for a number a pair.
    """
    (start,) = _embedded(model, [model.theta], batches, advance)
    first, second = pairs.unbind(1)
    # sums of differences from the start: a mean square of embeddings would lose a small spread
    total, squares = torch.zeros_like(start).double(), torch.zeros_like(start).double()
    each = []
    for embedding in _embedded(model, posterior, batches, advance):
        difference = (embedding - start).double()
        total += difference
        squares += difference.square()
        each.append(similarity(model, embedding[first], embedding[second]))
    shift = total / len(each)
    variance = (squares / len(each) - shift.square()).clamp(min=0)
    deterministic = similarity(model, start[first], start[second])
    std = model.likelihood.std if isinstance(model.likelihood, Gaussian) else None
    spread = EmbeddingSpread((start + shift).float(), variance.sqrt().float())
    return spread, SimilaritySpread(deterministic, torch.stack(each), std)


@torch.no_grad()
def _embedded(
    model: FunctionalModel,
    draws: Iterable[Tensor],
    batches: Iterable[Batch],
    advance: Callable[[int], Any] = lambda texts: None,
) -> Iterator[Tensor]:
    """Embeddings [n, H] of all texts under one draw after the other, float32, on the CPU."""
    if not hasattr(model.module, "embed"):
        raise ValueError(f"a {model.info.task} model has no embeddings of texts")
    flat = model.bind()
    network: Any = flat.module
    for theta in draws:
        flat.theta.copy_(theta)
        found = []
        for batch in batches:
            inputs = {k: v.to(model.device) for k, v in batch.items() if k != "labels"}
            found.append(network.embed(**inputs).float().cpu())
            advance(len(found[-1]))
        yield torch.cat(found)
