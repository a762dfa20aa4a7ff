"""Checkpoints: what is cut short is never read, and every generator goes on where it was."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from scanseg.contracts import InputError
from scanseg.training.checkpoints import CheckpointStore, restore_rng, rng_state


def state(value: float) -> dict[str, object]:
    parameter = torch.nn.Parameter(torch.full((3,), value))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    return {
        "weights": {"w": parameter.detach().clone()},
        "optimizer": optimizer.state_dict(),
        "step": 3,
        "name": "x",
        "nested": [(1, 2.5, None), {"deep": True}],
    }


def test_round_trip(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    assert store.read() is None
    written = state(2.0)
    store.write(7, written)
    found = store.read()
    assert found is not None
    assert torch.equal(found["weights"]["w"], written["weights"]["w"])  # type: ignore[index]
    assert found["nested"] == [(1, 2.5, None), {"deep": True}]
    fresh = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    fresh.load_state_dict(found["optimizer"])


def test_last_ones_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20, 30, 40):
        store.write(step, {"step": step})
    assert store.steps() == [40, 30]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step_00000030.ckpt",
        "step_00000030.json",
        "step_00000040.ckpt",
        "step_00000040.json",
    ]


@pytest.mark.parametrize("damage", ["cut", "flip", "record", "gone", "garbled record"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for step in (1, 2):
        store.write(step, {"step": step, "x": torch.arange(100)})
    path, record = tmp_path / "step_00000002.ckpt", tmp_path / "step_00000002.json"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "record":
        record.unlink()
    elif damage == "gone":
        path.unlink()
    else:
        record.write_bytes(b"{")
    assert [step for step, _ in store.good()] == [1]
    assert store.read()["step"] == 1  # type: ignore[index]


def test_leftovers_of_killed_writers_go(tmp_path: Path) -> None:
    (tmp_path / ".step_00000005.ckpt.abc.tmp").write_bytes(b"half")
    (tmp_path / "step_00000004.ckpt").write_bytes(b"no record")
    (tmp_path / "notes.tmp").write_bytes(b"mine")
    CheckpointStore(tmp_path).write(6, {"step": 6})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "notes.tmp",
        "step_00000006.ckpt",
        "step_00000006.json",
    ]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickles_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "bad.ckpt"
    for write in (lambda: path.write_bytes(pickle.dumps(Evil())), lambda: torch.save(Evil(), path)):
        write()
        with pytest.raises(InputError, match="no checkpoint"):
            CheckpointStore(tmp_path).read(path)
    assert not (tmp_path / "ran").exists()


WRITER = """
import sys, torch
from pathlib import Path
from scanseg.training.checkpoints import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), keep=2)
for step in range(1, 10_000):
    store.write(step, {"step": step, "x": torch.full((200_000,), float(step))})
    print(step, flush=True)
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    """SIGKILL at two moments of a process that does nothing but write checkpoints."""
    for wait in (0.004, 0.019):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(3):
            written = int(writer.stdout.readline())
        time.sleep(wait)
        writer.send_signal(signal.SIGKILL)
        printed = writer.stdout.read().split()
        writer.wait()
        last = int(printed[-1]) if printed else written
        found = CheckpointStore(tmp_path).read()
        assert found is not None
        assert found["step"] >= last  # nothing that was reported as written is lost
        assert torch.equal(found["x"], torch.full((200_000,), float(found["step"])))
        for path in tmp_path.iterdir():
            path.unlink()


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(0, 1)]

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    draw()
    np.random.normal()  # leaves half of a pair behind
    store = CheckpointStore(tmp_path)
    store.write(1, {"rng": rng_state()})
    expected = [draw(), np.random.normal()]
    draw()
    restore_rng(store.read()["rng"])  # type: ignore[index]
    assert [draw(), np.random.normal()] == expected
