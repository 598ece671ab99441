"""Tokens per second of text from a posterior, against forwarding the whole context every time.

One text is grown from a prompt with all draws. In every round each strategy takes its turn, and
the ratio is taken within the round, so that a drifting machine drifts for all. The plain way is
timed at every n-th token only (`--stride`) and stands for those between. The floor is the time in
which the draws' weights can be read once: no step can be faster.

    python benchmarks/generation.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from bayesgen.draws import Draws
from bayesgen.models import FunctionalModel
from bayesgen.models.nanogpt import GPT, GPTConfig, GPTReader
from bayesgen.predictive.reading import Reading, Strategy

SIZES = {
    "0.8M": GPTConfig(64, 65, 4, 4, 128, bias=False),
    "10.65M": GPTConfig(256, 65, 6, 6, 384, bias=False),
}


def seconds_per_text(
    model: FunctionalModel,
    posterior: Draws,
    strategy: Strategy,
    prompt: int,
    new: int,
    stride: int = 1,
) -> float:
    """Time for `new` tokens after a prompt of `prompt`, of which every `stride`-th is measured."""
    reading = Reading(model, posterior, [[1] * prompt], new, strategy)
    total = 0.0
    for step in range(new):
        if step % stride == 0:
            began = time.perf_counter()
            reading.log_probs()
            total += (time.perf_counter() - began) * min(stride, new - step)
        reading.append(torch.tensor([step % 60]))
    return total


def bandwidth_floor(posterior: Draws) -> float:
    """Seconds in which the weights of all draws are read once."""
    draws = torch.stack(list(posterior))
    times = []
    for _ in range(10):
        began = time.perf_counter()
        draws.sum()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="10.65M")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, help="tokens (default: to the end of the block)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    config = SIZES[options.size]
    new = options.new or config.block_size - options.prompt
    torch.manual_seed(0)
    model = FunctionalModel(GPT(config), block_size=config.block_size, reader=GPTReader(config))
    model.to(options.device)
    noise = 0.01 * torch.randn(options.draws, model.layout.size)
    posterior = Draws.from_draws(model.theta.cpu() + noise, model.layout)
    strategies: dict[Strategy, int] = {"stacked": 1, "cached": 1, "plain": options.stride}
    times: dict[Strategy, list[float]] = {name: [] for name in strategies}
    for _ in range(options.rounds):
        for name, stride in strategies.items():
            arguments = (model, posterior, name, options.prompt, new, stride)
            times[name].append(seconds_per_text(*arguments))
    print(
        f"{model.layout.size:,} parameters, {options.draws} draws, {options.prompt} + {new} tokens,"
        f" {torch.get_num_threads()} threads, {options.rounds} rounds\n"
    )
    print("| strategy | ms a token | tokens a second | times the plain way |")
    print("| --- | --- | --- | --- |")
    for name, seconds in times.items():
        ratios = [p / s for p, s in zip(times["plain"], seconds, strict=True)]
        middle = statistics.median(seconds)
        print(
            f"| {name} | {1000 * middle / new:.1f} | {new / middle:.1f} |"
            f" {statistics.median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f}) |"
        )
    if options.device == "cpu":
        floor = bandwidth_floor(posterior)
        size = 4 * options.draws * model.layout.size
        print(
            f"\nfloor: {1000 * floor:.1f} ms to read the draws once"
            f" ({size / 1e6:.0f} MB at {size / floor / 1e9:.1f} GB/s)"
        )


if __name__ == "__main__":
    main()
