"""bayesgen: a trained model as a Bayesian posterior over its weights.

    import bayesgen

    model = bayesgen.load_model("checkpoints/baseline/models/baseline_model_2k.pt")
    posterior = bayesgen.sample(model, "python-docs", sampler="sghmc", out="runs/x")
    report = bayesgen.evaluate(posterior, splits=["val"])
    text = posterior.generate("The", max_new_tokens=200)

The public names load what they need when they are first used, so that `import bayesgen` is instant.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesgen.likelihoods import Categorical, Gaussian
    from bayesgen.models import FunctionalModel, load_model
    from bayesgen.posterior import Posterior
    from bayesgen.predictive import Predictive
    from bayesgen.priors.base import Prior
    from bayesgen.workflow.evaluate import Report, evaluate
    from bayesgen.workflow.sample import load, sample

_HOMES = {
    "Categorical": "bayesgen.likelihoods",
    "FunctionalModel": "bayesgen.models",
    "Gaussian": "bayesgen.likelihoods",
    "Posterior": "bayesgen.posterior",
    "Predictive": "bayesgen.predictive",
    "Prior": "bayesgen.priors.base",
    "Report": "bayesgen.workflow.evaluate",
    "evaluate": "bayesgen.workflow.evaluate",
    "load": "bayesgen.workflow.sample",
    "load_model": "bayesgen.models",
    "sample": "bayesgen.workflow.sample",
}

__all__ = [
    "Categorical", "FunctionalModel", "Gaussian", "Posterior", "Predictive", "Prior", "Report",
    "evaluate", "load", "load_model", "sample",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bayesgen")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if not name.startswith("_") and find_spec(f"bayesgen.{name}"):
        return import_module(f"bayesgen.{name}")
    raise AttributeError(f"module 'bayesgen' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
