"""The simulation behind ``docs/scale.md``, on jobs small enough to work out by hand."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "scale_simulation.py"
    spec = importlib.util.spec_from_file_location("scale_simulation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def calm(simulation: ModuleType) -> Any:
    """40 photos in 4 shards of 10, a second each, on 2 slots; nothing fails, nobody is slow."""
    return simulation.Cluster(
        images=40, machines=1, slots=2, seconds=1.0, spread=0.0, shard_size=10, shard_seconds=0.5,
        load=5.0, failure_hours=1e12, slow_share=0.0,
    )  # fmt: skip


def test_without_trouble(simulation: ModuleType, calm: Any) -> None:
    found = simulation.simulate(calm)
    assert found.hours * 3600 == pytest.approx(5 + 2 * 10.5)  # load, then two shards per slot
    assert found.ideal_hours * 3600 == pytest.approx(20)
    assert found.efficiency == pytest.approx(20 / 26)
    assert (found.failures, found.redone, found.files) == (0, 0, 8)


def test_slow_machines(simulation: ModuleType, calm: Any) -> None:
    found = simulation.simulate(replace(calm, slow_share=1.0, slow_factor=3.0))
    assert found.hours * 3600 == pytest.approx(5 + 2 * 30.5)


def test_a_tail(simulation: ModuleType, calm: Any) -> None:
    found = simulation.simulate(replace(calm, images=30))  # 3 shards on 2 slots
    assert found.hours * 3600 == pytest.approx(5 + 2 * 10.5)
    assert found.tail_hours * 3600 == pytest.approx(10.5)


def test_failures_cost_time_and_lose_nothing(simulation: ModuleType, calm: Any) -> None:
    trouble = replace(calm, images=4000, failure_hours=0.1, repair=60.0, lease=100.0)
    found, again = (simulation.simulate(trouble, seed=3) for _ in range(2))
    quiet = simulation.simulate(replace(trouble, failure_hours=1e12))
    assert found == again
    assert found.failures > 3
    assert 0 < found.redone < 0.5
    assert found.hours > quiet.hours + found.failures * 60 / 3600
