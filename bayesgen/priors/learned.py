"""A prior learned from pretraining, and how it is matched to a model by parameter name.

    N(μ, λ · ½ (diag(v) + Qᵀ Q) + ε I),   Q [K, P]

λ multiplies a covariance: both of its parts (Maddox et al. 2019, https://arxiv.org/abs/1902.02476,
eq. 1; Shwartz-Ziv et al. 2022, https://arxiv.org/abs/2205.10279, section 3.2).

Of such a Gaussian, N(μ, diag(d) + Wᵀ W) with W = g Q: with C = I + W diag(d)⁻¹ Wᵀ [K, K],
z = C⁻¹ W (r / d) and e = r − Wᵀ z for a residual r = θ − μ,

    Σ⁻¹ r = e / d,   rᵀ Σ⁻¹ r = Σ_i e_i² / d_i + zᵀ z,   log det Σ = log det C + Σ_i log d_i

(Woodbury's identity and the determinant lemma, in a form whose terms are all positive): O(P K) time
for the density, its gradient and a draw, and O(P) memory beside Q, which is never copied.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesgen.config import PRIORS
from bayesgen.errors import UserError
from bayesgen.parameters import Layout, ParameterSpec, widest
from bayesgen.priors.base import DiagonalGaussian, Prior, Weights

TENSORS = ("mean", "variance", "deviations")
SHIFT = "shift"
"""Key of `upstream`: the distance of the mean from where the learning started, over the length of
that start."""
SHOWN = 5
"""Names that a message lists."""
_BLOCK = 2**20


class LowRankGaussian(Prior):
    """N(mean, diag(diagonal) + gain² deviationsᵀ deviations) on θ ∈ R^P.

    Args:
        mean: [P].
        diagonal: [P], positive: the variance that is each coordinate's own.
        deviations: [K, P]; K may be 0.
        gain: g, a number.
        words: what the density is, for people.
        origin: more that a run keeps of where it comes from, plain data.

    Raises:
        ValueError: shapes do not fit, or a variance is not positive and finite.
    """

    def __init__(
        self,
        mean: Tensor,
        diagonal: Tensor,
        deviations: Tensor,
        gain: float = 1.0,
        *,
        words: str = "low rank + diagonal",
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        if diagonal.shape != mean.shape or deviations.shape[1:] != mean.shape or mean.dim() != 1:
            raise ValueError(
                f"mean {list(mean.shape)} and diagonal {list(diagonal.shape)} must be [P],"
                f" deviations {list(deviations.shape)} must be [K, P]"
            )
        if not ((diagonal > 0) & diagonal.isfinite()).all():
            raise ValueError("every variance of the diagonal must be positive and finite")
        self.mean = mean
        self.variance = diagonal
        self.deviations = deviations
        self.gain = gain
        self.words = words
        self.origin = origin or {}
        # the small system is solved in float64: it holds sums over all of θ
        gram = torch.zeros(len(deviations), len(deviations), dtype=torch.float64)
        log_det = 0.0
        for part in torch.arange(len(mean)).split(_BLOCK):
            where = slice(int(part[0]), int(part[-1]) + 1)
            q, d = deviations[:, where].cpu().double(), diagonal[where].cpu().double()
            gram += (q / d) @ q.T
            log_det += float(d.log().sum())
        cholesky = torch.linalg.cholesky(torch.eye(len(gram), dtype=torch.float64) + gain**2 * gram)
        log_det += 2 * float(cholesky.diagonal().log().sum())
        self._cholesky = cholesky.to(mean.device, widest(mean.device))
        self._log_normaliser = -0.5 * (len(mean) * math.log(2 * math.pi) + log_det)

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """e [P] and z [K] of θ."""
        residual = theta - self.mean
        pulled = self.gain * (self.deviations @ (residual / self.variance)).to(self._cholesky.dtype)
        z = torch.cholesky_solve(pulled.unsqueeze(-1), self._cholesky).squeeze(-1)
        z = z.to(residual.dtype)
        return residual - (self.gain * z) @ self.deviations, z

    def log_prob(self, theta: Tensor) -> Tensor:
        e, z = self._split(theta)
        return self._log_normaliser - 0.5 * ((e * e / self.variance).sum() + (z * z).sum())

    def accumulate(self, theta: Tensor, grad: Tensor, weight: float) -> Tensor:
        e, z = self._split(theta)
        pull = e / self.variance
        grad.add_(pull, alpha=-weight)
        return self._log_normaliser - 0.5 * (torch.dot(pull, e) + torch.dot(z, z))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw of θ [P], by the global generator unless one is given."""
        noise = torch.randn(len(self.mean), generator=generator, device=self.mean.device)
        along = torch.randn(len(self.deviations), generator=generator, device=self.mean.device)
        own = self.mean + self.variance.sqrt() * noise
        return own + (self.gain * along) @ self.deviations

    def diagonal(self) -> DiagonalGaussian | None:
        return None if len(self.deviations) else DiagonalGaussian(self.mean, self.variance)

    def precision(self) -> Tensor:
        # W only adds to the covariance
        return self.variance.reciprocal()

    def marginal_variance(self) -> Tensor:
        """diag(Σ) [P]."""
        lengths: Tensor = torch.linalg.vector_norm(self.deviations, dim=0)
        return self.variance + (self.gain * lengths).square()

    @property
    def factor(self) -> Tensor:
        """W [K, P], a new tensor."""
        return self.gain * self.deviations

    def tensors(self) -> dict[str, Tensor]:
        """For a file: mean, standard deviations of the diagonal part, and the factor."""
        return {"mean": self.mean, "sd": self.variance.sqrt(), "factor": self.factor}

    def describe(self) -> str:
        sd = float(self.marginal_variance().median().sqrt())
        return f"{self.words}: rank {len(self.deviations)}, median σᵢ {sd:.3g}"


@dataclass(frozen=True)
class LearnedPrior:
    """What SWAG, or another method, learned about weights.

    Attributes:
        mean: μ [P], float32.
        variance: v [P], the variance of each weight.
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
        """Prefix of the names of its model without the head; empty where they have none."""
        return str(self.record.get("model", {}).get("base", ""))

    @property
    def method(self) -> str | None:
        """How it was learned, by the name that `prior` takes; None where the file does not say."""
        method = str(self.record.get("upstream", {}).get("method", "")).lower()
        return method if method in PRIORS and PRIORS[method].learned else None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, without that prefix."""
        return tuple(bare(name, self.base) for name in self.layout.names)

    def fault(self) -> str | None:
        """What is wrong with its tensors, in words; None where nothing is."""
        size = self.layout.size
        shapes = [list(getattr(self, name).shape) for name in TENSORS]
        if shapes != [[size], [size], [self.rank, size]]:
            return (
                f"mean, variance and deviations are {shapes}, and its parameters make {size}"
                " numbers"
            )
        if self.rank > size:
            return f"it has {self.rank:,} deviations of {size:,} weights"
        for name in TENSORS:
            tensor: Tensor = getattr(self, name)
            # NaN is the least and the largest of all
            if tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
                return f"'{name}' holds numbers that are not finite"
        return "a variance is negative" if bool((self.variance < 0).any()) else None

    def match(self, weights: Weights) -> Matched:
        """The prior in the coordinates of another model's θ, matched by parameter name.

        Names are compared without the prefix of the base model, so that an encoder is the same
        under any head. A parameter of the head may have the prior's name and another shape, as of
        other classes: then the prior does not know it. The centre of what it does not know is zero
        for new parameters, and the loaded weight for others.

        Raises:
            UserError: the prior is of another model: a parameter that both have differs in shape,
                one that is neither new nor free is missing, it knows a layer in part, or nothing.
        """
        known = dict(zip(self.names, self.layout.entries, strict=True))
        taken: dict[str, ParameterSpec] = {}
        missing, lacking, reshaped = [], [], []
        for entry in weights.layout.entries:
            found = known.get(bare(entry.name, weights.base))
            if found is not None and found.shape == entry.shape:
                taken[entry.name] = found
            elif entry.name in weights.new or entry.name in weights.free:
                missing.append(entry.name)
            elif found is None:
                lacking.append(entry.name)
            else:
                reshaped.append((entry, found))
        name = self.record.get("model", {}).get("name")
        other = "`prior_path`: the prior is of another model" + (
            f" ({name[:80]!r})" if name else ""
        )
        if reshaped:
            here, there = reshaped[0]
            more = f", and {len(reshaped) - 1} more differ" if len(reshaped) > 1 else ""
            raise UserError(
                f"{other}: '{here.name}' is {list(here.shape)} here and {list(there.shape)}"
                f" there{more}; name the prior of this model"
            )
        if lacking or not taken:
            raise UserError(
                f"{other}: it does not know {listed(lacking or missing)}; name the prior of this"
                " model, or choose `parameters` that it knows"
            )
        layers = {_layer(name) for name in taken} - {""}
        parts = [name for name in missing if _layer(name) in layers]
        if parts:
            raise UserError(
                f"{other}: of the layer '{_layer(parts[0])}' it does not know {listed(parts)}; name"
                " the prior of this model"
            )
        return self._placed(weights, taken, missing)

    def _placed(
        self, weights: Weights, taken: Mapping[str, ParameterSpec], missing: Collection[str]
    ) -> Matched:
        """The prior's numbers at the places of θ, on its device."""
        layout, loaded, device = weights.layout, weights.theta.detach(), weights.theta.device
        loaded = loaded.cpu().float()
        mean, variance = loaded.clone(), torch.zeros(layout.size)
        deviations = torch.zeros(self.rank, layout.size)
        there = torch.zeros(layout.size, dtype=torch.bool)
        for entry in layout.entries:
            here = slice(entry.offset, entry.offset + entry.numel)
            found = taken.get(entry.name)
            if found is not None:
                source = slice(found.offset, found.offset + found.numel)
                mean[here], variance[here] = self.mean[source], self.variance[source]
                deviations[:, here] = self.deviations[:, source]
                there[here] = True
            elif entry.name in weights.new:
                mean[here] = 0
        used = {entry.name for entry in taken.values()}
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
        """What a run keeps of how the two match."""
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
