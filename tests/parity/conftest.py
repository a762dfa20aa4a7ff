"""The ViT-B model of the reference numbers, filled and converted once for all workers."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


def fill_checkpoint(parity: Path, keys: str, target: Path) -> None:
    """Write a checkpoint in the layout of the official ones, its values made from the names."""
    spec = importlib.util.spec_from_file_location("fill", parity / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    entries: dict[str, Any] = json.loads((parity / keys).read_text())["keys"]
    state = {
        name: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]))
        for name, entry in entries.items()
    }
    for name in fill.fill_state_dict(state):
        state[name].zero_()  # recomputed, constant or without influence
    torch.save({"model": state}, target)


CONVERT = """
import sys
from pathlib import Path
from scanseg.cli import main
code = main(["convert", sys.argv[1], "--output", sys.argv[2]])
status = Path("/proc/self/status")  # its peak is this program's own, unlike getrusage after a fork
lines = status.read_text().splitlines() if status.exists() else []
peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
Path(sys.argv[2], "peak").write_text(str(peak or ""))
sys.exit(code)
"""


def run_converter(checkpoint: Path, folder: Path) -> int | None:
    """``scanseg convert`` in a process of its own; its peak memory in bytes, if that is known."""
    command = [sys.executable, "-c", CONVERT, str(checkpoint), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    peak = (folder / "peak").read_text()
    return int(peak) if peak else None


@pytest.fixture(scope="session")
def converted_vitb(
    shared: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[Path]:
    """Folder that ``scanseg convert`` made of the filled ViT-B checkpoint (1.5 GB).

    Workers of pytest-xdist share it: the first one makes it, the last one takes it away.
    """
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent
    folder, users = base / "converted_vitb", base / "converted_vitb.users"

    def count(change: int) -> int:
        number = int(users.read_text() or 0) + change if users.exists() else change
        users.write_text(str(number))
        return number

    with (base / "converted_vitb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        count(+1)
        if not folder.exists():
            checkpoint = base / "scan_vitb.pth"
            fill_checkpoint(shared / "parity", "keys_scan_vitB.json", checkpoint)
            peak = run_converter(checkpoint, folder)
            (folder / "memory.json").write_text(
                json.dumps({"peak": peak, "checkpoint": checkpoint.stat().st_size})
            )
            checkpoint.unlink()
    yield folder
    with (base / "converted_vitb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if count(-1) == 0:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """Name of the worker, also where pytest-xdist is not in use."""
    return getattr(request.config, "workerinput", {}).get("workerid", "master")


@pytest.fixture(scope="session")
def reference(shared: Path) -> dict[str, np.ndarray]:
    """Every reference number of the released ViT-B model, by name."""
    numbers: dict[str, np.ndarray] = {}
    for file in ("parity_vitB.npz", "parity_vitB_seg.npz"):
        with np.load(shared / "parity" / file) as archive:
            numbers |= {name: archive[name] for name in archive.files if name != "meta"}
    return numbers


@pytest.fixture(scope="session")
def photo_640(shared: Path) -> torch.Tensor:
    """The resized photo, (1, 3, 640, 853) uint8."""
    from PIL import Image

    with Image.open(shared / "parity" / "photo_640.png") as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)[None]


def _sample(tensor: torch.Tensor, name: str) -> np.ndarray:
    """The part of ``tensor`` that the reference number ``name`` keeps (``name__cC_sS_tT_nN_qQ``).

    Every so many channels, rows and columns, tokens, regions, queries, counted from 0. Maps have
    their channels before rows and columns; sequences have them last.
    """
    steps = {p[0]: int(p[1:]) for p in name.partition("__")[2].split("_") if p[1:].isdigit()}
    array = tensor.detach().float().numpy()
    if "s" in steps:
        array = array[..., :: steps["s"], :: steps["s"]]
        array = array[..., :: steps.get("c", 1), :, :]
    else:
        array = array[..., :: steps.get("c", 1)]
        array = array[..., :: steps.get("t", steps.get("q", 1)), :]
    return array[:: steps["n"]] if "n" in steps else array


@pytest.fixture(scope="session")
def sample() -> Callable[[torch.Tensor, str], np.ndarray]:
    """Function (tensor, name of a reference number) -> the part of the tensor that it keeps."""
    return _sample
