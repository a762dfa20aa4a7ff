"""What the tests of ``scanseg serve`` share: limits, photos, and whole servers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from scanseg.web.engine import Preset
from scanseg.web.limits import ServeLimits

TINY = (Preset("tiny", "tiny"),)
LIMITS = ServeLimits(
    max_bytes=400_000,
    max_pixels=1_000_000,
    max_labels=50,
    max_characters=500,
    max_queue=2,
    upload_seconds=1.5,
    head_seconds=1.5,
)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


class Server:
    """A running ``scanseg serve``."""

    def __init__(self, *options: str) -> None:
        source = str(Path(__file__).resolve().parents[2] / "src")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scanseg", "serve", "--port", "0", "--device", "cpu", *options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": source},
        )
        self.told: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.told.append(line)
            found = re.search(r"serving (http://localhost:(\d+)/)", line)
            if found:
                self.address, self.port = found[1], int(found[2])
                break
        else:
            raise AssertionError(f"the server did not start: {self.told}")
        self.process_tree = psutil.Process(self.process.pid)

    def memory(self) -> int:
        """Resident bytes of the server and its engine."""
        processes = [self.process_tree, *self.process_tree.children(recursive=True)]
        return sum(process.memory_info().rss for process in processes)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; returns the exit code and what was told after the start."""
        self.process.send_signal(number)
        try:
            _, rest = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, rest


@contextmanager
def running(*options: str) -> Iterator[Server]:
    server = Server(*options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
