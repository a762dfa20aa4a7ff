"""Does labelling photos one after the other cost memory, file handles or temporary files?

    python benchmarks/endurance.py [--photos 5000] [--preset tiny] [--side 48] [--through python]

Labels small photos of changing size, colour and words, through the Python interface or, with
``--through batch``, by one ``scanseg batch`` that is watched from outside. Prints the resident
memory over the run: the slope after a warm-up, with its 95 % interval, in bytes per photo; open
files, threads and child processes after the warm-up and at the end; files left in the temporary
folder. Exit code 1 if the memory grew by more than ``--most-growth`` (32 MiB) after the warm-up, or
anything was left.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from footprint import Footprint, growth, left_in, slope

MOST_GROWTH = 32
WORD_LISTS = 50


def photo(number: int, side: int) -> np.ndarray:
    """Coloured noise whose size changes from photo to photo."""
    draw = np.random.default_rng(number)
    height, width = draw.integers(side // 2, side, 2)
    return draw.integers(0, 256, (height, width, 3), np.uint8)


def words(number: int) -> list[str]:
    """Three words, the last of them one of fifty."""
    return ["cat", "sofa", f"word {number % WORD_LISTS}"]


def through_python(photos: int, preset: str, side: int) -> Iterator[tuple[int, Footprint]]:
    """Label in this process; photos done and what is held, after each photo."""
    from scanseg import Segmenter

    segmenter = Segmenter.from_pretrained(preset, device="cpu")
    for number in range(photos):
        result = segmenter(photo(number, side), words(number))
        result.overlay()
        result.to_coco()
        del result
        yield number + 1, Footprint.of()


def through_batch(
    photos: int, preset: str, side: int, scratch: Path
) -> Iterator[tuple[int, Footprint]]:
    """Run ``scanseg batch`` and look at it from outside, several times per second."""
    folder, output = scratch / "photos", scratch / "output"
    folder.mkdir()
    lines = ["path,labels"]
    for number in range(photos):
        name = f"{number:06d}.png"
        Image.fromarray(photo(number, side)).save(folder / name)
        lines.append(f'photos/{name},"{", ".join(words(number))}"')
    (scratch / "list.csv").write_text("\n".join(lines) + "\n")
    size = max(1, min(100, photos // 20))
    command = [
        sys.executable, "-m", "scanseg", "batch", str(scratch / "list.csv"), "--labels", "cat",
        "--output", str(output), "--preset", preset, "--devices", "cpu", "--quiet",
        "--shard-size", str(size),
    ]  # fmt: skip
    process = subprocess.Popen(command)
    watched = psutil.Process(process.pid)
    try:
        while process.poll() is None:
            done = len(list(output.glob("images/shard-*"))) * size
            if done:
                with suppress(psutil.Error):  # it has just ended
                    found = Footprint.of(watched)
                    if found.memory:  # or is just ending
                        yield min(done, photos), found
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    finally:
        process.kill()
    if process.wait():
        raise SystemExit(f"scanseg batch ended with exit code {process.returncode}")
    temporary = [p.name for p in output.rglob(".*")]
    if temporary:
        raise SystemExit(f"left in the output: {', '.join(temporary)}")


def main() -> int:
    """Run, print, judge."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--photos", type=int, default=5000)
    options.add_argument("--preset", default="tiny")
    options.add_argument("--side", type=int, default=48)
    options.add_argument("--through", choices=("python", "batch"), default="python")
    options.add_argument(
        "--most-growth",
        type=float,
        default=MOST_GROWTH,
        help="MiB; short runs need more, since buffers still find their size",
    )
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch, temporary = Path(name), Path(name, "tmp")
        temporary.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        os.environ["SCANSEG_CACHE"] = str(scratch / "cache")
        if chosen.through == "batch":
            looks = through_batch(chosen.photos, chosen.preset, chosen.side, scratch)
        else:
            looks = through_python(chosen.photos, chosen.preset, chosen.side)
        # every list of words is met in the warm-up
        warm_up = max(WORD_LISTS, chosen.photos // 10)
        seen: list[tuple[int, Footprint]] = []
        shown = 0
        for done, found in looks:
            if done > warm_up:
                seen.append((done, found))
            if done >= shown + 500:
                shown = done
                print(f"{done}: {found.memory / 2**20:.0f} MiB", file=sys.stderr, flush=True)
        left = left_in(temporary)
    if len(seen) < 20:
        raise SystemExit(f"{len(seen)} looks after the warm-up are too few: give more --photos")
    memory = np.array([found.memory for _, found in seen])
    before, after = seen[0][1], seen[-1][1]
    rate, error = slope(memory)
    per_look = (seen[-1][0] - seen[0][0]) / (len(seen) - 1)  # photos
    grown = growth(memory)
    print(
        f"{chosen.preset} through {chosen.through}, {chosen.photos} photos, "
        f"the first {seen[0][0] - 1} are warm-up"
    )
    print(
        f"memory {before.memory / 2**20:.1f} -> {after.memory / 2**20:.1f} MiB "
        f"({memory.min() / 2**20:.1f} to {memory.max() / 2**20:.1f}), "
        f"last tenth minus first {grown / 2**20:.2f} MiB"
    )
    print(f"slope {rate / per_look:.0f} +- {error / per_look:.0f} bytes per photo (95 %)")
    print(
        f"open files {before.files} -> {after.files}, threads {before.threads} -> "
        f"{after.threads}, child processes {before.children} -> {after.children}"
    )
    print(f"left in the temporary folder: {', '.join(left) or 'nothing'}")
    more = (
        after.files > before.files + 2
        or after.threads > before.threads
        or after.children > before.children
    )
    return 1 if grown > chosen.most_growth * 2**20 or more or left else 0


if __name__ == "__main__":
    sys.exit(main())
