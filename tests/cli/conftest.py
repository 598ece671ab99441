"""A tiny checkpoint and a small corpus in a working directory of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint
from tests.cli.workspace import BLOCK, Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for variable in ("BASE_DIR", "MODEL_PATH", "META_PATH", "DATA_DIR", "DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("WANDB_AVAILABLE", raising=False)
    monkeypatch.chdir(tmp_path)
    words = "the quick brown fox jumps over the lazy dog and the cat sat on the mat. "
    text = words * 12
    (tmp_path / "corpus.txt").write_text(text)
    tokenizer = CharTokenizer.from_text(text)
    torch.manual_seed(0)
    network = GPT(GPTConfig(BLOCK, tokenizer.vocab_size, 1, 2, 16, bias=False))
    write_checkpoint(
        tmp_path / "model.pt", network, tokenizer,
        optimizer={}, iter_num=0, best_val_loss=0.0, config={},
    )  # fmt: skip
    return Workspace(tmp_path)
