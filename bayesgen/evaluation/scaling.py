"""Temperature scaling: one number fitted on held-in data, for a fair deterministic baseline."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.likelihoods import IGNORED
from bayesgen.predictive import Forward

MAX_WINDOWS = 512
MAX_EXAMPLES = 8192
"""The same of labelled examples, which hold one observation each."""
MAX_TOKENS = 2**16
"""Tokens that are read while τ is fitted."""
MAX_ELEMENTS = 2**26
"""Log-probabilities that are kept while τ is fitted (256 MiB of float32)."""


def fit_temperature(forward: Forward, windows: Rows, batch_size: int) -> float:
    """τ that minimises the NLL of softmax(logits/τ) on `windows`, evenly spaced over the text.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2. `forward` must hold the
    checkpoint's weights; `windows` must be data that are not scored afterwards.
    """
    kept_log_probs: list[Tensor] = []
    kept_labels: list[Tensor] = []
    most = MAX_EXAMPLES if windows.row_targets == 1 else MAX_WINDOWS
    count = min(most, len(windows), max(1, MAX_TOKENS // windows.row_targets))
    stride = 1
    for part in torch.linspace(0, len(windows) - 1, count).round().long().split(batch_size):
        batch = windows.batch(part)
        scored = batch["labels"] != IGNORED
        log_probs = forward.target_log_probs(batch).cpu()
        if not kept_log_probs:  # of a large vocabulary every n-th token must do
            most = int(scored.reshape(len(part), -1).sum(1).max())  # targets of a row
            stride = math.ceil(count * most * log_probs.shape[-1] / MAX_ELEMENTS)
        kept_log_probs.append(log_probs[::stride].clone())
        kept_labels.append(batch["labels"][scored][::stride])
    log_probs, labels = torch.cat(kept_log_probs), torch.cat(kept_labels)

    def nll(log_tau: float) -> float:
        return float(F.cross_entropy(log_probs / math.exp(log_tau), labels))

    result = minimize_scalar(nll, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-4})
    return math.exp(float(result.x))
