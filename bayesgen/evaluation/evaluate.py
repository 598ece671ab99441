"""Score a split: every observation once, by five predictors side by side.

- `deterministic`: the weights that the chain started from;
- `temperature_scaled`: the same with one temperature, fitted on held-in data: it divides the logits
  of classes and multiplies the variance of real-valued labels;
- `posterior_mean`: the mean of the draws' weights;
- `mean_of_draws`: the average of the draws' own scores (perplexity: exp of the mean NLL);
- `bma`: the mixture over the draws, the Bayesian model average.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.evaluation import classes, numbers
from bayesgen.evaluation.cache import TokenCache
from bayesgen.evaluation.classes import Each, Scored
from bayesgen.evaluation.metrics import ONE_WINDOW, Passes, measured, paired_difference
from bayesgen.evaluation.selective import selective
from bayesgen.evaluation.walk import Split, draw_order, progress_bar
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Forward, Predictive

PREDICTORS = ("deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma")
NO_TEMPERATURE = "a likelihood of its own has no temperature to fit"


def run_passes(
    predictive: Predictive,
    windows: Rows,
    held_in: Rows,
    *,
    batch_size: int = 64,
    max_windows: int | None = None,
    cache: TokenCache | None = None,
    progress: str | None = None,
) -> tuple[Passes, Split]:
    """What the checkpoint and all draws say of `windows`, whatever their labels are.

    Args:
        held_in: training text or validation rows, to fit a temperature on.
        max_windows: read this many rows, evenly spaced, instead of all.
        cache: where what the networks said is kept and looked for.
        progress: title of a progress bar, or None for none.
    """
    model, posterior, forward = predictive.model, predictive.posterior, predictive.forward
    split = Split.of(forward, windows, batch_size, max_windows)
    key = "" if cache is None else cache.key(split, held_in, predictive)
    if not split.of_classes:
        read = partial(numbers.read_numbers, predictive, split, held_in, progress)
        found = read() if cache is None else cache.tensors(f"{key}.outputs", read)
        return numbers.passes_of_numbers(model.likelihood, split, found), split

    def make(each: Each = lambda draw, first, scores: None) -> Passes:
        forward.load(model.theta)
        fitting = _fitting(forward, split)
        total = (len(posterior) + 3) * len(split.indices)
        with progress_bar(progress, total, split.unit) as advance:
            taus = classes.temperatures(forward, fitting, held_in)
            alone = {
                "deterministic": (model.theta, None),
                "temperature_scaled": (model.theta, taus),
                "posterior_mean": (posterior.mean().to(model.device), None),
            }
            said = classes.score_weights(forward, fitting, alone, advance)
            order = draw_order(len(posterior))
            mixed = classes.score_mixture(forward, fitting, posterior, order, advance, each)
        return replace(mixed, temperature=float(taus.mean()), said=said | mixed.said)

    if cache is None:
        return make(), split
    return cache.passes(key, len(posterior), split.tokens_back, make), split


def score_checkpoint(model: FunctionalModel, windows: Rows, *, batch_size: int = 64) -> Scored:
    """A model's own weights on `windows` of tokens or classes: what `deterministic` is for a chain
    that starts there."""
    forward = Forward(model)
    forward.load(model.theta)
    split = _fitting(forward, Split.of(forward, windows, batch_size))
    return classes.score_weights(forward, split, {"": (model.theta, None)})[""]


def _fitting(forward: Forward, split: Split) -> Split:
    """`split` in batches of as many rows as may be read at once, by what the network says of all
    its positions, or of those that are asked for: at least one."""
    first = forward.log_probs(split.windows.batch(torch.arange(1)))
    one = max(first.numel(), first.shape[-1] * int(split.tokens.max()))
    return replace(split, batch_size=min(split.batch_size, max(1, classes.MAX_ELEMENTS // one)))


@dataclass(frozen=True)
class SplitReport:
    """The scores of one split."""

    content: dict[str, Any]  # the split's part of an evaluation file, plain data
    window_nll: dict[str, Tensor]  # predictor -> summed NLL of each row [W], float64, in nats
    window_tokens: Tensor  # observations in each row [W]
    key: str  # of the passes in the cache


def evaluate_split(
    predictive: Predictive, windows: Rows, held_in: Rows, **options: Any
) -> SplitReport:
    """Score all five predictors on `windows`: arguments and errors are those of `run_passes`.

    Under a likelihood of the user's own there is the NLL alone, and no `temperature_scaled`.
    """
    cache: TokenCache | None = options.get("cache")
    passes, split = run_passes(predictive, windows, held_in, **options)
    key = "" if cache is None else cache.key(split, held_in, predictive)
    values = {name: measured(said, split) for name, said in passes.said.items()}
    values["mean_of_draws"] = passes.draws
    values.setdefault("temperature_scaled", {"nll": None, "no_nll": NO_TEMPERATURE})
    nll = {name: said.window_nll for name, said in passes.said.items()}
    nll["mean_of_draws"] = passes.draws_window_nll
    nll = {name: nll[name] for name in PREDICTORS if name in nll}
    few = ONE_WINDOW if len(split.tokens) < 2 else None
    # macro-F1 has always had a place of its own in the file
    macro_f1 = {k: values[k].pop("macro_f1") for k in PREDICTORS if "macro_f1" in values[k]}
    content: dict[str, Any] = {
        "num_tokens": int(split.tokens.sum()),
        "num_draws": len(predictive.posterior),
        "num_windows": len(split.tokens),
        "fitted_temperature": passes.temperature,
        "predictors": {name: values[name] for name in PREDICTORS},
        "by_num_draws": [{"draws": k, **own} for k, own in sorted(passes.by_draws.items())],
        "bma_minus": {
            name: {**vars(paired_difference(nll["bma"], own, split.tokens)), "no_interval": few}
            for name, own in nll.items()
            if name != "bma"
        },
    }
    if split.of_classes:
        ranked = partial(selective, passes, split, options.get("progress"))
        kept = ranked() if cache is None else cache.plain(f"{key}.selective", ranked)
        assert passes.aleatoric is not None
        total, aleatoric = passes.said["bma"].tally.mean_entropy, float(passes.aleatoric.mean())
        content |= {
            "selective": kept,
            "reliability": {name: own.tally.reliability() for name, own in passes.said.items()},
            # means over the observations, in nats
            "entropy": {"total": total, "aleatoric": aleatoric, "epistemic": total - aleatoric},
        }
    elif split.kind == "number":
        content |= numbers.scores_of_numbers(predictive.model.likelihood, passes, few)
    content |= {"macro_f1": macro_f1} if macro_f1 else {}
    return SplitReport(content, nll, split.tokens, key)
