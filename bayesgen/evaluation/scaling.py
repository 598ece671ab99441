"""Temperature scaling: one number fitted on training text, for a fair deterministic baseline."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from bayesgen.data.windows import Windows
from bayesgen.likelihoods import IGNORED
from bayesgen.predictive import Forward

MAX_WINDOWS = 512
MAX_ELEMENTS = 2**26
"""Log-probabilities that are kept while τ is fitted (256 MiB of float32)."""


def fit_temperature(forward: Forward, windows: Windows, batch_size: int) -> float:
    """τ that minimises the NLL of softmax(logits/τ) on `windows`, evenly spaced over the text.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2. `forward` must hold the
    checkpoint's weights; `windows` must be text that is not scored afterwards.
    """
    kept_log_probs: list[Tensor] = []
    kept_labels: list[Tensor] = []
    elements = 0
    count = min(MAX_WINDOWS, len(windows))
    indices = torch.linspace(0, len(windows) - 1, count).round().long()
    # a stride keeps the windows spread over the text even where memory ends the list early
    for part in indices[torch.randperm(count, generator=torch.Generator().manual_seed(0))].split(
        batch_size
    ):
        batch = windows.batch(part)
        scored = batch["labels"] != IGNORED
        log_probs = forward.log_probs(batch).cpu()[scored]
        elements += log_probs.numel()
        if kept_log_probs and elements > MAX_ELEMENTS:
            break
        kept_log_probs.append(log_probs)
        kept_labels.append(batch["labels"][scored])
    log_probs, labels = torch.cat(kept_log_probs), torch.cat(kept_labels)

    def nll(log_tau: float) -> float:
        return float(F.cross_entropy(log_probs / math.exp(log_tau), labels))

    result = minimize_scalar(nll, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-4})
    return math.exp(float(result.x))
