"""What a model does: the transformers class it is loaded by, and the density of its labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bayesgen import likelihoods
from bayesgen.likelihoods import Likelihood


@dataclass(frozen=True)
class Head:
    """The head of a sentence classifier; None is the model's own value, or that of a new head.

    Attributes:
        hidden_size: width of a layer between embedding and classes (0: none, as in a new head).
        activation: of that layer, tanh (that of a new head) or relu.
        dropout: on the embedding and on that layer while training (0.1 in a new head).
    """

    hidden_size: int | None = None
    activation: str | None = None
    dropout: float | None = None


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        auto_class: of transformers; of a sentence model, what loads its encoder, too.
        likelihood: log p(labels | outputs).
        new_head: whether a model may come without the head, which then starts at random.
        language: whether the labels are tokens of a text, and not labels that someone gave it.
        inputs: what the network is called with beside the batch.
    """

    auto_class: str
    likelihood: Likelihood = likelihoods
    new_head: bool = False
    language: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scored(self) -> bool:
        """Whether the labels are real numbers, and the model has one output."""
        return isinstance(self.likelihood, likelihoods.Gaussian)


TASKS: Mapping[str, Task] = {
    "causal-lm": Task("AutoModelForCausalLM", language=True, inputs={"use_cache": False}),
    "masked-lm": Task("AutoModelForMaskedLM", new_head=True, language=True),
    "permutation-lm": Task(
        "AutoModelForCausalLM", new_head=True, language=True, inputs={"use_mems": False}
    ),
    "seq2seq-lm": Task("AutoModelForSeq2SeqLM", language=True, inputs={"use_cache": False}),
    "sequence-classification": Task("AutoModelForSequenceClassification", new_head=True),
    "regression": Task("AutoModelForSequenceClassification", likelihoods.Gaussian(), new_head=True),
    "sentence-classification": Task("AutoModel", new_head=True),
    "sentence-similarity": Task("AutoModel", likelihoods.Gaussian()),
    "token-classification": Task("AutoModelForTokenClassification", new_head=True),
    "image-classification": Task("AutoModelForImageClassification", new_head=True),
}
