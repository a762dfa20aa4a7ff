"""Does labelling photos one after the other cost memory, file handles or temporary files?

    python benchmarks/endurance.py [--photos 5000] [--preset tiny] [--side 48]

Labels small photos of changing size and colour with one model and prints the resident memory over
the run: the slope after a warm-up of a tenth, with its 95 % interval, in bytes per photo; open
files, threads and child processes before and after; files left in the temporary folder. Exit code
1 if the memory grew by more than 32 MiB after the warm-up, or anything was left open.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil

from scanseg import Segmenter

MOST_GROWTH = 32 * 2**20


def photo(number: int, side: int) -> np.ndarray:
    """Coloured noise whose size changes from photo to photo."""
    draw = np.random.default_rng(number)
    height, width = draw.integers(side // 2, side, 2)
    return draw.integers(0, 256, (height, width, 3), np.uint8)


def slope(rss: np.ndarray) -> tuple[float, float]:
    """Bytes per photo by least squares, and half the 95 % interval from blocks of the run."""
    blocks = np.array_split(rss, 20)
    means, places = [float(b.mean()) for b in blocks], np.arange(20) * len(rss) / 20
    (rate, start), residuals = np.polyfit(places, means, 1), None
    residuals = np.array(means) - (rate * places + start)
    error = np.sqrt((residuals**2).sum() / 18 / ((places - places.mean()) ** 2).sum())
    return float(rate), float(2.10 * error)  # Student's t, 18 degrees of freedom


def main() -> int:
    """Run, print, judge."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--photos", type=int, default=5000)
    options.add_argument("--preset", default="tiny")
    options.add_argument("--side", type=int, default=48)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        os.environ["SCANSEG_CACHE"] = str(Path(scratch, "cache"))
        segmenter = Segmenter.from_pretrained(chosen.preset, device="cpu")
        own, rss = psutil.Process(), []
        for number in range(chosen.photos):
            words = ["cat", "sofa", f"word {number % 50}"]
            result = segmenter(photo(number, chosen.side), words)
            result.overlay()
            result.to_coco()
            rss.append(own.memory_info().rss)
            if number == chosen.photos // 10:
                before = (own.num_fds(), len(own.children(recursive=True)))
            if (number + 1) % 500 == 0:
                print(f"{number + 1}: {rss[-1] / 2**20:.0f} MiB", file=sys.stderr, flush=True)
        after = (own.num_fds(), len(own.children(recursive=True)))
        left = [
            p.name for p in Path(scratch).iterdir() if p.name != "cache" and "torch" not in p.name
        ]
    warm = np.array(rss[chosen.photos // 10 :], dtype=float)
    rate, error = slope(warm)
    growth = warm[-len(warm) // 10 :].mean() - warm[: len(warm) // 10].mean()
    print(f"{chosen.preset}, {chosen.photos} photos, the first tenth is warm-up")
    print(
        f"memory {warm[0] / 2**20:.1f} -> {warm[-1] / 2**20:.1f} MiB, growth {growth / 2**20:.2f} MiB"  # noqa: E501
    )
    print(f"slope {rate:.0f} +- {error:.0f} bytes per photo (95 %)")
    print(f"open files {before[0]} -> {after[0]}, child processes {before[1]} -> {after[1]}")
    print(f"left in the temporary folder: {', '.join(left) or 'nothing'}")
    return 1 if growth > MOST_GROWTH or after[0] > before[0] + 2 or after[1] or left else 0


if __name__ == "__main__":
    sys.exit(main())
