"""bayesgen: a trained text model as a Bayesian posterior over its weights.

The public names load what they need when they are first used, so that `import bayesgen` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesgen.draws import Draws
    from bayesgen.models import FunctionalModel, load_model
    from bayesgen.predictive import Predictive

__all__ = ["Draws", "FunctionalModel", "Predictive", "load_model"]

_HOMES = {
    "FunctionalModel": "bayesgen.models",
    "load_model": "bayesgen.models",
    "Draws": "bayesgen.posterior",
    "Predictive": "bayesgen.predictive",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bayesgen' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
