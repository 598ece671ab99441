"""Peak memory of a run, and of its evaluation, against the number of draws.

Each row is a fresh process that samples and scores the same model with another number of draws,
the draws on disk in a temporary folder; its peak resident size is the operating system's own count.

    python benchmarks/memory.py --draws 10 100 1000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bayesgen.data.corpora import load_corpus
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, nargs="+", default=[10, 100, 1000])
    options = parser.parse_args()

    print("| draws | peak memory, MiB | more than the first row, MiB |")
    print("| --- | --- | --- |")
    first = None
    for draws in options.draws:
        peak = measure(draws)
        first = peak if first is None else first
        print(f"| {draws} | {peak:.1f} | {peak - first:+.1f} |", flush=True)


def measure(draws: int) -> float:
    """Peak MiB of one run with `draws` draws, sampling and scoring included."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.pt"
        tokenizer = load_corpus("python-docs").tokenizer
        torch.manual_seed(0)
        network = GPT(GPTConfig(64, tokenizer.vocab_size, 4, 4, 128, bias=False))
        write_checkpoint(
            checkpoint, network, tokenizer, optimizer={}, iter_num=0, best_val_loss=0.0, config={}
        )
        run = Path(folder) / "run"
        words = (
            f"bayesgen.cli.main train --sampler sgld --model {checkpoint} --out {run}"
            f" --batch-size 1 --block-size 8 --warmup-steps 0 --sampling-steps {draws} --thinning 1"
            " --learning-rate 1e-6 --eval --eval-max-samples 16"
        )
        subprocess.run([sys.executable, "-m", *words.split()], check=True, capture_output=True)
        return float(json.loads((run / "sgld_metrics.json").read_text())["peak_memory_mib"])


if __name__ == "__main__":
    main()
