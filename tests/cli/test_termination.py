"""Commands that are told to stop leave nothing half-written and say so with their exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
_WRITER = """
import sys, time
from pathlib import Path
from scanseg import cli
from scanseg.storage import atomic_write

def slow(path: str) -> int:
    '''Write slowly.'''
    with atomic_write(path) as file:
        file.write(b'half')
        print('writing', file=sys.stderr, flush=True)
        time.sleep(60)
    return 0

sys.modules['slow_command'] = type(sys)('slow_command')
sys.modules['slow_command'].COMMAND = slow
cli.COMMANDS['slow'] = ('slow_command', 'a slow one')
sys.exit(cli.main(['slow', sys.argv[1]]))
"""


def _start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": SOURCE, "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, *arguments], stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_file_half_written_is_removed(tmp_path: Path, number: int, code: int, told: str) -> None:
    out = tmp_path / "out"
    process = _start(["-c", _WRITER, str(out / "file")], tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline() == "writing\n"
    assert [p.suffix for p in out.iterdir()] == [".tmp"]
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (code, f"scanseg: {told}\n")
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_segment_told_to_stop(tmp_path: Path, number: int, code: int) -> None:
    photos, out, scratch = (tmp_path / name for name in ("photos", "out", "scratch"))
    photos.mkdir()
    scratch.mkdir()
    pixels = np.zeros((40, 40, 3), np.uint8)
    for i in range(400):
        Image.fromarray(pixels + i % 200).save(photos / f"{i:03}.png")
    arguments = ["segment", str(photos), "cat", "--output", str(out), "--preset", "tiny"]
    process = _start(["-m", "scanseg", *arguments], scratch)
    end = time.monotonic() + 120
    while not list(out.glob("*.json")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert [p for p in scratch.iterdir() if not p.name.startswith("torchinductor")] == []  # torch's
    assert 0 < len(list(out.glob("*.json"))) < 400
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]
