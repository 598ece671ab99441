"""What a model does: the transformers class it is loaded by, and the density of its labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bayesgen import likelihoods
from bayesgen.likelihoods import Likelihood


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        auto_class: of transformers.
        likelihood: log p(labels | outputs).
        new_head: whether a model may come without the head, which then starts at random.
        inputs: what the network is called with beside the batch.
    """

    auto_class: str
    likelihood: Likelihood = likelihoods
    new_head: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict)


TASKS: Mapping[str, Task] = {
    "causal-lm": Task("AutoModelForCausalLM", inputs={"use_cache": False}),
    "masked-lm": Task("AutoModelForMaskedLM"),
    "permutation-lm": Task("AutoModelForCausalLM", inputs={"use_mems": False}),
    "seq2seq-lm": Task("AutoModelForSeq2SeqLM", inputs={"use_cache": False}),
    "sequence-classification": Task("AutoModelForSequenceClassification", new_head=True),
    "regression": Task("AutoModelForSequenceClassification", likelihoods.Gaussian(), new_head=True),
    "token-classification": Task("AutoModelForTokenClassification", new_head=True),
    "image-classification": Task("AutoModelForImageClassification", new_head=True),
}
