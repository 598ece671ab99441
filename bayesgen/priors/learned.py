"""A prior learned from pretraining, as one file that describes itself.

    N(μ, λ · ½ (diag(v) + Qᵀ Q) + ε I),   Q [K, P]

The safetensors file holds `mean` (μ), `variance` (v) and `deviations` (Q, already divided by
√(K − 1)), and as metadata the parameters that they are of, the model that they belong to, and how
they were learned. λ multiplies a covariance: both of its parts (Maddox et al. 2019,
https://arxiv.org/abs/1902.02476, eq. 1; Shwartz-Ziv et al. 2022, https://arxiv.org/abs/2205.10279,
section 3.2).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.parameters import Layout
from bayesgen.priors.low_rank import LowRankGaussian
from bayesgen.runs import atomic_save

KEY = "bayesgen_prior"
FORMAT = 1
CONVENTION = (
    "theta ~ N(mean, scale * 0.5 * (diag(variance) + deviations^T deviations) + epsilon * I);"
    " deviations [K, P] are already divided by sqrt(K - 1); scale multiplies the covariance"
)
TENSORS = ("mean", "variance", "deviations")
SHOWN = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class LearnedPrior:
    """What SWAG, or another method, learned about weights.

    Attributes:
        mean: μ [P], float32.
        variance: v [P], the variance of each weight.
        deviations: Q [K, P].
        layout: names, shapes and offsets of the P weights.
        record: `model` (name, sha256, base: the prefix of the names of the model without its head)
            and `upstream` (how it was learned, the number of collected models among it).
    """

    mean: Tensor
    variance: Tensor
    deviations: Tensor
    layout: Layout
    record: Mapping[str, Any]

    @property
    def rank(self) -> int:
        return len(self.deviations)

    def write(self, path: Path) -> None:
        """Put the file at `path`; whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        content = {
            "format": FORMAT,
            "convention": CONVENTION,
            "rank": self.rank,
            "parameters": self.layout.to_json(),
            **self.record,
        }
        tensors = {name: getattr(self, name).float().cpu().contiguous() for name in TENSORS}
        atomic_save(path, tensors, {KEY: json.dumps(content)})

    @classmethod
    def read(cls, path: Path, flag: str = "--prior-path") -> LearnedPrior:
        """The prior in the file at `path`; nothing in it is executed.

        Raises:
            UserError: there is none, it is damaged, or it is none of ours.
        """
        if not path.is_file():
            raise UserError(f"{flag}: no file at '{path}'; scripts/learn_prior.py writes one")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if KEY not in metadata or not set(TENSORS) <= set(file.keys()):
                    raise UserError(
                        f"{flag}: '{path}' holds no prior (its metadata lack '{KEY}'); published"
                        " files are imported by: bayesgen prior import"
                    )
                content = json.loads(metadata[KEY])
                tensors = {name: file.get_tensor(name) for name in TENSORS}
            layout = Layout.from_json(content.pop("parameters"))
            known = content.pop("format")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{flag}: '{path}' is damaged ({error}); copy it anew") from error
        if known != FORMAT:
            raise UserError(
                f"{flag}: '{path}' has format {known}, and this version reads {FORMAT}; learn the"
                " prior anew"
            )
        for key in ("rank", "convention"):
            content.pop(key, None)
        prior = cls(**tensors, layout=layout, record=content)
        prior._check(path, flag)
        return prior

    def _check(self, path: Path, flag: str) -> None:
        """Refuse numbers that no prior can have."""
        size = self.layout.size
        shapes = [list(getattr(self, name).shape) for name in TENSORS]
        if shapes != [[size], [size], [self.rank, size]]:
            raise UserError(
                f"{flag}: '{path}' is damaged: mean, variance and deviations are {shapes}, and its"
                f" parameters make {size}; copy it anew"
            )
        finite = all(bool(getattr(self, name).isfinite().all()) for name in TENSORS)
        if not finite or bool((self.variance < 0).any()):
            raise UserError(
                f"{flag}: '{path}' holds numbers that are not finite, or negative variances; learn"
                " the prior anew"
            )

    def on(
        self,
        layout: Layout,
        *,
        new: Collection[str] = (),
        base: str = "",
        flag: str = "--prior-path",
    ) -> Placed:
        """The prior in the coordinates of another model's θ, matched by name.

        Names are compared without the prefix of the base model, so that an encoder is the same
        under any head.

        Args:
            layout: of that θ.
            new: its parameters that no training has seen, such as a new head's: the only ones that
                the prior need not know.
            base: prefix of the names of its base model.

        Raises:
            UserError: a parameter that both have differs in shape, or one that is not new is
                missing.
        """
        own = str(self.record.get("model", {}).get("base", ""))
        known = {_bare(entry.name, own): entry for entry in self.layout.entries}
        mean, variance = torch.zeros(layout.size), torch.zeros(layout.size)
        deviations = torch.zeros(self.rank, layout.size)
        there = torch.zeros(layout.size, dtype=torch.bool)
        missing = []
        for entry in layout.entries:
            found = known.pop(_bare(entry.name, base), None)
            if found is None:
                missing.append(entry.name)
                continue
            if found.shape != entry.shape:
                raise UserError(
                    f"{flag}: the prior is of another model: '{entry.name}' is {list(entry.shape)}"
                    f" here and {list(found.shape)} there; name the prior of this model"
                )
            here = slice(entry.offset, entry.offset + entry.numel)
            source = slice(found.offset, found.offset + found.numel)
            mean[here], variance[here] = self.mean[source], self.variance[source]
            deviations[:, here] = self.deviations[:, source]
            there[here] = True
        lacking = [name for name in missing if name not in new]
        if lacking or not there.any():
            raise UserError(
                f"{flag}: the prior is of another model: it does not know"
                f" {listed(lacking or missing)}; name the prior of this model, or choose"
                " --parameters that it knows"
            )
        extra = tuple(entry.name for entry in known.values())
        return Placed(mean, variance, deviations, there, tuple(missing), extra)


@dataclass(frozen=True)
class Placed:
    """A learned prior in the coordinates of one θ [P].

    Attributes:
        mean, variance: [P], and deviations [K, P]; zero where the prior knows nothing.
        there: [P] bool, where it does.
        missing: parameters of θ that it does not know.
        extra: parameters that it knows and θ has not.
    """

    mean: Tensor
    variance: Tensor
    deviations: Tensor
    there: Tensor
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def density(
        self, scale: float, *, epsilon: float, head_std: float, theta: Tensor
    ) -> LowRankGaussian:
        """The prior of θ: what was learned at scale λ, and N(0, head_std²) on what is new.

        Args:
            scale: λ, positive.
            epsilon: ε, the variance that every weight has at least, positive.
            theta: [P], gives the device.
        """
        diagonal = torch.where(
            self.there, 0.5 * scale * self.variance + epsilon, torch.tensor(head_std**2)
        )
        factor = (0.5 * scale) ** 0.5 * self.deviations
        device = theta.device
        words = f"learned, λ = {scale:g}"
        if self.missing:
            words += f", new parameters N(0, {head_std:g}²)"
        return LowRankGaussian(self.mean.to(device), diagonal.to(device), factor.to(device), words)


def listed(names: Collection[str]) -> str:
    """Some names in words."""
    shown = ", ".join(f"'{name}'" for name in list(names)[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _bare(name: str, base: str) -> str:
    """`name` without the prefix of the base model."""
    return name.removeprefix(f"{base}.") if base else name
