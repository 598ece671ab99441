"""Time of a whole split's mixture NLL: bfloat16 arithmetic against a float32 loop over the draws.

Both run through the same evaluation, in turn in every round; the loop in its plainest form (a
forward pass, a gather, a logsumexp; no other score) stands beside them. |ΔNLL| is what bfloat16
costs. The limit is how much faster the processor multiplies matrices in bfloat16.

    python benchmarks/scoring.py RUN
    python benchmarks/scoring.py --size 10.65M --windows 128 --batch-size 16
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bayesgen.data.corpora import load_corpus
from bayesgen.data.windows import Windows
from bayesgen.draws import Draws
from bayesgen.evaluation.classes import score_mixture
from bayesgen.evaluation.walk import Split, draw_order
from bayesgen.models import FunctionalModel
from bayesgen.models.nanogpt import GPT, GPTConfig
from bayesgen.posterior import Posterior
from bayesgen.predictive import Forward, Precision, scoring_precision


def plain_loop(model: FunctionalModel, posterior: Draws, split: Split) -> float:
    """Mixture NLL by the plainest float32 loop."""
    forward = Forward(model)
    each = []
    for theta in posterior:
        forward.load(theta)
        own = []
        for batch in split.batches(split.indices):
            labels = batch["labels"]
            kept = labels != -100
            log_probs = forward.log_probs(batch)[kept]
            own.append(log_probs.gather(-1, labels[kept][:, None])[:, 0])
        each.append(torch.cat(own))
    return -float((torch.stack(each).double().logsumexp(0)).mean()) + float(
        torch.tensor(float(len(each))).log()
    )


def by_evaluation(
    model: FunctionalModel, posterior: Draws, split: Split, precision: Precision
) -> float:
    forward = Forward(model, precision)
    order = draw_order(len(posterior))
    nll: float = score_mixture(forward, split, posterior, order).said["bma"].tally.nll
    return nll


def product_rate(dtype: torch.dtype) -> float:
    """Multiplications a second of a linear layer's matrix product."""
    x, weight = torch.randn(4096, 384, dtype=dtype), torch.randn(1536, 384, dtype=dtype)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        times.append(time.perf_counter() - began)
    return 4096 * 384 * 1536 / min(times)


def random_posterior(draws: int) -> tuple[FunctionalModel, Draws]:
    """The 10.65 M network at its initial weights, with noise."""
    torch.manual_seed(0)
    model = FunctionalModel(GPT(GPTConfig(256, 128, 6, 6, 384, bias=False)), block_size=256)
    noise = 0.01 * torch.randn(draws, model.layout.size)
    return model, Draws.from_draws(model.theta + noise, model.layout)


def recorded(run: str, draws: int) -> tuple[FunctionalModel, Draws, Windows]:
    """A run's network and draws, and the windows of its validation text."""
    posterior = Posterior.load(run, device="cpu")
    record = posterior.info
    assert record is not None
    settings = record.settings
    corpus = load_corpus(
        settings["corpus"],
        tokenizer=posterior.model.tokenizer,
        data_dir=Path(settings["data_dir"]) if settings["data_dir"] else None,
    )
    windows = Windows.tiled(corpus.val, record.block_size, split="val")
    return posterior.model, posterior.thin(draws), windows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", nargs="?")
    parser.add_argument("--size", choices=["10.65M"], help="random weights instead of a RUN")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--windows", type=int, help="windows to score (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    if (options.run is None) == (options.size is None):
        parser.error("name a RUN, or --size")

    if options.run:
        model, posterior, windows = recorded(options.run, options.draws)
    else:
        model, posterior = random_posterior(options.draws)
        windows = Windows.tiled(load_corpus("python-docs").val, 256, split="val")
    split = Split.of(Forward(model), windows, options.batch_size, options.windows)
    fast = scoring_precision("bf16", model)
    ways: dict[str, Callable[[], float]] = {
        "plain float32 loop": lambda: plain_loop(model, posterior, split),
        "evaluation, float32": lambda: by_evaluation(model, posterior, split, "fp32"),
        f"evaluation, --eval-precision bf16 ({fast} here)": lambda: by_evaluation(
            model, posterior, split, fast
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            values[name] = way()
            times[name].append(time.perf_counter() - began)
    first = next(iter(ways))
    print(
        f"{model.layout.size:,} parameters, {len(posterior)} draws, {int(split.tokens.sum()):,}"
        f" tokens, {torch.get_num_threads()} threads, {options.rounds} rounds\n"
    )
    print("| way | seconds | speed against the first | NLL minus the first |")
    print("| --- | --- | --- | --- |")
    for name, seconds in times.items():
        ratios = [p / s for p, s in zip(times[first], seconds, strict=True)]
        print(
            f"| {name} | {statistics.median(seconds):.2f} | {statistics.median(ratios):.2f}"
            f" ({min(ratios):.2f} - {max(ratios):.2f}) | {values[name] - values[first]:+.1e} |"
        )
    limit = product_rate(torch.bfloat16) / product_rate(torch.float32)
    print(f"\nlimit: matrix products alone are {limit:.2f} times as fast in bfloat16")


if __name__ == "__main__":
    main()
