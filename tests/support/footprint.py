"""What a process holds: memory, open files, threads, child processes, and temporary files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_IGNORED = ("torchinductor",)  # an empty folder that torch makes once and leaves


@dataclass(frozen=True)
class Footprint:
    """Counts over a process and all its children at one moment."""

    memory: int  # resident bytes
    files: int
    threads: int
    children: int

    @classmethod
    def of(cls, process: psutil.Process | None = None) -> Footprint:
        """Of this process, or of another one; a child that just ended counts as nothing."""
        process = process or psutil.Process()
        children = process.children(recursive=True)
        memory, files, threads = _held(process)
        for child in children:
            with suppress(psutil.Error):
                more = _held(child)
                memory, files, threads = memory + more[0], files + more[1], threads + more[2]
        return cls(memory, files, threads, len(children))


def _held(process: psutil.Process) -> tuple[int, int, int]:
    return process.memory_info().rss, process.num_fds(), process.num_threads()


def left_in(folder: Path) -> list[str]:
    """Names in a folder for temporary files, but for what torch leaves there by design."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(_IGNORED))


def growth(memory: Any) -> float:
    """Mean of the last tenth minus mean of the first, of resident bytes over a run."""
    values = np.asarray(memory, dtype=float)
    tenth = max(1, len(values) // 10)
    return float(values[-tenth:].mean() - values[:tenth].mean())


def slope(memory: Any) -> tuple[float, float]:
    """Bytes per step by least squares, and half the 95 % interval, from 20 blocks of the run."""
    values = np.asarray(memory, dtype=float)
    means = np.array([block.mean() for block in np.array_split(values, 20)])
    places = (np.arange(20) + 0.5) * len(values) / 20
    rate, start = np.polyfit(places, means, 1)
    residuals = means - (rate * places + start)
    error = np.sqrt((residuals**2).sum() / 18 / ((places - places.mean()) ** 2).sum())
    return float(rate), float(2.10 * error)  # Student's t, 18 degrees of freedom
