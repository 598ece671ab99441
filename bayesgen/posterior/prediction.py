"""What a posterior predicts for some inputs: a mixture, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from bayesgen.predictive.gaussian import GaussianMixture
from bayesgen.predictive.mixture import entropy


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
        return [
            ([self._name(i) for i in ids], values)
            for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _name(self, index: int) -> str:
        return str(index) if self.classes is None else self.classes[index]

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
        >>> from bayesgen.predictive.gaussian import GaussianMixture
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
