"""What a GPT says of a text, computed without any code of the package."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tests.workspace import BLOCK


def independent_log_probs(state: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """A GPT's log-probabilities written out from its state dict: no code of the package."""
    embedding = state["transformer.wte.weight"]
    x = embedding[ids] + state["transformer.wpe.weight"][: ids.shape[1]]
    blocks = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("transformer.h."))
    width, heads = x.shape[-1], 2
    mask = torch.ones(ids.shape[1], ids.shape[1]).tril().log()
    for i in range(blocks):
        p = {k.removeprefix(f"transformer.h.{i}."): v for k, v in state.items()}
        h = F.layer_norm(x, (width,), p["ln_1.weight"])
        q, k, v = (h @ p["attn.c_attn.weight"].T).split(width, -1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / (width / heads) ** 0.5 + mask).softmax(-1)
        x = x + (weights @ v).transpose(1, 2).flatten(2) @ p["attn.c_proj.weight"].T
        h = F.layer_norm(x, (width,), p["ln_2.weight"])
        x = x + F.gelu(h @ p["mlp.c_fc.weight"].T) @ p["mlp.c_proj.weight"].T
    x = F.layer_norm(x, (width,), state["transformer.ln_f.weight"])
    return (x @ embedding.T).log_softmax(-1)


def target_log_likelihoods(state: dict[str, torch.Tensor], tokens: np.ndarray) -> torch.Tensor:
    """log p of every target of the split, each once: windows of the block size, then the rest."""
    out = []
    for start in range(0, len(tokens) - 1, BLOCK):
        piece = torch.tensor(tokens[start : start + BLOCK + 1].astype(np.int64))
        log_probs = independent_log_probs(state, piece[:-1].unsqueeze(0))[0]
        out.append(log_probs.gather(-1, piece[1:, None])[:, 0])
    return torch.cat(out).double()


def states_of(run: Path, record: dict[str, Any], checkpoint: dict[str, Any]) -> Iterator[Any]:
    """The state dict of every draw on disk, over the frozen rest of the checkpoint."""
    for path in sorted((run / "draws").glob("*.safetensors")):
        for theta in load_file(path)["draws"]:
            state = dict(checkpoint["model"])
            for p in record["parameters"]:
                size = math.prod(p["shape"])
                state[p["name"]] = theta[p["offset"] : p["offset"] + size].view(p["shape"])
            yield state
