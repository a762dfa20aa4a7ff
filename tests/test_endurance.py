"""Seconds of what ``benchmarks/endurance.py`` does for thousands of photos, and its arithmetic."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from footprint import Footprint, growth, left_in, slope

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("through", "photos"), [("python", 90), ("batch", 160)])
def test_many_photos_leave_nothing_behind(through: str, photos: int) -> None:
    found = subprocess.run(
        [
            *[sys.executable, str(ROOT / "benchmarks" / "endurance.py"), "--side", "32"],
            *["--through", through, "--photos", str(photos), "--most-growth", "150"],
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"child processes 0 -> 0\nleft in the temporary folder: nothing", found.stdout)


def test_growth_and_slope_of_a_line() -> None:
    memory = [1000.0 + 7 * i for i in range(200)]
    assert slope(memory) == pytest.approx((7, 0), abs=1e-9)
    assert growth(memory) == pytest.approx(7 * 180)  # from the middle of 0..19 to that of 180..199


def test_slope_of_noise_is_within_its_interval() -> None:
    rate, error = slope([1000.0 + (i * 7919) % 13 for i in range(260)])
    assert error > 0
    assert abs(rate) < error


def test_a_footprint_counts_files_threads_and_children(tmp_path: Path) -> None:
    before = Footprint.of()
    with (tmp_path / "a").open("wb"):
        assert Footprint.of().files == before.files + 1
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert Footprint.of().children == before.children + 1
    finally:
        child.communicate()
    assert Footprint.of().children == before.children


def test_what_is_left_in_a_folder(tmp_path: Path) -> None:
    assert left_in(tmp_path) == []
    (tmp_path / "torchinductor_me").mkdir()
    (tmp_path / "tmpabc").write_text("")
    assert left_in(tmp_path) == ["tmpabc"]
