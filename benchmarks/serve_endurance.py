"""Does the server grow, slow down or fail over many requests?

    python benchmarks/serve_endurance.py [--requests 1000] [--clients 2] [--preset embedded]

Starts ``scanseg serve`` on a free port and asks it about small photos of changing size and colour
with changing words, every answer new; one request in ten is a mistake. Prints answers by status,
latencies, the memory of server and engine after the first tenth and at the end, open files,
threads and child processes of both at these moments, and files left in the temporary folder. Exit
code 1 if anything was left, or the memory grew by more than 64 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image
from skimage.data import chelsea, coffee

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from footprint import Footprint, left_in

from embedded_latency import WORDS

MOST_GROWTH = 64.0  # MiB


def photo(number: int) -> bytes:
    """A crop of a sample photo, another one for every number."""
    draw = random.Random(number)
    pixels = (chelsea if number % 2 else coffee)()
    height, width = (draw.randint(120, side) for side in pixels.shape[:2])
    shaded = np.clip(pixels[:height, :width] * draw.uniform(0.6, 1.2), 0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(shaded).save(file, "JPEG")
    return file.getvalue()


def ask(address: str, number: int) -> tuple[int, float]:
    """Status and seconds of one request."""
    draw = random.Random(-number)
    data = {"labels": ", ".join(draw.sample(WORDS, draw.randint(1, 12))), "maps": "true"}
    files = {"photo": photo(number)}
    if number % 20 == 0:
        files = {"photo": b"not a photo"}
    elif number % 20 == 10:
        data["unknown_below"] = "2"
    started = time.perf_counter()
    reply = httpx.post(address + "api/v1/segment", files=files, data=data, timeout=300)
    return reply.status_code, time.perf_counter() - started


def memory(address: str) -> dict[str, float]:
    """MiB of both processes."""
    text = httpx.get(address + "metrics").text
    found = re.findall(r"^scanseg_(server|engine)_memory_bytes (\S+)$", text, re.M)
    return {name: float(value) / 2**20 for name, value in found}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--preset", default="embedded")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "scanseg", "serve", "--port", "0"]
    temporary = tempfile.TemporaryDirectory()
    server = subprocess.Popen(
        [*command, "--preset", arguments.preset],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": temporary.name},
    )
    watched = psutil.Process(server.pid)
    try:
        assert server.stderr is not None
        address = next(
            found[1] for line in server.stderr if (found := re.search(r"serving (\S+)", line))
        )
        first = arguments.requests // 10
        with ThreadPoolExecutor(arguments.clients) as pool:
            answers = list(pool.map(lambda n: ask(address, n), range(first)))
            early, before = memory(address), Footprint.of(watched)
            answers += pool.map(lambda n: ask(address, n), range(first, arguments.requests))
        late, after = memory(address), Footprint.of(watched)
        healthy = httpx.get(address + "health").status_code == 200
    finally:
        server.terminate()
        code = server.wait(30)
    left = left_in(Path(temporary.name))
    temporary.cleanup()
    seconds = [took for status, took in answers if status == 200]
    half = len(seconds) // 2
    figures = {
        "requests": len(answers),
        "statuses": dict(Counter(status for status, _ in answers)),
        "median_s_first_half": statistics.median(seconds[:half]),
        "median_s_second_half": statistics.median(seconds[half:]),
        "slowest_s": max(seconds),
        "server_mib_early": early["server"],
        "server_mib_late": late["server"],
        "engine_mib_early": early["engine"],
        "engine_mib_late": late["engine"],
        "files_early": before.files,
        "files_late": after.files,
        "threads_early": before.threads,
        "threads_late": after.threads,
        "processes_early": before.children,
        "processes_late": after.children,
        "left_in_the_temporary_folder": len(left),
        "healthy_at_the_end": healthy,
        "exit_code": code,
    }
    for name, value in figures.items():
        print(f"{name:22s} {value:.3f}" if isinstance(value, float) else f"{name:22s} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    grown = sum(late.values()) - sum(early.values())
    held = (
        after.files > before.files + arguments.clients  # connections that are kept for a while
        or after.threads > before.threads + 8  # of a pool that fills as needed
        or after.children > before.children
    )
    return 1 if grown > MOST_GROWTH or held or left or not healthy or code else 0


if __name__ == "__main__":
    sys.exit(main())
