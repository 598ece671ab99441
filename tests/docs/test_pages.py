"""README and docs/ are true: links lead somewhere, code compiles, commands have these flags."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from bayesgen.cli.main import main
from tests.docs.pages import DOCS, PAGES, ROOT, Block, anchors, blocks, commands, prose

PYTHON = [block for page in PAGES for block in blocks(page, "python")]
SHELL = [block for page in PAGES for block in blocks(page, "sh")]
COMMANDS = [(str(block), words) for block in SHELL for words in commands(block)]


def links(page: Path) -> list[str]:
    """Where the links and pictures of `page` lead, but for addresses on the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if DOCS in page.parents:
            assert DOCS in target.parents, f"{link} leaves the site"
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_navigation_once() -> None:
    def leaves(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        assert isinstance(entry, dict | list)
        return [leaf for value in values for leaf in leaves(value)]

    listed = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_compile(block: Block) -> None:
    ast.parse(block.code, str(block))


def names(block: Block) -> Iterator[str]:
    """What a Python block takes from the package, dotted."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bayesgen":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if re.fullmatch(r"bayesgen(\.\w+)+", dotted):
                yield dotted


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_names_of_the_package_exist(block: Block) -> None:
    for name in names(block):
        if "export" in name or ".lora" in name or "sentence" in name:
            pytest.importorskip("transformers")
        first, *rest = name.split(".")
        found = importlib.import_module(first)
        for part in rest:
            with contextlib.suppress(ImportError):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)


@cache
def help_of(*words: str) -> str:
    """Everything that `bayesgen WORDS --help-all` prints."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        for flag in ("--help-all", "--help"):
            with contextlib.suppress(SystemExit):
                main([*words, flag])
    return shown.getvalue()


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_commands_have_these_flags(where: str, words: list[str]) -> None:
    flags = [word for word in words if word.startswith("--")]
    command = words[: 2 if words[:1] == ["prior"] else 1]
    if "--sampler" in words:
        command = [*command, *words[words.index("--sampler") :][:2]]
    known = set(re.findall(r"--[a-z][a-z0-9-]*", help_of(*command)))
    assert known, f"{where}: bayesgen {' '.join(command)} shows no help"
    assert set(flags) <= known | {"--help", "--help-all"}, where


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for block in SHELL:
        for target in re.findall(r"^make ([a-z-]+)", block.code, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{block}: make {target}"


def test_scripts_that_are_named_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"\b((?:scripts|results|benchmarks|examples)/[\w./]*\w)", text)
        for name in named:
            assert (ROOT / name).exists(), f"{page.name}: {name}"
