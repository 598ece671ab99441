"""Sizes of a learned prior by groups of parameters: widths, low-rank share, effective rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesgen.parameters import ParameterSpec
from bayesgen.priors.learned import LearnedPrior

_BLOCK = 2**20


@dataclass(frozen=True)
class Group:
    """Parameters that belong together.

    Attributes:
        name: what their names begin with; empty of all.
        tensors, numbers: how many there are.
        weight_sd: standard deviation of their means.
        prior_sd: median over them of the prior's standard deviation at λ = 1, without ε.
        low_rank: share of tr(QᵀQ) in tr(diag v) + tr(QᵀQ); 0 where neither varies.
    """

    name: str
    tensors: int
    numbers: int
    weight_sd: float
    prior_sd: float
    low_rank: float


@dataclass(frozen=True)
class Explained:
    """A prior by groups of parameters, in the order of θ.

    Attributes:
        effective_rank: (Σ e)² / Σ e² of the eigenvalues e of QQᵀ (the participation ratio): how
            many directions share the low-rank part, from 0 to K.
    """

    groups: tuple[Group, ...]
    total: Group
    effective_rank: float


def explain(prior: LearnedPrior) -> Explained:
    """Sizes of a prior, by the groups of `groups_of`."""
    shared = torch.cat([rows.square().sum(0) for rows in prior.deviations.split(_BLOCK, dim=1)])
    members: dict[str, list[ParameterSpec]] = {}
    groups = groups_of(prior.names)
    for entry, group in zip(prior.layout.entries, groups, strict=True):
        members.setdefault(group, []).append(entry)

    def summary(name: str, entries: list[ParameterSpec]) -> Group:
        mean, own, low_rank = (_gathered(t, entries) for t in (prior.mean, prior.variance, shared))
        spread = float(low_rank.double().sum())
        total = float(own.double().sum()) + spread
        return Group(
            name,
            len(entries),
            len(mean),
            float(mean.double().std(correction=0)),
            float((0.5 * (own + low_rank)).sqrt().median()),
            spread / total if total else 0.0,
        )

    return Explained(
        tuple(summary(name, entries) for name, entries in members.items()),
        summary("", list(prior.layout.entries)),
        effective_rank(prior.deviations),
    )


def effective_rank(deviations: Tensor) -> float:
    """(Σ e)² / Σ e² of the eigenvalues e of QQᵀ, for `deviations` Q [K, P]."""
    gram = torch.zeros(len(deviations), len(deviations), dtype=torch.float64)
    for part in deviations.split(_BLOCK, dim=1):
        gram += part.double() @ part.double().T
    # Σ e is the trace, and Σ e² the sum of the squared entries
    squares = float(gram.square().sum())
    return float(gram.trace()) ** 2 / squares if squares else 0.0


def groups_of(names: tuple[str, ...]) -> list[str]:
    """The group of each name: up to its first number (a block), else its first part that is not
    also what a block's name begins with (embeddings, the head)."""
    parts = [name.split(".") for name in names]
    numbered = [_up_to_number(p) for p in parts]
    stems = {tuple(block[:i]) for block in numbered for i in range(1, len(block))}

    def shortest(path: list[str]) -> list[str]:
        return next((path[:i] for i in range(1, len(path)) if tuple(path[:i]) not in stems), path)

    return [".".join(b or shortest(p)) for b, p in zip(numbered, parts, strict=True)]


def _up_to_number(parts: list[str]) -> list[str]:
    """The parts up to the first number; none where there is no number."""
    return next((parts[: i + 1] for i, part in enumerate(parts) if part.isdecimal()), [])


def _gathered(vector: Tensor, entries: list[ParameterSpec]) -> Tensor:
    """The numbers of `vector` [P] that belong to `entries`."""
    return torch.cat([vector[e.offset : e.offset + e.numel] for e in entries])
