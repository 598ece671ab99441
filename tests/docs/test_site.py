"""The documentation builds as a site, without a network and without a warning."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("zensical", reason="the extra docs is not installed")
pytest.importorskip("mkdocstrings_handlers.python", reason="the extra docs is not installed")


class References(HTMLParser):
    """What a page loads and links, and the anchors that it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag in {"script", "img", "source", "iframe"} and "src" in values:
            self.loads.append(values["src"])
        if tag == "link" and "href" in values:
            self.loads.append(values["href"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, from a copy of what it is made of."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copytree(
        ROOT / "bayesgen", folder / "bayesgen", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "mkdocs.yml", folder)
    # Addresses on the web cannot be reached through a proxy that is not there.
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=folder,
        env={**os.environ, **proxies},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def test_every_page_is_there_and_nothing_comes_from_the_web(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    sources = {p.relative_to(ROOT / "docs").with_suffix("") for p in (ROOT / "docs").rglob("*.md")}
    assert sources <= {page.relative_to(site).with_suffix("") for page in pages}
    for page in pages:
        outside = [url for url in References(page).loads if re.match(r"(https?:)?//", url)]
        assert not outside, f"{page.name}: {outside}"


def test_every_link_and_picture_leads_somewhere(site: Path) -> None:
    found = {page: References(page) for page in site.rglob("*.html") if page.name != "404.html"}
    for page, references in found.items():
        for url in (*references.links, *references.loads):
            path, _, anchor = url.partition("#")
            if re.match(r"[a-z]+:", url) or path == ".":
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{page.name}: {url}"
            if anchor and target in found:
                assert anchor in found[target].anchors, f"{page.name}: {url}"


def test_the_reference_has_the_public_names(site: Path) -> None:
    import bayesgen

    shown = References(site / "reference" / "api.html").anchors
    assert {f"bayesgen.{name}" for name in bayesgen.__all__} <= shown
