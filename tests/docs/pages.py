"""The pages that people read, and the blocks of code in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
RUNS = "<!-- runs -->"
"""Stands on the line before a Python block that a test runs."""


class Block(NamedTuple):
    """A fenced block of code."""

    page: str
    line: int
    language: str
    code: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path, language: str | None = None) -> Iterator[Block]:
    """The fenced blocks of `page`, of one `language` or of all."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language in (None, found[1]):
            before = text[: found.start()]
            yield Block(
                str(page.relative_to(ROOT)),
                before.count("\n") + 1,
                found[1],
                found[2],
                before.rstrip().endswith(RUNS),
            )


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each `bayesgen` command of a shell block, without `bayesgen`."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "bayesgen" in words:
            yield words[words.index("bayesgen") + 1 :]


def prose(page: Path) -> str:
    """The text of `page` without blocks of code."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What headings of `page` can be linked by."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())
        for heading in headings
    }
