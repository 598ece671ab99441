"""A run's posterior as a folder that transformers loads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.posterior import open_posterior
from bayesgen.runs import Run
from bayesgen.workflow.inputs import some_draws


def export_run(
    name: str, out: str | None, num_draws: int | None = None, model: str | None = None
) -> Any:
    """Write the posterior of the run (or checkpoint) `name` to the folder `out`: network, draws,
    tokenizer and model card, all or nothing. Returns it, a `BayesianModel` of `bayesgen.export`.

    Args:
        num_draws: evenly spaced; all by default.
        model: the run's model, if it has moved.

    Raises:
        UserError: `out` is taken or cannot be written, there are fewer draws, transformers is
            missing, or has no class for the task.
    """
    if out is None:
        raise UserError("`out`: name the folder to write")
    target = Path(out)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"`out`: '{target}' already exists; name a folder that is empty or new")
    try:
        from bayesgen.export.gpt2 import as_gpt2
        from bayesgen.export.pretrained import bayesian_class
        from bayesgen.models.hf_interface import HuggingFaceTokenizer, quiet
    except ImportError as error:
        raise UserError("export needs transformers; pip install 'bayesgen[hf]'") from error

    source = open_posterior(name, model=model, device="cpu")
    if not source.model.task.can("export"):
        raise UserError(
            f"'{name}' is a run of {source.model.info.task}: causal language models and sequence"
            " classifiers can be exported"
        )
    network = source.model
    posterior: Draws = some_draws(source, num_draws)
    if network.info.family == "nanogpt":
        network, posterior = as_gpt2(network, posterior)
    evaluation = None if source.run is None else _newest_evaluation(source.run)
    made = bayesian_class(network.module).from_posterior(
        network, posterior, source.info, evaluation
    )
    try:
        parent = target.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=parent) as scratch:
            folder = Path(scratch) / "model"
            with quiet():
                made.save_pretrained(folder)
            if isinstance(network.tokenizer, HuggingFaceTokenizer):
                network.tokenizer.tokenizer.save_pretrained(folder)
            folder.replace(target)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"`out`: '{target}' cannot be written ({why})") from error
    return made


def _newest_evaluation(run: Run) -> dict[str, Any] | None:
    found = sorted(run.path.glob("bayesian_eval_*[0-9].json"))
    return run.read_json(found[-1].name) if found else None
