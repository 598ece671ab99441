"""Tables of labelled texts that the tests write, and how they are read or refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from bayesgen.data.labelled import (
    LabelledCorpus,
    load_labelled,
)
from bayesgen.errors import UserError

CLASSES = "sequence-classification"
SCORES = "regression"
ROWS = [(f"text number {i}", ("neg", "pos")[i % 2]) for i in range(20)]
TSV = "".join(f"{text}\t{label}\n" for text, label in ROWS)


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def load(path: Path | str, task: str = CLASSES, **kwargs: Any) -> LabelledCorpus:
    return load_labelled(str(path), task=task, **kwargs)


def refuse(path: Path | str, task: str = CLASSES, **kwargs: Any) -> str:
    with pytest.raises(UserError) as error:
        load(path, task, **kwargs)
    return one_line(error)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


# Files


def written(kind: str, rows: list[tuple[str, ...]], header: tuple[str, ...]) -> str:
    if kind == "jsonl":
        return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)
    stream = io.StringIO()
    if kind == "csv":
        csv.writer(stream).writerows([header, *rows])
        return stream.getvalue()
    return "".join("\t".join(row) + "\n" for row in [header, *rows])
