"""Latency and memory of the embedded preset: what `make bench` prints.

    python benchmarks/embedded_latency.py [--threads 2] [--repeat 9] [--labels 20] [--json FILE]

Warm calls are timed in one process on one photo (long side 640); peak memory is that of the whole
process up to there. Then 2,000 and 10,000 cached labels are timed in turn with 20: ratios. The cold
figure is a fresh `scanseg segment` process, its text cache filled. Medians and ranges; compare only
figures of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [
    "cat",
    "dog",
    "person",
    "car",
    "tree",
    "sky",
    "building",
    "road",
    "grass",
    "table",
    "chair",
    "sofa",
    "bed",
    "window",
    "door",
    "wall",
    "floor",
    "water",
    "mountain",
    "flower",
]


def warm(threads: int, repeat: int, labels: int) -> dict[str, object]:
    """Times of repeated calls in this process."""
    import torch

    torch.set_num_threads(threads)
    from PIL import Image
    from skimage.data import chelsea

    from scanseg import Segmenter

    photo = Image.fromarray(chelsea()).resize((640, 426), Image.Resampling.BICUBIC)
    words = (WORDS + [f"thing number {i}" for i in range(labels)])[:labels]
    started = time.perf_counter()
    seg = Segmenter.from_pretrained("embedded", device="cpu")
    loaded = time.perf_counter() - started
    started = time.perf_counter()
    seg(photo, words)
    first = time.perf_counter() - started
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        seg(photo, words)
        times.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    return {
        "labels": len(words),
        "load_s": loaded,
        "first_call_s": first,
        "warm_median_s": statistics.median(times),
        "warm_min_s": min(times),
        "warm_max_s": max(times),
        "calls": repeat,
        "peak_memory_gib": peak,
    }


def by_labels(repeat: int, few: int, many: tuple[int, ...]) -> dict[str, object]:
    """How much longer many cached labels take than few: in turn, ratios round by round."""
    from skimage.data import chelsea

    from scanseg import Segmenter, bench
    from scanseg.formats.photos import read_photo

    seg, photo = Segmenter.from_pretrained("embedded", device="cpu"), read_photo(chelsea())
    found = [bench.by_labels(seg, photo, (few, *many), repeat=1) for _ in range(repeat)]
    figures: dict[str, object] = {}
    for count in many:
        ratios = [times[count] / times[few] for times in found]
        figures[f"x_{count}_labels"] = statistics.median(ratios)
        figures[f"x_{count}_min"], figures[f"x_{count}_max"] = min(ratios), max(ratios)
    figures["peak_with_these"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return figures


def cold(threads: int, repeat: int) -> dict[str, object]:
    """Times of whole `scanseg segment` processes."""
    from PIL import Image
    from skimage.data import chelsea

    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    times = []
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "cat.png"
        Image.fromarray(chelsea()).save(photo)
        command = [sys.executable, "-m", "scanseg", "segment", str(photo), "cat", "sofa", "wall"]
        command += ["--output", str(Path(folder) / "out"), "--overwrite", "--quiet"]
        for _ in range(repeat + 1):  # the first run fills caches and is not counted
            started = time.perf_counter()
            subprocess.run(command, check=True, env=environment)
            times.append(time.perf_counter() - started)
    times = times[1:]
    return {
        "cold_median_s": statistics.median(times),
        "cold_min_s": min(times),
        "cold_max_s": max(times),
        "processes": len(times),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument(
        "--many", type=int, nargs="*", default=[2_000, 10_000], help="numbers of labels to compare"
    )
    parser.add_argument("--no-cold", action="store_true", help="leave out the cold processes")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    figures: dict[str, object] = {"threads": arguments.threads}
    figures |= warm(arguments.threads, arguments.repeat, arguments.labels)
    figures |= by_labels(arguments.repeat, arguments.labels, tuple(arguments.many))
    if not arguments.no_cold:
        figures |= cold(arguments.threads, 3)
    for name, value in figures.items():
        print(f"{name:18s} {value:.3f}" if isinstance(value, float) else f"{name:18s} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
