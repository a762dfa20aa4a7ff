"""Killed jobs and Ray: small runs of what ``benchmarks/batch_kills.py`` does at length."""

from __future__ import annotations

import importlib.util
import random
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    path = ROOT / "benchmarks" / "batch_kills.py"
    spec = importlib.util.spec_from_file_location("batch_kills", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def reference(kills: ModuleType, many_photos: Path, tmp_path: Path) -> Path:
    """An undisturbed run on twenty photos and a damaged one."""
    kills.chosen_photos(many_photos, 20, tmp_path / "chosen")
    kills.run(tmp_path / "chosen", tmp_path / "reference")
    return tmp_path / "reference"


@pytest.mark.slow
def test_a_job_that_is_killed_three_times(
    kills: ModuleType, reference: Path, tmp_path: Path
) -> None:
    draw, output = random.Random(0), tmp_path / "output"
    kills.kill_local(tmp_path / "chosen", output, 3, 0.3, draw)
    assert kills.differences(reference, output) == []


@pytest.mark.slow
def test_ray_gives_the_same_files(kills: ModuleType, reference: Path, tmp_path: Path) -> None:
    kills.run(tmp_path / "chosen", tmp_path / "output", "--engine", "ray")
    assert kills.differences(reference, tmp_path / "output") == []


def test_the_comparison_sees_differences(
    kills: ModuleType, reference: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    shutil.copytree(reference, output)
    assert kills.differences(reference, output) == []
    shutil.copy(output / "segments/shard-000000.parquet", output / "segments/shard-000001.parquet")
    shutil.copy(output / "images/shard-000000.parquet", output / "images/shard-000001.parquet")
    (output / "run.json").write_text("{}")
    assert kills.differences(reference, output) == [
        "run.json",
        "segments/shard-000001.parquet",
        "images/shard-000001.parquet",
        "a photo is missing or there twice",
    ]
