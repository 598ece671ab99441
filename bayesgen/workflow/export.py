"""A run's posterior as a folder that transformers loads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bayesgen.config.jobs import ExportSettings
from bayesgen.data.tokenizers import fast_tokenizer
from bayesgen.errors import UserError
from bayesgen.posterior import open_posterior
from bayesgen.runs import require_empty
from bayesgen.workflow.inputs import some_draws


def export_run(name: str, settings: ExportSettings) -> Any:
    """Write the posterior of the run (or checkpoint) `name` to the folder `out`: network, draws,
    tokenizer and model card, all or nothing. Returns it, a `BayesianModel` of `bayesgen.export`."""
    if settings.out is None:
        raise UserError("`out`: name the folder to write")
    target = Path(settings.out)
    require_empty(target)
    try:
        from bayesgen.export.pretrained import bayesian_class
        from bayesgen.models.hf_interface import HuggingFaceTokenizer
        from bayesgen.models.networks import save_pretrained
    except ImportError as error:
        raise UserError("export needs transformers; pip install 'bayesgen[hf]'") from error

    source = open_posterior(name, model=settings.model, device="cpu")
    network = source.model
    if not network.task.can("export"):
        raise UserError(
            f"'{name}' is a run of {network.info.task}: causal language models and sequence"
            " classifiers can be exported"
        )
    tokenizer: Any = network.tokenizer
    if isinstance(tokenizer, HuggingFaceTokenizer):
        tokenizer = tokenizer.tokenizer
    elif tokenizer is not None:
        tokenizer = fast_tokenizer(tokenizer)
        tokenizer.model_max_length = network.block_size
    evaluation = None if source.run is None else source.run.evaluation()
    made = bayesian_class(network.module).from_posterior(
        network, some_draws(source, settings.num_draws), source.info, evaluation
    )
    try:
        parent = target.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=parent) as scratch:
            folder = Path(scratch) / "model"
            save_pretrained(made, tokenizer, folder)
            folder.replace(target)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"`out`: '{target}' cannot be written ({why})") from error
    return made
