"""Defaults where the data are labelled, of chains and of what follows an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayesgen.config.shared import LABELS, LEARNED_PRIORS

LABELLED: Mapping[str, Mapping[str, Any]] = {
    "sgld": {"learning_rate": 0.9},
    "sghmc": {"learning_rate": 0.5},
    "baoa": {"learning_rate": 0.5},
    "sgnht": {"learning_rate": 0.5},
    "sglrw": {"learning_rate": 0.36},
}
"""What takes the place of a chain's step size where the data are labelled."""

LABELLED_CHAIN: Mapping[str, Any] = {
    "prior": "pretrained", "prior_std": 0.05, "temperature": 0.5, "batch_size": 32,
    "warmup_steps": 100, "sampling_steps": 480, "thinning": 40, "gradient_clip": 10.0,
    "preconditioner_damping": 1.0,
}  # fmt: skip
"""The same, of all chains: presets for a fine-tuned encoder, whose N is thousands of examples and
not millions of tokens, and which fits most of them so well that a few make all of the gradient.
A prior around its weights keeps the chain from fitting these examples further and further."""

LABELLED_PATH: Mapping[str, Mapping[str, Any]] = {
    "map": {"epochs": 3.0},
    "swag": {
        "warmup_steps": 120,
        "sampling_steps": 120,
        "thinning": 6,
        "ramp_fraction": 0.1,
        "num_draws": 10,
    },
}
"""What follows an optimizer's path, and what takes the place of its length and of the draws."""
LABELLED_OPTIMIZER: Mapping[str, Any] = {
    "prior": "pretrained", "prior_std": 0.05, "learning_rate": 2e-4, "batch_size": 8,
}  # fmt: skip
"""The same, of both: the middle one of the step sizes that results/transfer.md chooses among."""

SCORED_STEP = 0.2
"""Step sizes where labels are real numbers, as a fraction of those for classes."""

LEARNED_TEMPERATURE = 0.01
"""Of all chains under a prior that another task taught, where the head is new: T = 0.5 would keep a
chain near chance (results/transfer.md: 0.01 is best or near it with 10 and 100 labels)."""
LEARNED_STEP = 2.0
"""Step sizes there, as a multiple of those for a fine-tune: SGHMC's in results/transfer.md, the
others in proportion. They are for tens to hundreds of labels; with 1,000 they are too long."""


def labelled_defaults(
    sampler: str, task: str, prior: str | None = None, init_from: str | None = None
) -> dict[str, Any]:
    """Defaults that stand in the place of a sampler's own; none for a language model.

    Args:
        prior, init_from: the settings of these names, where they are chosen.
    """
    if task not in LABELS or sampler not in {*LABELLED, *LABELLED_PATH}:
        return {}
    last = "layers=-2:" if task == "sentence-similarity" else "layers=-2:,head"
    if sampler in LABELLED_PATH:
        return {**LABELLED_OPTIMIZER, **LABELLED_PATH[sampler], "parameters": last}
    chosen = {**LABELLED_CHAIN, **LABELLED[sampler], "parameters": last}
    if LABELS[task] == "score":
        # a Gaussian with little noise is far sharper than a softmax
        step = SCORED_STEP * chosen["learning_rate"]
        chosen |= {"learning_rate": step, "temperature": 0.01}
    elif prior in LEARNED_PRIORS and init_from is None:
        step = LEARNED_STEP * chosen["learning_rate"]
        chosen |= {"learning_rate": step, "temperature": LEARNED_TEMPERATURE}
    return chosen
