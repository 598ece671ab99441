"""Peak memory of a run against the number of draws, or of parameters.

Each row is a new process (or two) that calls `bayesgen.sample`, with its draws in a temporary
folder; its peak resident size is the operating system's own count. With --samplers a row is the
difference between networks of 7 and 30 million parameters, a few steps each, in float32 numbers for
each parameter: what a sampler's `floats` says.

    python benchmarks/memory.py --draws 10 100 1000
    python benchmarks/memory.py --samplers sgld sghmc baoa sgnht sglrw map ekf laplace vi swag
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import bayesgen
from bayesgen.config import ChainSettings, PerExampleSettings
from bayesgen.data.corpora import load_corpus
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS)
    options = parser.parse_args()

    if options.samplers:
        by_parameters(options.samplers)
    else:
        by_draws(options.draws)


def by_draws(counts: list[int]) -> None:
    print("| draws | peak memory, MiB | more than the first row, MiB |")
    print("| --- | --- | --- |")
    first = None
    for draws in counts:
        settings = {
            "sampling_steps": draws, "warmup_steps": 0, "thinning": 1, "eval": True,
            "eval_max_samples": 16,
        }  # fmt: skip
        _, peak = measure("sgld", GPTConfig(64, 1, 4, 4, 128, bias=False), settings)
        first = peak if first is None else first
        print(f"| {draws} | {peak:.1f} | {peak - first:+.1f} |", flush=True)


def by_parameters(samplers: list[str]) -> None:
    print("| sampler | float32 numbers for each parameter | of them for one example's gradient |")
    print("| --- | --- | --- |")
    for name in samplers:
        cls = SAMPLERS[name].settings
        settings: dict[str, Any] = {"warmup_steps": 2, "sampling_steps": 3, "thinning": 1}
        if issubclass(cls, ChainSettings):
            settings["preconditioner_batches"] = 2
        elif name == "swag":
            settings["covariance"] = "diag"  # each deviation comes on top
        else:
            settings = {"train_samples": 4}
        own = 0
        if issubclass(cls, PerExampleSettings):
            settings["jacobian_memory"], own = 460, 4
        (few, small), (many, large) = (
            measure(name, GPTConfig(64, 1, 6, 4, width, bias=False), settings, checkpoint_every=1)
            for width in (320, 640)
        )
        slope = (large - small) * 2**20 / 4 / (many - few)
        print(f"| {name} | {slope:.1f} | {own} |", flush=True)


def quietly(settings: dict[str, Any]) -> None:
    """`bayesgen.sample`, without what it prints."""
    with contextlib.redirect_stderr(io.StringIO()):
        bayesgen.sample(**settings)


def measure(
    sampler: str, config: GPTConfig, settings: dict[str, Any], checkpoint_every: int = 200
) -> tuple[int, float]:
    """Parameters and peak MiB of one run."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.pt"
        tokenizer = load_corpus("python-docs").tokenizer
        torch.manual_seed(0)
        network = GPT(replace(config, vocab_size=tokenizer.vocab_size))
        write_checkpoint(
            checkpoint, network, tokenizer, optimizer={}, iter_num=0, best_val_loss=0.0, config={}
        )
        run = Path(folder) / "run"
        settings = {
            "sampler": sampler, "model": checkpoint, "out": run, "batch_size": 1, "block_size": 8,
            "checkpoint_every": checkpoint_every, **settings,
        }  # fmt: skip
        if sampler != "laplace":
            settings["learning_rate"] = 1e-6
        with ProcessPoolExecutor(1, get_context("spawn")) as other:
            other.submit(quietly, settings).result()
        totals = json.loads((run / f"{sampler}_metrics.json").read_text())
        return sum(p.numel() for p in network.parameters()), float(totals["peak_memory_mib"])


if __name__ == "__main__":
    main()
