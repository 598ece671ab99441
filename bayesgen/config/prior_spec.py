"""What the setting `prior` can be: a registry of priors, ours, other packages' and the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bayesgen.registry import Registry


@dataclass(frozen=True)
class PriorSpec:
    """A prior that can be named; `bayesgen.priors.base` says how one is added.

    Attributes:
        name: what the setting `prior` takes.
        summary: the density in a few words.
        build: makes it, a `bayesgen.priors.Prior`, of the settings (a `PriorSettings` whose λ is a
            number) and of the weights that it is for (a `bayesgen.priors.Weights`).
        uses: the settings among `PRIOR_SETTINGS` that change it; the others are refused beside it.
        scales: λ that `prior_scale=auto` tries, increasing by about the same factor; where there
            are none, λ must be a number.
        written_by: for a prior that is read from `prior_path`, what writes that file, in words;
            None for one that the settings make.
    """

    name: str
    summary: str
    build: Callable[[Any, Any], Any]
    uses: frozenset[str] = frozenset({"prior_std"})
    scales: tuple[float, ...] = ()
    written_by: str | None = None

    @property
    def learned(self) -> bool:
        """Whether the density is read from `prior_path`."""
        return self.written_by is not None


PRIOR_SETTINGS = {
    "prior_std": "",
    "prior_relative": "needs `prior=pretrained`",
    "prior_path": "needs `prior=swag`, laplace or pretrained",
    "prior_epsilon": "needs `prior=swag` or `prior=laplace`",
}
"""Settings that only some priors have, and what is said where another one is named."""

PRIORS: Registry[PriorSpec] = Registry(
    "prior",
    {
        "normal": "bayesgen.priors.built_in:NORMAL",
        "pretrained": "bayesgen.priors.built_in:PRETRAINED",
        "swag": "bayesgen.priors.built_in:SWAG",
        "laplace": "bayesgen.priors.built_in:LAPLACE",
    },
)
