"""A learned prior in the coordinates of a model, matched by the names of the parameters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.parameters import Layout, ParameterSpec
from bayesgen.priors.low_rank import LowRankGaussian

if TYPE_CHECKING:
    from bayesgen.priors.learned import LearnedPrior

SHOWN = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class Placed:
    """A learned prior in the coordinates of one θ [P].

    Attributes:
        mean: [P]; where the prior knows nothing the loaded weight, or zero of what is new.
        variance: [P], and deviations [K, P]; zero where the prior knows nothing.
        there: [P] bool, where it does.
        missing: parameters of θ that it does not know.
        kept: those of them that are not new: their centre is the loaded weight.
        extra: parameters that it knows and θ has not.
        distance: of the mean from the loaded weights, over the length of these, where it knows
            them.
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
        """What a run keeps of how the prior met θ."""
        return {
            "missing": list(self.missing),
            "extra": list(self.extra),
            "distance": self.distance,
        }

    def density(self, scale: float, *, epsilon: float, head_std: float) -> LowRankGaussian:
        """The prior of θ:

            N(μ, λ · ½ (diag(v) + Qᵀ Q) + ε I)

        on what was learned, and N(mean, head_std²) on what is missing there.

        Args:
            scale: λ, positive.
            epsilon: ε, the variance that every weight has at least, positive.
            head_std: σ of parameters that were not learned, positive.

        Raises:
            UserError: a variance is zero or infinite in float32.
        """
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


def place(
    prior: LearnedPrior,
    layout: Layout,
    theta: Tensor,
    *,
    new: Collection[str] = (),
    free: Collection[str] = (),
    base: str = "",
    setting: str = "`prior_path`",
) -> Placed:
    """`prior` in the coordinates of another model's θ.

    Names are compared without the prefix of the base model, so that an encoder is the same under
    any head. Parameters of the head may have the prior's name and another shape, as of other
    classes: the prior does not know them.

    Args:
        layout: of that θ.
        theta: its loaded value [P].
        new: its parameters that no training has seen, such as a new head's: the prior need not know
            them, and their centre is zero.
        free: its parameters that the prior need not know either, such as a trained head's or a
            pooler's: their centre is the loaded weight.
        base: prefix of the names of its base model.

    Raises:
        UserError: the prior is of another model: a parameter that both have differs in shape, one
            that is neither new nor free is missing, it knows a layer in part, or nothing at all.
    """
    known = dict(zip(prior.names, prior.layout.entries, strict=True))
    taken: dict[str, ParameterSpec] = {}
    missing, lacking, reshaped = [], [], []
    for entry in layout.entries:
        found = known.get(bare(entry.name, base))
        if found is not None and found.shape == entry.shape:
            taken[entry.name] = found
        elif entry.name in new or entry.name in free:
            missing.append(entry.name)
        elif found is None:
            lacking.append(entry.name)
        else:
            reshaped.append((entry, found))
    name = prior.record.get("model", {}).get("name")
    other = f"{setting}: the prior is of another model" + (f" ({name[:80]!r})" if name else "")
    if reshaped:
        here, there = reshaped[0]
        more = f", and {len(reshaped) - 1} more differ" if len(reshaped) > 1 else ""
        raise UserError(
            f"{other}: '{here.name}' is {list(here.shape)} here and {list(there.shape)}"
            f" there{more}; name the prior of this model"
        )
    if lacking or not taken:
        raise UserError(
            f"{other}: it does not know {listed(lacking or missing)}; name the prior of this model,"
            " or choose `parameters` that it knows"
        )
    layers = {_layer(name) for name in taken} - {""}
    parts = [name for name in missing if _layer(name) in layers]
    if parts:
        raise UserError(
            f"{other}: of the layer '{_layer(parts[0])}' it does not know {listed(parts)}; name the"
            " prior of this model"
        )
    return _copied(prior, layout, theta, taken, missing, new)


def _copied(
    prior: LearnedPrior,
    layout: Layout,
    theta: Tensor,
    taken: dict[str, ParameterSpec],
    missing: Collection[str],
    new: Collection[str],
) -> Placed:
    """The prior's numbers at the places of θ."""
    mean = theta.detach().cpu().float().clone()
    variance = torch.zeros(layout.size)
    deviations = torch.zeros(prior.rank, layout.size)
    there = torch.zeros(layout.size, dtype=torch.bool)
    for entry in layout.entries:
        here = slice(entry.offset, entry.offset + entry.numel)
        found = taken.get(entry.name)
        if found is not None:
            source = slice(found.offset, found.offset + found.numel)
            mean[here], variance[here] = prior.mean[source], prior.variance[source]
            deviations[:, here] = prior.deviations[:, source]
            there[here] = True
        elif entry.name in new:
            mean[here] = 0
    used = {entry.name for entry in taken.values()}
    device = theta.device
    loaded = theta.detach().cpu().float()[there]
    away = float((loaded - mean[there]).norm()) / max(float(loaded.norm()), 1e-30)
    return Placed(
        mean.to(device),
        variance.to(device),
        deviations.to(device),
        there.to(device),
        missing=tuple(missing),
        kept=tuple(name for name in missing if name not in new),
        extra=tuple(name for name in prior.layout.names if name not in used),
        distance=away,
    )


def listed(names: Collection[str]) -> str:
    """Some names in words."""
    shown = ", ".join(f"'{name}'" for name in list(names)[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def bare(name: str, base: str) -> str:
    """`name` without the prefix of the base model."""
    return name.removeprefix(f"{base}.") if base else name


def _layer(name: str) -> str:
    """The layer that a parameter belongs to; empty of one that stands alone."""
    return name.rpartition(".")[0]
