"""What a command is pointed at: a run, or a checkpoint that stands for a posterior of one draw."""

from __future__ import annotations

from dataclasses import dataclass

from bayesgen.models import FunctionalModel
from bayesgen.posterior import Posterior, open_posterior
from bayesgen.runs import Run


@dataclass(frozen=True)
class Source:
    """A model and draws of its weights."""

    name: str
    model: FunctionalModel
    posterior: Posterior
    run: Run | None


def open_source(
    name: str, *, model: str | None = None, device: str = "auto", task: str = "causal-lm"
) -> Source:
    """See `open_posterior`."""
    posterior = open_posterior(name, model=model, device=device, task=task)
    return Source(name, posterior.model, posterior, posterior.run)
