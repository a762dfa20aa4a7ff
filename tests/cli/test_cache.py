"""``scanseg cache``: it measures and removes what is in the cache, and nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from scanseg.cli import main

DAY = 86_400


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with three files of 1, 2 and 3 kB, written 10, 5 and 0 days ago."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SCANSEG_CACHE", str(folder))
    for number, (name, days) in enumerate([("old", 10), ("middle", 5), ("new", 0)], start=1):
        path = folder / "text" / "deep" / f"{name}.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000 * number)
        when = time.time() - days * DAY
        os.utime(path, (when, when))
    (folder / "somebody's letters").write_text("keep me")
    return folder


def left(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.rglob("*") if p.is_file())


def test_where(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "where"]) == 0
    assert capsys.readouterr().out == f"{cache}\n"


def test_size(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "size"]) == 0
    assert capsys.readouterr().out == "text embeddings: 6.0 kB in 3 files\n"
    assert main(["cache", "size", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"text": {"files": 3, "bytes": 6000}}


def test_prune_by_age(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "prune", "--older-than", "7"]) == 0
    assert left(cache) == ["middle.sqlite", "new.sqlite", "somebody's letters"]
    assert "freed 1.0 kB (1 file)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        ("6000", ["middle.sqlite", "new.sqlite", "old.sqlite"]),
        ("5999B", ["middle.sqlite", "new.sqlite"]),
        ("0.004 MB", ["new.sqlite"]),
        ("0", []),
    ],
)
def test_prune_by_size_removes_the_oldest_first(cache: Path, size: str, kept: list[str]) -> None:
    assert main(["cache", "prune", "--max-size", size]) == 0
    assert left(cache) == [*kept, "somebody's letters"]


def test_prune_by_both(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "prune", "--older-than", "7", "--max-size", "3kb"]) == 0
    assert "freed 3.0 kB (2 files)" in capsys.readouterr().out
    assert left(cache) == ["new.sqlite", "somebody's letters"]


def test_dry_runs_remove_nothing(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(cache)
    assert main(["cache", "prune", "--max-size", "0", "--dry-run"]) == 0
    assert main(["cache", "clear", "--dry-run"]) == 0
    assert left(cache) == before
    assert capsys.readouterr().out.count("would free 6.0 kB (3 files)") == 2


def test_clear_removes_the_cache_and_nothing_else(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "photo.jpg").touch()
    (cache / "text" / "link").symlink_to(outside, target_is_directory=True)
    assert main(["cache", "clear"]) == 0
    assert left(cache) == ["somebody's letters"]
    assert (outside / "photo.jpg").exists()
    assert "freed 6.0 kB (3 files)" in capsys.readouterr().out


def test_a_linked_cache_folder_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a").touch()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "text").symlink_to(tmp_path / "precious", target_is_directory=True)
    monkeypatch.setenv("SCANSEG_CACHE", str(tmp_path / "cache"))
    assert main(["cache", "clear"]) == 0
    assert (tmp_path / "precious" / "a").exists()


def test_no_cache_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCANSEG_CACHE", str(tmp_path / "nothing"))
    assert main(["cache", "size"]) == 0
    assert main(["cache", "clear"]) == 0
    assert "freed 0 B (0 files)" in capsys.readouterr().out
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["prune"], "say what to remove"),
        (["prune", "--max-size", "much"], "--max-size 'much' is no size"),
        (["prune", "--max-size", "5 bananas"], "is no size"),
        (["prune", "--older-than", "-1"], "must be a number of days"),
        (["prune", "--older-than", "nan"], "--older-than cannot be 'nan': give a number"),
        (["emtpy"], "has no 'emtpy'"),
    ],
)
def test_mistakes(
    cache: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", *arguments]) == 2
    assert line in capsys.readouterr().err
    assert len(left(cache)) == 4
