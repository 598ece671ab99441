"""The file of a learned prior: μ, v and Q in safetensors, and as metadata the parameters that they
are of, the model that they belong to, and how they were learned (docs/reference/prior-file.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bayesgen.errors import UserError
from bayesgen.parameters import Layout
from bayesgen.priors.learned import SHIFT, TENSORS, LearnedPrior
from bayesgen.runs.files import adds_up, atomic_save, file_sha256, finite, parse_record

FILE = "prior.safetensors"
"""The name of a prior in a folder."""
KEY = "bayesgen_prior"
FORMAT = 1
CONVENTION = (
    "theta ~ N(mean, scale * 0.5 * (diag(variance) + deviations^T deviations) + epsilon * I);"
    " deviations [K, P] are already divided by sqrt(K - 1); scale multiplies the covariance"
)
FARTHEST = 1e6
"""More than a path is long."""


def write_prior(prior: LearnedPrior, path: Path) -> None:
    """Put the file at `path`; whole or not at all."""
    content = {
        "format": FORMAT,
        "convention": CONVENTION,
        "rank": prior.rank,
        "parameters": prior.layout.to_json(),
        **prior.record,
    }
    tensors = {name: getattr(prior, name).float().cpu().contiguous() for name in TENSORS}
    atomic_save(path, tensors, {KEY: json.dumps(finite(content), allow_nan=False)})


def read_prior(path: Path, setting: str = "`prior_path`") -> LearnedPrior:
    """The prior in the file at `path`, or in the folder; nothing in it is executed.

    Raises:
        UserError: there is none, it is damaged, or it is none of ours.
    """
    with _opened(path, setting) as (file, name):
        metadata = file.metadata() or {}
        if KEY not in metadata:
            raise UserError(
                f"{name} holds no prior (its metadata lack '{KEY}'); published files are imported"
                " by: bayesgen prior import"
            )
        layout, record = _described(metadata[KEY], name)
        rank = record.pop("rank", None)
        record.pop("convention", None)
        for key in TENSORS:
            if file.get_slice(key).get_dtype() != "F32":
                raise ValueError(f"'{key}' is not float32")
        tensors = {key: file.get_tensor(key) for key in TENSORS}
        prior = LearnedPrior(**tensors, layout=layout, record=record)
        if rank != prior.rank:
            raise ValueError(f"it has {prior.rank} deviations, and says otherwise")
        collected = record.get("upstream", {}).get("collected")
        if isinstance(collected, int) and collected < prior.rank:
            raise ValueError(f"{prior.rank} deviations of {collected} collected models")
        if (fault := prior.fault()) is not None:
            raise ValueError(fault)
    return prior


def rank_in(path: Path) -> int:
    """K of the prior in the file or folder `path`, without reading its numbers."""
    with _opened(path, "`prior_path`") as (file, _):
        return int(file.get_slice("deviations").get_shape()[0])


def fingerprint(path: Path) -> str:
    """sha256 of the file of a prior, or of that in a folder."""
    return file_sha256(path / FILE if path.is_dir() else path)


@contextmanager
def _opened(path: Path, setting: str) -> Iterator[tuple[Any, str]]:
    """The file at `path` or in the folder, and what messages call it; refused where there is none,
    or whatever is done with it shows that it is damaged."""
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            f"{setting}: no file at '{path}'; bayesgen prior learn or a run with"
            " `sampler=laplace` writes one, and bayesgen prior import makes one of published files"
        )
    name = f"{setting}: '{path}'"
    try:
        with safe_open(path, framework="pt") as file:
            yield file, name
    except (
        OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
    ) as error:  # fmt: skip
        text = " ".join(str(error).split()) or type(error).__name__
        line = "".join(c for c in text if c.isprintable())[:200]
        raise UserError(f"{name} is damaged ({line}); copy it anew") from error


def _described(text: str, name: str) -> tuple[Layout, dict[str, Any]]:
    """The layout and the rest of what the metadata say; a `ValueError` where it cannot be true."""
    content = parse_record(text)
    if content.pop("format", None) != FORMAT:
        raise UserError(
            f"{name} has another format than this version reads ({FORMAT}); learn the prior anew,"
            " or use the version that wrote it"
        )
    layout = Layout.from_json(adds_up(content.pop("parameters", None)))
    model, upstream = content.get("model", {}), content.get("upstream", {})
    if not (isinstance(model, dict) and isinstance(upstream, dict)):
        raise ValueError("'model' or 'upstream' is no record")
    base = model.get("base", "")
    if not (isinstance(base, str) and isinstance(model.get("name", ""), str | None)):
        raise ValueError("the model's name or base is no text")
    shift = upstream.get(SHIFT) or 0.0
    if isinstance(shift, bool) or not isinstance(shift, int | float) or abs(shift) > FARTHEST:
        raise ValueError(f"'{SHIFT}' is no number, or cannot be")
    # names stand in messages, which are one line and leave the terminal as it is
    if not all(name.isprintable() for name in layout.names):
        raise ValueError("a parameter's name cannot be printed")
    if len({name.removeprefix(f"{base}.") for name in layout.names}) < len(layout.names):
        raise ValueError(f"two of its parameters have one name beside the prefix '{base}'")
    return layout, content
