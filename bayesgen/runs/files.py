"""Files that are either whole or not there, and what `run.json` says of a run.

A file is written beside its place, synced and renamed into it. A record is read with checks and
written without loss: keys that this version does not know are kept, and those that came later may
be absent, so that runs of every version can be read, continued and scored.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NotRequired, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetPydanticSchema
from pydantic import ValidationError as Invalid
from safetensors.torch import save
from torch import Tensor
from typing_extensions import TypedDict

from bayesgen.errors import UserError

DEEPEST = 20
"""Of records in records: a file that nests deeper was made to break its readers."""


def atomic_write(path: Path, data: bytes) -> None:
    """Put `data` at `path`: the old file is there or the new one, never a part, nothing else."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"'{path}' could not be written ({error.strerror or error}); put that right and give"
            " the command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def atomic_save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The same for a safetensors file."""
    atomic_write(path, save(dict(tensors), metadata=dict(metadata)))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finite(content: Any) -> Any:
    """`content` with numbers that JSON cannot hold (NaN, infinities) as null."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def parse_record(text: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises ValueError where it is none, or is nested too deeply."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for every in inner for each in every if isinstance(each, dict | list)]
    if level:
        raise ValueError("nested too deeply")
    return content


Count = Annotated[int, Field(ge=1)]
ADAPTERS = ("lora_r", "lora_alpha", "lora_targets")
"""Settings that a run with adapters has; runs from before there were adapters do not."""


def adds_up(rows: Any) -> Any:
    """`rows`, if they are those of a `bayesgen.parameters.Layout`: each starts where the last ends.
    Raises ValueError where they are not."""
    end, names = 0, set()
    try:
        for row in rows:
            name, shape, offset = row["name"], row["shape"], row["offset"]
            kinds = [type(name), type(offset), type(shape), *map(type, shape)]
            if kinds[:3] != [str, int, list] or {*kinds[3:]} - {int} or min(shape, default=0) < 0:
                raise TypeError
            if offset != end or name in names:
                raise TypeError
            end += math.prod(shape)
            names.add(name)
    except (TypeError, KeyError):
        end = 0
    if end == 0:
        raise ValueError("names, shapes and offsets of its parameters do not add up")
    return rows


class _Settings(TypedDict):
    """What a run is continued, scored and exported with, of its settings."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]
    corpus: str
    data_dir: str | None
    meta_path: str | None
    parameters: str
    seed: Annotated[int, Field(ge=0)]
    task: str
    temperature: int | float
    train_samples: Count | None
    lora_r: NotRequired[Count]
    lora_alpha: NotRequired[int | float]
    lora_targets: NotRequired[str | None]


class _Part(BaseModel):
    """A JSON object; keys without an attribute are kept."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    def to_json(self) -> dict[str, Any]:
        """What it was read from, or made of."""
        return self.model_dump(exclude_unset=True)


class ModelRecord(_Part):
    name: str
    family: str
    task: str | None = None
    config: dict[str, Any] = {}
    sha256: str


class DataRecord(_Part):
    """The data of a run: name, fingerprint, and the classes of labelled data."""

    name: str
    sha256: str
    classes: list[str] | None = None


class StartRecord(_Part):
    """The run whose mean weights are the start, their hash, and the gradients that led there."""

    run: str
    sampler: str
    sha256: str
    gradient_evaluations: int


class OpeningRecord(_Part):
    """The table that was printed before the run: rows (label, text), numbers, warnings."""

    rows: list[Any]
    numbers: dict[str, Any] = {}
    warnings: list[Any]


class RunRecord(_Part):
    """The content of `run.json`.

    Attributes:
        sources: where those settings came from that are not the default.
        num_observations: N; `num_bayesian` is P.
        parameters: name, shape and offset of each parameter in θ: `Layout.from_json` reads them.
        prior: what the prior says of itself, and the hash of its file.
    """

    sampler: str
    created: str | None = None
    command: list[Any] = []
    settings: Annotated[Mapping[str, Any], GetPydanticSchema(lambda _, handler: handler(_Settings))]
    sources: dict[str, Any]
    model: ModelRecord
    start: StartRecord | None = None
    data: DataRecord
    block_size: Count
    num_observations: Count
    num_parameters: Count
    num_bayesian: Count
    opening: OpeningRecord
    versions: dict[str, Any]
    machine: dict[str, Any] = {}
    parameters: Annotated[list[dict[str, Any]], BeforeValidator(adds_up)]
    prior: dict[str, Any] = {}

    @classmethod
    def read(cls, content: Mapping[str, Any], path: Path) -> Self:
        """The record in `content`, which the file `path` holds."""
        try:
            record = cls.model_validate(content)
        except Invalid as error:
            raise wrong(path, *error.errors()[0]["loc"]) from None
        settings = record.settings
        adapted = "lora" in map(str.strip, settings["parameters"].split(","))  # see names_adapters
        for name in (*(ADAPTERS if adapted else ()), *record.sources):
            if name not in settings:
                raise wrong(path, "settings", name)
        if record.start is None and settings.get("init_from") is not None:
            raise wrong(path, "start")
        return record


def wrong(path: Path, *key: str | int) -> UserError:
    """What is said of a file that lacks a key, or where it holds something else."""
    name = ".".join(part for part in key if isinstance(part, str))
    return UserError(
        f"'{path}': '{name}' is missing or wrong; the file was damaged or written by another"
        " version: copy it back, or use that version"
    )
