"""What the head of a sentence classifier is to look like."""

from __future__ import annotations

from dataclasses import dataclass


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
