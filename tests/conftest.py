from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bayesgen.models.functional import FunctionalModel
from bayesgen.models.nanogpt import GPT, GPTConfig
from tests.workspace import Workspace, furnished

torch.set_num_threads(1)  # the networks are tiny: several threads only wait for each other


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No test can tell whether files outlive a power cut; some make `fsync` fail themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def tiny_gpt() -> FunctionalModel:
    """A GPT of 2 layers with 6,528 parameters, none of them zero or one."""
    config = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=16, bias=False)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = GPT(config)
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return FunctionalModel(module, block_size=config.block_size)


@pytest.fixture
def tiny_batch() -> dict[str, Tensor]:
    """Random tokens for `tiny_gpt`: 3 rows of 8."""
    tokens = torch.randint(0, 11, (2, 3, 8), generator=torch.Generator().manual_seed(1))
    return {"input_ids": tokens[0], "labels": tokens[1]}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for variable in ("BASE_DIR", "MODEL_PATH", "META_PATH", "DATA_DIR", "DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("WANDB_AVAILABLE", raising=False)
    monkeypatch.chdir(tmp_path)
    return furnished(tmp_path)
