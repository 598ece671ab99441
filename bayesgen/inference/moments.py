"""Mean, variance and last deviations of the weights that a path goes through.

Mean and sum of squares are Welford's (1962), in float64 where the device has it: the difference of
two moments in float32 would lose a variance that is a millionth of the square of its weight, which
Welford's own sums keep there, too. In SWAG's paper (Maddox et al. 2019,
https://arxiv.org/abs/1902.02476, algorithm 1) a deviation is from the mean at the time, so that its
first row is zero; here all are from the last mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesgen.inference.affine import Chunks
from bayesgen.parameters import widest


@dataclass(frozen=True)
class Moments:
    """What SWAG keeps of the path, in chunks.

    Attributes:
        count: how many weights were collected, a scalar int64 tensor.
        mean: of them, in the widest dtype of their device.
        squares: sum of their squared distances from the mean, the same.
        last: the last K of them [K, ...] in a ring: number n, from 0, stands in row n mod K.
    """

    count: Tensor
    mean: Chunks
    squares: Chunks
    last: Chunks


def init(params: Chunks, rank: int) -> Moments:
    """Nothing collected yet."""
    return Moments(
        torch.zeros((), dtype=torch.int64),
        tuple(torch.zeros_like(p, dtype=widest(p.device)) for p in params),
        tuple(torch.zeros_like(p, dtype=widest(p.device)) for p in params),
        tuple(p.new_zeros(rank, len(p)) for p in params),
    )


def collect_(moments: Moments, params: Chunks) -> None:
    """Take in `params`, in place."""
    moments.count.add_(1)
    n = int(moments.count)
    for p, mean, squares, last in zip(
        params, moments.mean, moments.squares, moments.last, strict=True
    ):
        exact = p.to(mean.dtype)
        before = exact - mean
        mean.add_(before, alpha=1 / n)
        squares.addcmul_(before, exact - mean)
        if len(last):
            last[(n - 1) % len(last)].copy_(p)


def variance(moments: Moments) -> Tensor:
    """v [P], unbiased; needs two collected weights."""
    return torch.cat(moments.squares).div(int(moments.count) - 1).float()


def deviations(moments: Moments) -> Tensor:
    """Q [K, P], from the oldest to the newest; fewer rows where fewer were collected."""
    n, rank = int(moments.count), len(moments.last[0])
    rows = torch.arange(max(n - rank, 0), n) % max(rank, 1)
    pieces = [
        (last[rows].to(mean.dtype) - mean).float()
        for last, mean in zip(moments.last, moments.mean, strict=True)
    ]
    return torch.cat(pieces, dim=1).div(max(len(rows) - 1, 1) ** 0.5)
