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

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bayesgen.config import LEARNED_PRIORS
from bayesgen.errors import UserError
from bayesgen.parameters import Layout
from bayesgen.priors.placed import Placed, bare, place
from bayesgen.runs import atomic_save, file_sha256, finite
from bayesgen.runs.record import adds_up

FILE = "prior.safetensors"
"""The name of a prior in a folder."""
KEY = "bayesgen_prior"
FORMAT = 1
CONVENTION = (
    "theta ~ N(mean, scale * 0.5 * (diag(variance) + deviations^T deviations) + epsilon * I);"
    " deviations [K, P] are already divided by sqrt(K - 1); scale multiplies the covariance"
)
SHIFT = "shift"
"""Key of `upstream`: the distance of the mean from where the learning started, over the length of
that start."""
FARTHEST = 1e6
"""More than a path is long."""
MOST_LEVELS = 20
"""Of records in records: more is an attack on who prints them."""
TENSORS = ("mean", "variance", "deviations")


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
        """How it was learned, by the name that --prior knows; None where the file does not say."""
        method = str(self.record.get("upstream", {}).get("method", "")).lower()
        return method if method in LEARNED_PRIORS else None

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
        atomic_save(path, tensors, {KEY: json.dumps(finite(content), allow_nan=False)})

    @classmethod
    def read(cls, path: Path, setting: str = "`prior_path`") -> LearnedPrior:
        """The prior in the file at `path`, or in the folder; nothing in it is executed.

        Raises:
            UserError: there is none, it is damaged, or it is none of ours.
        """
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise UserError(
                f"{setting}: no file at '{path}'; scripts/learn_prior.py or a run with `sampler`"
                " laplace writes one, and 'bayesgen prior import' makes one of published files"
            )
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if KEY not in metadata:
                    raise UserError(
                        f"{setting}: '{path}' holds no prior (its metadata lack '{KEY}'); published"
                        " files are imported by: bayesgen prior import"
                    )
                layout, record = _described(metadata[KEY], path, setting)
                rank = record.pop("rank", None)
                record.pop("convention", None)
                for name in TENSORS:
                    if file.get_slice(name).get_dtype() != "F32":
                        raise ValueError(f"'{name}' is not float32")
                prior = cls(
                    **{n: file.get_tensor(n) for n in TENSORS}, layout=layout, record=record
                )
            if rank != prior.rank:
                raise ValueError(f"it has {prior.rank} deviations, and says otherwise")
            collected = record.get("upstream", {}).get("collected")
            if isinstance(collected, int) and collected < prior.rank:
                raise ValueError(f"{prior.rank} deviations of {collected} collected models")
            fault = prior.fault()
            if fault is not None:
                raise ValueError(fault)
        except _DAMAGE as error:
            raise UserError(
                f"{setting}: '{path}' is damaged ({_line(error)}); copy it anew"
            ) from error
        return prior

    def on(
        self,
        layout: Layout,
        theta: Tensor,
        *,
        new: Collection[str] = (),
        free: Collection[str] = (),
        base: str = "",
        setting: str = "`prior_path`",
    ) -> Placed:
        """The prior in the coordinates of another model's θ, matched by name: `placed.place`."""
        return place(self, layout, theta, new=new, free=free, base=base, setting=setting)


def fingerprint(path: Path) -> str:
    """sha256 of the file of a prior, or of that in a folder."""
    return file_sha256(path / FILE if path.is_dir() else path)


def rank_in(path: Path, setting: str = "`prior_path`") -> int:
    """K of the prior in the file or folder `path`, without reading its numbers.

    Raises:
        UserError: it is not there, or damaged.
    """
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        return LearnedPrior.read(path, setting).rank  # which says what to do
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.get_slice("deviations").get_shape()[0])
    except _DAMAGE as error:
        raise UserError(f"{setting}: '{path}' is damaged ({_line(error)}); copy it anew") from error


_DAMAGE = (
    OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
)  # fmt: skip
"""What a damaged or hostile file can raise while it is read."""


def _described(text: str, path: Path, setting: str) -> tuple[Layout, dict[str, Any]]:
    """The layout and the rest of what the metadata say.

    Raises:
        UserError: another version wrote them.
        ValueError: they cannot be true.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("its metadata are no record")
    if content.pop("format", None) != FORMAT:
        raise UserError(
            f"{setting}: '{path}' has another format than this version reads ({FORMAT}); learn the"
            " prior anew, or use the version that wrote it"
        )
    rows = content.pop("parameters", None)
    layout = Layout.from_json(adds_up(rows))
    model, upstream = content.get("model", {}), content.get("upstream", {})
    if not (isinstance(model, dict) and isinstance(upstream, dict)):
        raise ValueError("'model' or 'upstream' is no record")
    base = model.get("base", "")
    if not (isinstance(base, str) and isinstance(model.get("name", ""), str | None)):
        raise ValueError("the model's name or base is no text")
    shift = upstream.get(SHIFT, 0.0)
    if isinstance(shift, bool) or not isinstance(shift, int | float | None):
        raise ValueError(f"'{SHIFT}' is no number")
    if abs(shift or 0.0) > FARTHEST:
        raise ValueError(f"'{SHIFT}' cannot be")
    if _deeper(content, MOST_LEVELS):
        raise ValueError("its metadata are nested too deeply")
    # names stand in messages, which are one line and leave the terminal as it is
    if not all(name.isprintable() for name in layout.names):
        raise ValueError("a parameter's name cannot be printed")
    if len({bare(name, base) for name in layout.names}) < len(layout.names):
        raise ValueError(f"two of its parameters have one name beside the prefix '{base}'")
    return layout, content


def _deeper(content: Any, levels: int) -> bool:
    """Whether records and lists lie in each other deeper than that."""
    if not isinstance(content, dict | list):
        return False
    inner = content.values() if isinstance(content, dict) else content
    return levels == 0 or any(_deeper(each, levels - 1) for each in inner)


def _line(error: Exception) -> str:
    """What went wrong, in one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c for c in text if c.isprintable())[:200]
