"""What a prior predicts before any data: draws of weights on validation rows."""

from __future__ import annotations

import torch

from bayesgen.config import CheckPriorSettings, ScoringSettings
from bayesgen.errors import warn
from bayesgen.evaluation.prior_predictive import PriorPredictive, prior_predictive
from bayesgen.evaluation.walk import evenly_spaced
from bayesgen.priors.base import build_prior
from bayesgen.workflow.inputs import read_inputs
from bayesgen.workflow.job import weights_of
from bayesgen.workflow.loading import model_of
from bayesgen.workflow.preflight import prior_rows


def check_prior(settings: CheckPriorSettings) -> tuple[list[str], PriorPredictive]:
    """Draw weights from the prior of `settings`, and predict validation rows by them.

    Returns:
        What was drawn from and what was predicted, in lines; and the predictions.

    Raises:
        UserError: the model, the data or the prior cannot be read, or do not go together.
    """
    model = model_of(settings)
    inputs = read_inputs(model, settings)
    rows = inputs.material(ScoringSettings(eval_splits=("val",)), None).scored["val"]
    rows = rows.take(evenly_spaced(len(rows), settings.num_samples).numpy())
    prior = build_prior(settings, weights_of(model))
    torch.manual_seed(settings.seed)
    draws = torch.stack([prior.sample() for _ in range(settings.num_draws)])
    found = prior_predictive(model, draws, rows)
    if found.uniform is not None and not found.nll <= found.uniform:
        warn(
            f"the mixture is worse ({found.nll:.3f}) than knowing nothing ({found.uniform:.3f}):"
            " these weights are sure of what they cannot know; lower `prior_scale` (or"
            " `prior_std`), or `head_prior_std`"
        )
    size, data = model.layout.size, inputs.data["name"]
    lines = [
        f"prior: {prior.describe()}; the weights' own sd is {float(model.theta.std()):.3g}",
        f"of {size:,} parameters ({model.num_parameters - size:,} others stay)",
        *(f"{title}: {text}" for title, text in prior_rows(prior.record())),
        f"{len(draws)} draws on {rows.num_targets:,} labels of {data}'s validation",
    ]
    return lines, found
