"""Learned priors with random numbers, and their density by torch.distributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from bayesgen.parameters import Layout
from bayesgen.priors.learned import LearnedPrior

SHAPES = {
    "bert.embeddings.weight": (5, 4),
    "bert.encoder.layer.0.dense.weight": (4, 4),
    "bert.encoder.layer.0.dense.bias": (4,),
    "bert.encoder.layer.1.dense.weight": (4, 4),
    "bert.encoder.layer.1.dense.bias": (4,),
    "cls.decoder.bias": (5,),
}
RECORD: dict[str, Any] = {
    "model": {"name": "tiny-bert", "sha256": "ab" * 32, "base": "bert"},
    "upstream": {"method": "swag", "collected": 9, "settings": {"learning_rate": 0.01}},
}


def layout_of(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    return Layout.of((name, torch.empty(shape)) for name, shape in shapes.items())


def random_parts(size: int, rank: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [P], variance [P] and deviations [K, P]."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(size, generator=generator),
        torch.rand(size, generator=generator) * 0.1,
        0.3 * torch.randn(rank, size, generator=generator),
    )


def random_prior(rank: int = 3, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> LearnedPrior:
    layout = layout_of(shapes)
    return LearnedPrior(*random_parts(layout.size, rank), layout=layout, record=RECORD)


def exact(
    mean: Tensor, variance: Tensor, deviations: Tensor, scale: float, epsilon: float
) -> LowRankMultivariateNormal:
    """N(mean, λ ½ (diag(v) + QᵀQ) + ε I) in float64; Q [K, P] is divided by √(K − 1)."""
    rows = deviations if len(deviations) else torch.zeros(1, len(mean))
    return LowRankMultivariateNormal(
        mean.double(),
        cov_factor=(scale / 2) ** 0.5 * rows.double().T,
        cov_diag=scale / 2 * variance.double() + epsilon,
    )


def agree(prior: Any, truth: LowRankMultivariateNormal, theta: Tensor) -> None:
    """Density and gradient of the two are equal at `theta` to 1e-5."""
    there = theta.double().requires_grad_()
    log_prob = truth.log_prob(there)
    log_prob.backward()
    assert there.grad is not None
    gradient = torch.zeros_like(theta)
    value, expected = float(prior.accumulate(theta, gradient, 1.0)), float(log_prob.detach())
    assert abs(value - expected) < 1e-5 * abs(expected)
    assert float((gradient - there.grad).norm()) < 1e-5 * float(there.grad.norm())
