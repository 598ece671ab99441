"""Peak memory of a run against the number of draws, or of parameters.

Each row is a fresh process (or two) with its draws on disk in a temporary folder; its peak resident
size is the operating system's own count. With --samplers a row is the difference between networks
of 7 and 30 million parameters, a few steps each, in float32 numbers for each parameter: what
a sampler's `floats` says.

    python benchmarks/memory.py --draws 10 100 1000
    python benchmarks/memory.py --samplers sgld sghmc baoa sgnht sglrw map ekf laplace vi swag
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

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
        flags = f"--sampling-steps {draws} --warmup-steps 0 --thinning 1 --eval"
        _, peak = measure("sgld", GPTConfig(64, 1, 4, 4, 128, bias=False), flags)
        first = peak if first is None else first
        print(f"| {draws} | {peak:.1f} | {peak - first:+.1f} |", flush=True)


def by_parameters(samplers: list[str]) -> None:
    print("| sampler | float32 numbers for each parameter | of them for one example's gradient |")
    print("| --- | --- | --- |")
    for name in samplers:
        cls = SAMPLERS[name].settings
        flags = "--warmup-steps 2 --sampling-steps 3 --thinning 1"
        if issubclass(cls, ChainSettings):
            flags += " --preconditioner-batches 2"
        elif name == "swag":
            flags += " --covariance diag"  # each deviation comes on top
        else:
            flags = "--train-samples 4"
        own = 0
        if issubclass(cls, PerExampleSettings):
            flags, own = flags + " --jacobian-memory 460", 4
        (few, small), (many, large) = (
            measure(name, GPTConfig(64, 1, 6, 4, width, bias=False), flags, checkpoint_every=1)
            for width in (320, 640)
        )
        slope = (large - small) * 2**20 / 4 / (many - few)
        print(f"| {name} | {slope:.1f} | {own} |", flush=True)


def measure(
    sampler: str, config: GPTConfig, flags: str, checkpoint_every: int = 200
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
        words = (
            f"bayesgen.cli.main train --sampler {sampler} --model {checkpoint} --out {run}"
            f" --batch-size 1 --block-size 8 --checkpoint-every {checkpoint_every} {flags}"
        )
        if sampler != "laplace":
            words += " --learning-rate 1e-6"
        if "--eval" in words:
            words += " --eval-max-samples 16"
        subprocess.run([sys.executable, "-m", *words.split()], check=True, capture_output=True)
        totals = json.loads((run / f"{sampler}_metrics.json").read_text())
        return sum(p.numel() for p in network.parameters()), float(totals["peak_memory_mib"])


if __name__ == "__main__":
    main()
