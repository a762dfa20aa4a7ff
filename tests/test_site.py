"""The documentation site builds strictly and asks no other machine for anything."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("mkdocs")
pytest.importorskip("material")


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "site_hook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class _Loads(HTMLParser):
    """What a browser fetches for a page, by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
        if tag in name and given.get("rel") != "canonical":
            self.found.append(given.get(name[tag]) or "")


def test_nothing_comes_from_another_machine(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        loads = _Loads()
        loads.feed(page.read_text("utf-8"))
        assert [x for x in loads.found if re.match(r"(https?:)?//", x)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", sheet.read_text("utf-8")), sheet


def test_pages_that_are_made(site: Path) -> None:
    assert "What it can do" in (site / "index.html").read_text("utf-8")
    assert "scanseg.segmenter.Segmenter" in (site / "api/segmenter/index.html").read_text("utf-8")
    assert "--labels-file" in (site / "command_line/index.html").read_text("utf-8")
    assert "low-frequency" in (site / "decisions/index.html").read_text("utf-8")


def test_links_that_leave_the_folder(hook: ModuleType) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="results/embedded_head.md"))

    def seen(markdown: str) -> str:
        return hook.on_page_markdown(markdown, page=page, config=None, files=None)

    assert (
        seen("[it](../../src/scanseg/segmenter.py)")
        == "[it](../api/segmenter.md#scanseg.segmenter)"
    )
    assert seen("[all](../decisions/)") == "[all](../decisions/index.md)"
    assert seen("[a test](../../tests/test_fusion.py)") == "a test"
    assert seen("[start](../../README.md#install)") == "[start](../index.md#install)"
    assert seen("[out](https://example.org/x.md)") == "[out](https://example.org/x.md)"
    fenced = "```\n[it](../../src/scanseg/segmenter.py)\n```"
    assert seen(fenced) == fenced


def test_navigation_takes_what_exists(hook: ModuleType) -> None:
    config = hook.on_config(SimpleNamespace())
    how_to = next(v for entry in config.nav for k, v in entry.items() if k == "How to")
    docs = {p.name for p in (ROOT / "docs").glob("*.md")}
    others = {p for pages in hook.SECTIONS.values() for p in pages}
    assert docs - {"method.md", "paper_to_code.md", "gallery.md"} <= set(how_to)
    assert "metrics.md" in others
    assert all((ROOT / "docs" / p).is_file() for p in how_to if p != "command_line.md")
