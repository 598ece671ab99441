"""Files that are either whole or not there: written beside their place, synced, renamed into it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from bayesgen.errors import UserError

DEEPEST = 20
"""Of records in records: a file that nests deeper was made to break its readers."""


def atomic_write(path: Path, data: bytes) -> None:
    """Put `data` at `path`: the old file or the new one is there, never a part, and nothing else.

    Raises:
        UserError: it cannot be written, as on a disk that is full.
    """
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
    """Hash of a file's bytes."""
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
    """The JSON object in `text`.

    Raises:
        ValueError: it is no JSON, no object, or nested deeper than `DEEPEST`.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    if _deeper(content, DEEPEST):
        raise ValueError("nested too deeply")
    return content


def _deeper(content: Any, levels: int) -> bool:
    """Whether objects and lists lie in each other deeper than that."""
    if not isinstance(content, dict | list):
        return False
    inner = content.values() if isinstance(content, dict) else content
    return levels == 0 or any(_deeper(each, levels - 1) for each in inner)
