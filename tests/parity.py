"""A task of someone else: whether a number is odd, read off its bits by a small network.

Nothing here is part of the package; `TASKS.register(TASK)`, or an entry point, is all it takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesgen.tasks import Task

BITS = 6
TASK = Task(
    "parity",
    "whether a number is odd",
    labels="class",
    loader="tests.parity:load",
    reader="tests.parity:read",
)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(BITS, 8), nn.Tanh(), nn.Linear(8, 2))


def load(name: str) -> nn.Module:
    """The network whose weights lie in the file `name`."""
    module = network()
    module.load_state_dict(torch.load(name, weights_only=True))
    return module


def read(model: Any, settings: Any, block_size: int | None) -> Any:
    """A file of numbers, one a line; every third validates."""
    from bayesgen.workflow.own_data import rows_inputs

    numbers = torch.tensor([int(line) for line in Path(settings.data).read_text().split()])
    bits = (numbers[:, None] >> torch.arange(BITS)) & 1
    held = torch.arange(len(numbers)) % 3 == 0
    splits = {
        name: {"bits": bits[chosen].float(), "labels": numbers[chosen] % 2}
        for name, chosen in (("train", ~held), ("val", held))
    }
    return rows_inputs(model, Path(settings.data).name, splits, settings)
