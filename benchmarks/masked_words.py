"""A gradient of a network for masked words: with all positions' words against the masked ones'.

The batches are the same, in turn in every round: in one every position has a label (-100 where it
is not masked), in the other only the masked ones are asked for. The limit is the encoder without
any word: the gradient of the sum of its states.

    python benchmarks/masked_words.py --model models/all-MiniLM-L6-v2
    python benchmarks/masked_words.py --model models/all-MiniLM-L6-v2 --parameters layers=-2:
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesgen.data.masked import MaskedBatches, MaskedWindows, Masking
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.models import FunctionalModel, load_model
from bayesgen.priors import normal

Step = Callable[[], Any]


def with_all(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with a label for each of its positions."""
    labels = torch.full_like(batch["input_ids"], -100)
    # where a window has fewer targets than others, its last places are -100 both before and after
    labels.scatter_(1, batch["targets"], batch["labels"])
    rest = {k: v for k, v in batch.items() if k not in ("targets", "labels")}
    return rest | {"labels": labels}


def gradient(model: FunctionalModel, batch: dict[str, Tensor], precision: Any) -> Step:
    target = LogPosterior(model, normal(model.layout.size, 1.0), 100_000, precision=precision)
    return lambda: target.log_likelihood_grad(model.theta, batch)


def encoder_alone(model: FunctionalModel, batch: dict[str, Tensor], precision: str) -> Step:
    encoder: Any = model.bind().module.base_model
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}

    def step() -> None:
        encoder.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            states = encoder(**inputs).last_hidden_state
        states.float().sum().backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of an encoder")
    parser.add_argument("--parameters", default="all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()

    model = load_model(options.model, task="masked-lm", parameters=options.parameters)
    tokenizer: Any = model.tokenizer
    masking = Masking.of(tokenizer.tokenizer, model.task)
    vocabulary = len(tokenizer.tokenizer)
    tokens = np.random.default_rng(0).integers(vocabulary // 2, vocabulary, 20_000)
    windows = MaskedWindows.tiled(tokens, options.block_size, masking)
    batch = MaskedBatches(windows, options.batch_size, seed=0).batch(0)
    steps = {
        "words of all positions": gradient(model, with_all(batch), options.precision),
        "of the masked ones": gradient(model, batch, options.precision),
        "limit: encoder alone": encoder_alone(model, batch, options.precision),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    first = times["words of all positions"]
    print(f"{options.model}, {options.parameters}, {options.precision}: ms, times faster")
    for name, own in times.items():
        ratios = [a / b for a, b in zip(first, own, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        median = 1000 * statistics.median(own)
        print(f"{name:<24}{median:8.0f}  {middle:.2f} ({low:.2f} - {high:.2f})")


if __name__ == "__main__":
    main()
