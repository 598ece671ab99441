"""Choosing the next token from one distribution."""

from __future__ import annotations

import torch
from torch import Tensor

COLDEST = 1e-9
"""Temperature below which any difference of float32 log-probabilities leaves one token."""


def restricted(
    log_probs: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Probabilities [..., V] that tokens are drawn with, from `log_probs` [..., V].

    `temperature` divides the log-probabilities; then the `top_k` most probable tokens are kept;
    then of these the smallest set that holds a probability of `top_p` (nucleus sampling, Holtzman
    et al. 2020, https://arxiv.org/abs/1904.09751). Temperature 0, or one so small that nothing else
    is left, is the most probable token.
    """
    if temperature < COLDEST:
        return torch.nn.functional.one_hot(log_probs.argmax(-1), log_probs.shape[-1]).float()
    scaled = (log_probs - log_probs.amax(-1, keepdim=True)) / temperature
    if top_k is not None and top_k < scaled.shape[-1]:
        smallest = scaled.topk(top_k).values[..., -1:]
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
    if top_p is not None and top_p < 1:
        probs, order = scaled.softmax(-1).sort(descending=True, stable=True)
        before = probs.double().cumsum(-1) - probs
        dropped = torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, before >= top_p)
        scaled = scaled.masked_fill(dropped, -torch.inf)
    return scaled.softmax(-1)
