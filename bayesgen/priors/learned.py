"""A prior learned from pretraining: how it is matched to a model by parameter name, and its sizes.

    N(μ, λ · ½ (diag(v) + Qᵀ Q) + ε I),   Q [K, P]

λ multiplies a covariance: both of its parts (Maddox et al. 2019, https://arxiv.org/abs/1902.02476,
eq. 1; Shwartz-Ziv et al. 2022, https://arxiv.org/abs/2205.10279, section 3.2).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from bayesgen.config import PRIORS
from bayesgen.errors import UserError
from bayesgen.parameters import Layout, ParameterSpec
from bayesgen.priors.base import Weights
from bayesgen.priors.gaussian import BLOCK, LowRankGaussian

TENSORS = ("mean", "variance", "deviations")
SHIFT = "shift"
"""Key of `upstream`: the distance of the mean from where the learning started, over the length of
that start."""


@dataclass(frozen=True)
class LearnedPrior:
    """What SWAG, or another method, learned about weights.

    Attributes:
        mean, variance: μ and v [P], float32.
        deviations: Q [K, P]; K may be 0.
        layout: names, shapes and offsets of the P weights.
        record: `model` (name, sha256, base: the prefix of the names of the model without its head)
            and `upstream` (how it was learned: the number of collected models, `SHIFT`, ...)
    """

    mean: Tensor
    variance: Tensor
    deviations: Tensor
    layout: Layout
    record: Mapping[str, Any]

    @property
    def rank(self) -> int:
        """K."""
        return len(self.deviations)

    @property
    def base(self) -> str:
        return str(self.record.get("model", {}).get("base", ""))

    @property
    def method(self) -> str | None:
        """How it was learned, by the name that `prior` takes; None where the file does not say."""
        method = str(self.record.get("upstream", {}).get("method", "")).lower()
        return method if method in PRIORS and PRIORS[method].learned else None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, without that prefix."""
        return tuple(name.removeprefix(f"{self.base}.") for name in self.layout.names)

    def fault(self) -> str | None:
        """What is wrong with its tensors, in words; None where nothing is."""
        size = self.layout.size
        tensors = {name: getattr(self, name) for name in TENSORS}
        shapes = [list(tensor.shape) for tensor in tensors.values()]
        if shapes != [[size], [size], [self.rank, size]]:
            return (
                f"mean, variance and deviations are {shapes}, and its parameters make {size}"
                " numbers"
            )
        if self.rank > size:
            return f"it has {self.rank:,} deviations of {size:,} weights"
        for name, tensor in tensors.items():
            # NaN is the least and the largest of all
            if tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
                return f"'{name}' holds numbers that are not finite"
        return "a variance is negative" if bool((self.variance < 0).any()) else None

    def match(self, weights: Weights) -> Matched:
        """The prior in the coordinates of another model's θ, matched by parameter name.

        Names are compared without the prefix of the base model, so that an encoder is the same
        under any head. What is free may have the prior's name and another shape, as a head of other
        classes: then the prior does not know it.

        Raises:
            UserError: the prior is of another model: a parameter that both have differs in shape,
                one that is neither new nor free is missing, it knows a layer in part, or nothing.
        """
        known = dict(zip(self.names, self.layout.entries, strict=True))
        prefix = f"{weights.base}."
        pairs = [(e, known.get(e.name.removeprefix(prefix))) for e in weights.layout.entries]
        taken = {
            here.name: there.name for here, there in pairs if there and there.shape == here.shape
        }
        others = [(here, there) for here, there in pairs if here.name not in taken]
        missing = [e.name for e, _ in others if e.name in weights.new or e.name in weights.free]
        needed = [(here, there) for here, there in others if here.name not in missing]
        lacking = [here.name for here, there in needed if there is None]
        reshaped = [(here, there) for here, there in needed if there is not None]
        layers = {layer for name in taken if (layer := name.rpartition(".")[0])}
        parts = [name for name in missing if name.rpartition(".")[0] in layers]
        if reshaped:
            here, there = reshaped[0]
            more = f", and {len(reshaped) - 1} more differ" if len(reshaped) > 1 else ""
            fault = (
                f"'{here.name}' is {list(here.shape)} here and {list(there.shape)} there{more};"
                " name the prior of this model"
            )
        elif lacking or not taken:
            fault = (
                f"it does not know {listed(lacking or missing)}; name the prior of this model, or"
                " choose `parameters` that it knows"
            )
        elif parts:
            fault = (
                f"of the layer '{parts[0].rpartition('.')[0]}' it does not know {listed(parts)};"
                " name the prior of this model"
            )
        else:
            return self._placed(weights, taken, missing)
        name = self.record.get("model", {}).get("name")
        other = f" ({name[:80]!r})" if name else ""
        raise UserError(f"`prior_path`: the prior is of another model{other}: {fault}")

    def _placed(
        self, weights: Weights, taken: Mapping[str, str], missing: Collection[str]
    ) -> Matched:
        """The prior's numbers at the places of θ, on its device; `taken`: name here -> there."""
        layout, device = weights.layout, weights.theta.device
        loaded = weights.theta.detach().cpu().float()
        there = torch.zeros(layout.size, dtype=torch.bool)
        mean, variance = loaded.clone(), torch.zeros(layout.size)
        deviations = torch.zeros(self.rank, layout.size)
        for part, target in zip(TENSORS, (mean, variance, deviations), strict=True):
            theirs, ours = self.layout.views(getattr(self, part)), layout.views(target)
            for here, other in taken.items():
                ours[here].copy_(theirs[other])
        centres, used = layout.views(mean), set(taken.values())
        for name, place in layout.views(there).items():
            place.fill_(name in taken)
            if name not in taken and name in weights.new:
                centres[name].zero_()
        away = float((loaded[there] - mean[there]).norm())
        return Matched(
            mean.to(device),
            variance.to(device),
            deviations.to(device),
            there.to(device),
            missing=tuple(missing),
            kept=tuple(name for name in missing if name not in weights.new),
            extra=tuple(name for name in self.layout.names if name not in used),
            distance=away / max(float(loaded[there].norm()), 1e-30),
        )


@dataclass(frozen=True)
class Matched:
    """A learned prior in the coordinates of one θ [P].

    Attributes:
        mean: [P]; where the prior knows nothing the loaded weight, or zero of what is new.
        variance, deviations: [P] and [K, P]; zero where the prior knows nothing.
        there: [P] bool, where it does.
        missing: parameters of θ that it does not know; `kept` those of them that are not new.
        extra: parameters that it knows and θ has not.
        distance: of the mean from the loaded weights where it knows them, over their length.
    """

    mean: Tensor
    variance: Tensor
    deviations: Tensor
    there: Tensor
    missing: tuple[str, ...]
    kept: tuple[str, ...]
    extra: tuple[str, ...]
    distance: float

    @property
    def origin(self) -> dict[str, Any]:
        """What a run keeps of how the two match."""
        missing, extra = list(self.missing), list(self.extra)
        return {"missing": missing, "extra": extra, "distance": self.distance}

    def density(self, scale: float, *, epsilon: float, head_std: float) -> LowRankGaussian:
        """The prior of θ at λ = `scale` and ε = `epsilon`; N(mean, head_std²) on what it does not
        know. Refused where a variance is zero or infinite in float32."""
        head = torch.tensor(head_std**2, device=self.mean.device)
        diagonal = torch.where(self.there, 0.5 * scale * self.variance + epsilon, head)
        gain = (0.5 * scale) ** 0.5
        words = f"learned, λ = {scale:g}"
        if len(self.missing) > len(self.kept):
            words += f", new parameters N(0, {head_std:g}²)"
        if self.kept:
            words += f", others that it does not know N(θ*, {head_std:g}²)"
        try:
            return LowRankGaussian(
                self.mean, diagonal, self.deviations, gain, words=words, origin=self.origin
            )
        except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise UserError(
                f"`prior_scale={scale:g}`: with ε = {epsilon:g} and σ = {head_std:g} of new"
                " parameters the learned variances are too small or too large for float32; choose"
                " numbers nearer to 1"
            ) from error


@dataclass(frozen=True)
class Group:
    """Parameters that belong together: what their names begin with, how many there are, the sd of
    their means, the median of the prior's sd at λ = 1 without ε, and the share of tr(QᵀQ) in
    tr(diag v) + tr(QᵀQ), 0 where neither varies."""

    name: str
    tensors: int
    numbers: int
    weight_sd: float
    prior_sd: float
    low_rank: float


@dataclass(frozen=True)
class Explained:
    """A prior by groups of parameters, in the order of θ; `effective_rank`, 0 to K, is how many
    directions share the low-rank part."""

    groups: tuple[Group, ...]
    total: Group
    effective_rank: float


def explain(prior: LearnedPrior) -> Explained:
    """Sizes of a prior, by the groups of `groups_of`."""
    shared = torch.cat([rows.square().sum(0) for rows in prior.deviations.split(BLOCK, dim=1)])
    members: dict[str, list[ParameterSpec]] = {}
    for entry, group in zip(prior.layout.entries, groups_of(prior.names), strict=True):
        members.setdefault(group, []).append(entry)

    def summary(name: str, entries: Sequence[ParameterSpec]) -> Group:
        mean, own, low_rank = (
            torch.cat([vector[e.offset : e.offset + e.numel] for e in entries])
            for vector in (prior.mean, prior.variance, shared)
        )
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
        summary("", prior.layout.entries),
        effective_rank(prior.deviations),
    )


def effective_rank(deviations: Tensor) -> float:
    """The participation ratio (Σ e)² / Σ e² of the eigenvalues e of QQᵀ, for Q [K, P]."""
    gram = torch.zeros(len(deviations), len(deviations), dtype=torch.float64)
    for part in deviations.split(BLOCK, dim=1):
        gram += part.double() @ part.double().T
    # Σ e is the trace, and Σ e² the sum of the squared entries
    squares = float(gram.square().sum())
    return float(gram.trace()) ** 2 / squares if squares else 0.0


def groups_of(names: tuple[str, ...]) -> list[str]:
    """The group of each name: up to its first number (a block), else its first part that is not
    also what a block's name begins with (embeddings, the head)."""
    # what each name begins with, from the shortest on
    starts = [[*accumulate(name.split("."), "{}.{}".format)] for name in names]
    blocks = [next((s for s in each if s.rpartition(".")[2].isdecimal()), "") for each in starts]
    stems = {start for block, each in zip(blocks, starts, strict=True) if block for start in each}
    return [
        block or next((start for start in each if start not in stems), each[-1])
        for block, each in zip(blocks, starts, strict=True)
    ]


def listed(names: Collection[str]) -> str:
    """Five names in words, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in list(names)[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
