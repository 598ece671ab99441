"""A posterior over a model's weights: draws with the model that they are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bayesgen.data.examples import Examples
from bayesgen.data.labelled import Labelled
from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.likelihoods import Gaussian
from bayesgen.models import FunctionalModel, load_model, resolve_device
from bayesgen.posterior.opening import model_of_run
from bayesgen.predictive import GeneratedText, Predictive
from bayesgen.predictive.mixture import GaussianMixture, entropy, log_mean
from bayesgen.predictive.reading import Reading
from bayesgen.runs import Run

DEFAULT_LENGTH = 512
"""Tokens of the longest text where neither run nor model has a limit."""
ROWS = 64
"""Rows that go through the network at once."""
TEXT_DRAWS = 10
"""Draws that text is generated with by default."""

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


class Posterior(Draws):
    """S draws of a model's parameters θ ∈ R^P, and the model.

    Draws stay on disk and the model is not loaded until they are asked for. `len(posterior)` is S,
    `posterior[s]` is θ_s [P].

    Attributes:
        layout: names, shapes and offsets of θ.
        info: the record of the run; None for draws that are of no run.
        run: the run that the draws are of, or None.

    Example:
        >>> import bayesgen
        >>> posterior = bayesgen.Posterior.load("runs/x")
        >>> len(posterior), posterior.info.sampler
        (2, 'sghmc')
        >>> p = posterior.predict(["the quick", "a "])
        >>> tuple(p.probs.shape) == (2, posterior.model.tokenizer.vocab_size)
        True
        >>> text = posterior.generate("the ", max_new_tokens=5)
        >>> len(text.tokens), str(text).startswith("the ")
        (5, True)
    """

    run: Run | None = None
    _model: FunctionalModel | Callable[[], FunctionalModel] | None = None
    _folder: Any = None  # a temporary one, which is there as long as its draws are

    @classmethod
    def load(
        cls,
        run_dir: str | Path,
        *,
        model: str | FunctionalModel | None = None,
        device: str = "auto",
    ) -> Self:
        """The posterior of a run: the draws of all chains, first to last.

        Args:
            model: where the run's model lies now, if not where it was; for a run of a network of
                one's own the FunctionalModel that it was made with.
            device: `cpu`, `cuda`, `mps` or `auto`.

        Raises:
            UserError: there is no run, it has no draws yet, or a file is damaged.
        """
        posterior = super().load(run_dir)
        run = posterior.run = Run(Path(run_dir))
        posterior._model = lambda: model_of_run(run, model, device)
        return posterior

    @classmethod
    def of(cls, model: FunctionalModel, draws: Tensor | None = None) -> Self:
        """A posterior of draws [S, P] in memory; by default the model's own weights, one draw."""
        theta = model.theta[None] if draws is None else draws
        posterior = cls.from_draws(theta, model.layout)
        posterior._model = model
        return posterior

    def __repr__(self) -> str:
        sampler = f"{self.info.sampler}, " if self.info else ""
        where = f", {str(self.run.path)!r}" if self.run else ""
        draws = f"{len(self)} draw{'' if len(self) == 1 else 's'}"
        return f"Posterior({sampler}{draws} of {self.layout.size:,} parameters{where})"

    @property
    def model(self) -> FunctionalModel:
        """The model that the chains started from.

        Raises UserError where it is not where it was, or is another one.
        """
        if self._model is None:
            raise UserError("these draws have no model: `model`: use Posterior.of(model, draws)")
        if not isinstance(self._model, FunctionalModel):
            self._model = self._model()
        return self._model

    @cached_property
    def predictive(self) -> Predictive:
        """The mixture over the draws, for batches of tensors."""
        return Predictive(self.model, self)

    def thin(self, count: int | None) -> Self:
        """At most `count` draws, evenly spaced, the last one among them; None keeps all."""
        thinned = super().thin(count)
        if thinned is not self:
            vars(thinned).pop("predictive", None)
        return thinned

    def predict(self, inputs: Inputs, *, draws: int | None = None) -> Prediction:
        """The mixture over the draws for some inputs, and how sure it is.

        Args:
            inputs: one or B texts, or pairs of texts (for a causal language model: texts whose next
                token is predicted); or a batch of tensors as the network takes it, B rows each.
            draws: how many draws to use, evenly spaced; all by default.

        Returns:
            `ClassPrediction` of classes or tokens, `NumberPrediction` of real-valued labels.

        Raises:
            UserError: the model has no tokenizer for texts, or predicts none.
        """
        posterior = self.thin(draws)
        if isinstance(inputs, Mapping):
            return posterior._predicted([inputs])
        texts: list[Any] = [inputs] if isinstance(inputs, str) else list(inputs)
        if not texts:
            raise UserError("`inputs`: there is no text to predict; give one or more")
        if self.model.task.can("generate"):
            return posterior._next_tokens(texts)
        return posterior._predicted(posterior._batches(texts))

    def generate(
        self, prompt: str, *, draws: int | None = TEXT_DRAWS, **settings: Any
    ) -> GeneratedText:
        """Text that continues `prompt`; `str()` of it is the whole, `.tokens` has each token's
        log-probability and entropies (nats).

        Args:
            draws: how many draws to use, evenly spaced; None takes all.
            settings: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `decode` ("mixture" or
                "per-draw"), `seed`, `strategy` (see `bayesgen.predictive.reading`).

        Raises:
            UserError: a setting is out of range, or the model is no causal language model.
        """
        posterior = self.thin(draws)
        try:
            return posterior.predictive.generate(prompt, **settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"the text cannot be generated: {error}") from error

    def _predicted(self, batches: Sequence[Mapping[str, Tensor]]) -> Prediction:
        likelihood, forward = self.model.likelihood, self.predictive.forward
        read = forward.outputs if isinstance(likelihood, Gaussian) else forward.log_probs
        inputs = [{k: v for k, v in batch.items() if k != "labels"} for batch in batches]
        found = []
        for theta in self:
            forward.load(theta)
            found.append(torch.cat([read(batch).cpu() for batch in inputs]))
        each = torch.stack(found)
        if isinstance(likelihood, Gaussian):
            return NumberPrediction(GaussianMixture.of(each.flatten(1), likelihood.std))
        return _mixed(each, self._classes())

    def _next_tokens(self, texts: Sequence[str]) -> ClassPrediction:
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            raise UserError("this model has no tokenizer: `inputs`: give a batch of token ids")
        encoded = [[int(i) for i in tokenizer.encode(text)] for text in texts]
        if not all(encoded):
            raise UserError("`inputs`: a text is empty; give at least one character")
        reading = Reading(self.model, self, encoded, 1, "plain")
        return _mixed(reading.log_probs().cpu(), _Tokens(tokenizer))

    def _batches(self, texts: Sequence[Any]) -> list[dict[str, Tensor]]:
        """`texts` in the model's tokens, cut where the run cut them."""
        tokenizer: Any = getattr(self.model.tokenizer, "tokenizer", None)
        if tokenizer is None:
            raise UserError(f"'{self.model.info.name}' has no tokenizer for texts; give tensors")
        paired = not isinstance(texts[0], str)
        first, second = zip(*texts, strict=True) if paired else (tuple(texts), None)
        rows = Labelled("inputs", first, second, np.zeros(len(texts), dtype=np.int64), None)
        limit = self.info.block_size if self.info else self.model.block_size
        longest = DEFAULT_LENGTH if limit is None else limit
        examples = Examples(rows, tokenizer, longest, apart=self.model.task.compares)
        return [examples.batch(part.numpy()) for part in torch.arange(len(texts)).split(ROWS)]

    def _classes(self) -> tuple[str, ...] | None:
        named: Any = self.info.data.classes if self.info else None
        if named is None:
            labels = self.model.info.config.get("id2label") or {}
            named = [labels[key] for key in sorted(labels, key=int)]
        return tuple(map(str, named)) or None


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


def open_posterior(
    name: str, *, model: str | None = None, device: str = "auto", task: str = "causal-lm"
) -> Posterior:
    """Open a run's folder, or a checkpoint, which stands for a posterior of one draw.

    Args:
        model: where a run's model lies now, if not where it was.
        task: of a checkpoint; a run knows its own.

    Raises:
        UserError: neither a run nor a model is there, or the model is not the run's.
    """
    if (Path(name) / "run.json").is_file():
        posterior = Posterior.load(name, model=model, device=device)
        _ = posterior.model  # now, and not when something was computed already
        return posterior
    if not Path(name).exists():
        raise UserError(f"'{name}' is not there; name a run's folder or a model's")
    if model is not None:
        raise UserError(f"`model` goes with a run, and '{name}' is none")
    return Posterior.of(load_model(name, task=task, device=str(resolve_device(device))))
