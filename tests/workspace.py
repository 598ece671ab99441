"""Commands run in a folder of their own, on a tiny model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bayesgen.cli.main import run_command
from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint

BLOCK = 8
SHORT = {
    "sgld": ("--warmup-steps", "4", "--sampling-steps", "8", "--thinning", "4"),
    "swag": ("--warmup-steps", "2", "--sampling-steps", "8", "--thinning", "2", "--rank", "3"),
    "pass": ("--train-samples", "24", "--epochs", "1"),
}
CHAINS = tuple(name for name, spec in SAMPLERS.items() if spec.settings.draws_from == "chain")


@dataclass(frozen=True)
class Workspace:
    """Runs commands in `path`, which holds model.pt and corpus.txt."""

    path: Path

    def train(self, sampler: str, *flags: str) -> int:
        """The training command on the tiny model, a few steps long; later flags win."""
        chain = sampler in SAMPLERS and SAMPLERS[sampler].settings.draws_from == "chain"
        short = SHORT["sgld" if chain else "swag" if sampler == "swag" else "pass"]
        return run_command(
            "train",
            ["--sampler", sampler, "--model", "model.pt", "--corpus", "corpus.txt", "--out", "run",
             "--batch-size", "4", *short, *flags],
        )  # fmt: skip

    def json(self, pattern: str) -> dict[str, Any]:
        (found,) = self.path.glob(pattern)
        content: dict[str, Any] = json.loads(found.read_text())
        return content


def furnished(path: Path) -> Workspace:
    """A workspace in the folder `path`, with a small corpus and a random network for it."""
    words = "the quick brown fox jumps over the lazy dog and the cat sat on the mat. "
    text = words * 12
    (path / "corpus.txt").write_text(text)
    tokenizer = CharTokenizer.from_text(text)
    torch.manual_seed(0)
    network = GPT(GPTConfig(BLOCK, tokenizer.vocab_size, 1, 2, 16, bias=False))
    write_checkpoint(
        path / "model.pt", network, tokenizer,
        optimizer={}, iter_num=0, best_val_loss=0.0, config={},
    )  # fmt: skip
    return Workspace(path)


def scatter(run: Path, count: int, width: float) -> None:
    """Put `count` draws that lie around a run's first one in the place of its draws."""
    shards = sorted((run / "draws").iterdir())
    theta = load_file(shards[0])["draws"]
    for shard in shards:
        shard.unlink()
    noise = torch.Generator().manual_seed(3)
    for i in range(count):
        moved = theta + width * torch.randn(theta.shape, generator=noise)
        save_file({"draws": moved}, run / "draws" / f"c0-{i:06d}.safetensors")
