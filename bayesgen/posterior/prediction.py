"""What a posterior predicts of some inputs: the mixture over its draws, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesgen.data.examples import Examples
from bayesgen.data.labelled import Labelled
from bayesgen.errors import UserError
from bayesgen.likelihoods import Categorical, Gaussian
from bayesgen.predictive import Predictive
from bayesgen.predictive.mixture import GaussianMixture, entropy, log_mean
from bayesgen.predictive.reading import Reading

DEFAULT_LENGTH = 512
"""Tokens of the longest text where neither run nor model has a limit."""
ROWS = 64
"""Rows that go through the network at once."""

Inputs = str | Sequence[str] | Sequence[tuple[str, str]] | Mapping[str, Tensor]
"""A text, texts, pairs of texts, or a batch in the form that the network takes."""


@dataclass(frozen=True)
class ClassPrediction:
    """The mixture over the draws for labels that are classes or tokens; entropies are in nats.

    Attributes:
        log_probs: log of the mean of the draws' probabilities, [B, C].
        aleatoric: mean over the draws of the entropy of each draw's distribution, [B].
        classes: names of the C classes or tokens, where they have any.

    Example:
        >>> import torch
        >>> from bayesgen.posterior import ClassPrediction
        >>> log_probs = torch.tensor([[0.8, 0.2]]).log()
        >>> p = ClassPrediction(log_probs, torch.tensor([0.4]), ("no", "yes"))
        >>> p.labels, round(float(p.epistemic), 2)
        (['no'], 0.1)
    """

    log_probs: Tensor
    aleatoric: Tensor
    classes: Sequence[str] | None = field(default=None, repr=False)

    @property
    def probs(self) -> Tensor:
        """Probabilities of the mixture, [B, C]."""
        return self.log_probs.exp()

    @property
    def total(self) -> Tensor:
        """Entropy of the mixture, [B]: total = aleatoric + epistemic."""
        return entropy(self.probs)

    @property
    def epistemic(self) -> Tensor:
        """Mutual information of label and weights, [B], at least 0: how much the draws disagree
        (Depeweg et al. 2018, https://arxiv.org/abs/1710.07283)."""
        return (self.total - self.aleatoric).clamp(min=0)

    @property
    def labels(self) -> list[str]:
        """The most probable class of each of the B inputs, by name."""
        return [names[0] for names, _ in self.top(1)]

    def top(self, count: int) -> list[tuple[list[str], list[float]]]:
        """Names and probabilities of the `count` most probable classes of each of the B inputs."""
        best = self.probs.topk(min(count, self.probs.shape[-1]))
        names = [
            [str(i) if self.classes is None else self.classes[i] for i in ids]
            for ids in best.indices.tolist()
        ]
        return list(zip(names, best.values.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.log_probs)

    def __repr__(self) -> str:
        return (
            f"ClassPrediction({len(self)} inputs, {self.probs.shape[-1]} classes, mean entropy"
            f" {float(self.total.mean()):.3f} = {float(self.aleatoric.mean()):.3f} aleatoric +"
            f" {float(self.epistemic.mean()):.3f} epistemic nats)"
        )


@dataclass(frozen=True)
class NumberPrediction:
    """The mixture 1/S Σ_s N(f_s(x), σ²) over the draws for labels that are real numbers.

    Attributes:
        mixture: its densities and quantiles.

    Example:
        >>> import torch
        >>> from bayesgen.posterior import NumberPrediction
        >>> from bayesgen.predictive.mixture import GaussianMixture
        >>> p = NumberPrediction(GaussianMixture.of(torch.tensor([[1.0], [3.0]]), 0.5))
        >>> float(p.mean), float(p.aleatoric), float(p.epistemic)
        (2.0, 0.25, 1.0)
    """

    mixture: GaussianMixture

    @property
    def mean(self) -> Tensor:
        """E[y | x], [B], in units of the labels."""
        return self.mixture.mean

    @property
    def aleatoric(self) -> Tensor:
        """Variance of the noise, σ², [B], in squared units of the labels."""
        return self.mixture.aleatoric

    @property
    def epistemic(self) -> Tensor:
        """Variance of the draws' outputs, [B], in squared units of the labels."""
        return self.mixture.epistemic

    @property
    def total(self) -> Tensor:
        """Variance of the mixture, [B]: aleatoric + epistemic (the law of total variance)."""
        return self.aleatoric + self.epistemic

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Ends of the central interval that holds y with probability `level`, [B] each."""
        return self.mixture.interval(level)

    def __len__(self) -> int:
        return len(self.mixture.std)

    def __repr__(self) -> str:
        return (
            f"NumberPrediction({len(self)} inputs, mean sd {float(self.total.sqrt().mean()):.3g},"
            f" of which epistemic {float(self.epistemic.sqrt().mean()):.3g})"
        )


Prediction = ClassPrediction | NumberPrediction


def predict(predictive: Predictive, inputs: Inputs) -> Prediction:
    """The mixture for `inputs`; see `Posterior.predict`."""
    if isinstance(inputs, Mapping):
        return _predicted(predictive, [inputs])
    texts: list[Any] = [inputs] if isinstance(inputs, str) else list(inputs)
    if not texts:
        raise UserError("`inputs`: there is no text to predict; give one or more")
    if predictive.model.task.can("generate"):
        return _next_tokens(predictive, texts)
    return _predicted(predictive, _batches(predictive, texts))


def _predicted(predictive: Predictive, batches: Sequence[Mapping[str, Tensor]]) -> Prediction:
    likelihood, forward = predictive.model.likelihood, predictive.forward
    if not isinstance(likelihood, Categorical | Gaussian):
        raise UserError(
            f"under {type(likelihood).__name__}, a likelihood of your own, there is no prediction"
            " of labels: average what the network says over the draws, model(theta, batch)"
        )
    read = forward.outputs if isinstance(likelihood, Gaussian) else forward.log_probs
    inputs = [{k: v for k, v in batch.items() if k != "labels"} for batch in batches]
    found = []
    for theta in predictive.posterior:
        forward.load(theta)
        found.append(torch.cat([read(batch).cpu() for batch in inputs]))
    each = torch.stack(found)
    if isinstance(likelihood, Gaussian):
        return NumberPrediction(GaussianMixture.of(each.flatten(1), likelihood.std))
    info = predictive.posterior.info
    names: Any = info.data.classes if info else None
    if names is None:
        labels = predictive.model.info.config.get("id2label") or {}
        names = [labels[key] for key in sorted(labels, key=int)]
    return _mixed(each, tuple(map(str, names)) or None)


def _next_tokens(predictive: Predictive, texts: Sequence[str]) -> ClassPrediction:
    tokenizer = predictive.model.tokenizer
    if tokenizer is None:
        raise UserError(
            "`inputs`: this model has no tokenizer for texts; give a batch, a mapping of tensors"
        )
    encoded = [[int(i) for i in tokenizer.encode(text)] for text in texts]
    if not all(encoded):
        raise UserError("`inputs`: a text is empty; give at least one character")
    reading = Reading(predictive.model, predictive.posterior, encoded, 1, "plain")
    return _mixed(reading.log_probs().cpu(), _Tokens(tokenizer))


def _batches(predictive: Predictive, texts: Sequence[Any]) -> list[dict[str, Tensor]]:
    """`texts` in the model's tokens, cut where the run cut them."""
    model, info = predictive.model, predictive.posterior.info
    tokenizer: Any = getattr(model.tokenizer, "tokenizer", None)
    if tokenizer is None:
        raise UserError(f"'{model.info.name}' has no tokenizer for texts; give tensors")
    paired = not isinstance(texts[0], str)
    first, second = zip(*texts, strict=True) if paired else (tuple(texts), None)
    rows = Labelled("inputs", first, second, np.zeros(len(texts), dtype=np.int64), None)
    limit = (info.block_size if info else model.block_size) or DEFAULT_LENGTH
    examples = Examples(rows, tokenizer, limit, apart=model.task.compares)
    return [examples.batch(part.numpy()) for part in torch.arange(len(texts)).split(ROWS)]


class _Tokens(Sequence[str]):
    """The text of each token of a vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return int(self._tokenizer.vocab_size)

    def __getitem__(self, index: Any) -> Any:
        return self._tokenizer.decode([index])


def _mixed(each: Tensor, classes: Sequence[str] | None) -> ClassPrediction:
    """The mixture of log-probabilities [S, B, ..., C]."""
    return ClassPrediction(log_mean(each), entropy(each.exp()).mean(0), classes)
