from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from scanseg.cli import EXIT_MISTAKE, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "python_multipart", "psutil"])
def test_a_missing_package_names_the_extra(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["serve"]) == EXIT_MISTAKE
    assert capsys.readouterr().err == (
        'scanseg: scanseg serve needs an optional part: pip install "scanseg[web]"\n'
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["web"]
    assert any(line.startswith(package.replace("_", "-")) for line in extra)


def test_help_says_what_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "without any password" in text
    for option in ("--max-mb", "--max-seconds", "--allow-host", "--open", "--lazy"):
        assert option in text


def test_the_page_is_part_of_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "src" / "scanseg"
    packed = {f for glob in settings["package-data"]["scanseg"] for f in package.glob(glob)}
    page = set((package / "web" / "static").iterdir())
    assert {f.name for f in page} >= {"index.html", "docs.html", "app.js", "style.css", "icon.svg"}
    assert page <= packed
