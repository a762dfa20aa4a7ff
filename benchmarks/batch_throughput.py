"""What the batch runner costs over a plain loop, and what a second process brings.

    python benchmarks/batch_throughput.py --photos FOLDER [--preset tiny] [--count 120] [--rounds 7]

Three measurements, all with one thread per process, alternating A B A B in each round; medians and
ranges of the ratios of a round:

* overhead: ``Worker.do`` over shards (plan, reading, hashing, records, Parquet, fsync) against a
  plain loop in the same process that reads each photo and labels it, and against one that also
  makes its record (areas, boxes, run lengths). By processor time of the process, which the load of
  other programs hardly moves, and by wall clock.
* processes: ``scanseg batch`` with one and with two processes, photos per second from the start of
  the first shard to the end of the last, without the seconds in which models load.
* sizes: bytes read and written per photo, seconds to load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = ["person", "dog", "cat", "bird", "car", "tree", "grass", "sky", "water", "wall"]
SHARD_SIZE = 20


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds by the clock and of the processor, all threads."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - clock, "processor": time.process_time() - processor}


def summary(values: list[float]) -> dict[str, float]:
    """Median and range."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in found.items()}


def overhead(photos: Path, work: Path, preset: str, rounds: int) -> dict[str, Any]:
    """Ratios of the runner to plain loops, in this process."""
    import torch

    torch.set_num_threads(1)
    from scanseg.batch.plan import make_plan
    from scanseg.batch.sources import open_source
    from scanseg.batch.worker import BatchJob, Worker
    from scanseg.evaluation.runner import ModelSpec
    from scanseg.formats.records import to_record
    from scanseg.vocabulary import Vocabulary

    started = time.perf_counter()
    source = open_source(str(photos))
    plan = make_plan(source, work / "job", SHARD_SIZE)
    job = BatchJob(
        source=str(photos),
        output=str(work / "job"),
        vocabulary=Vocabulary(WORDS),
        model=ModelSpec(preset, device="cpu"),
        threads=1,
    )
    paths = sorted(photos.iterdir())
    with Worker(job) as worker:
        loaded = time.perf_counter() - started
        segmenter = worker.segmenter

        def maps() -> None:
            for path in paths:
                segmenter(path, WORDS)

        def records() -> None:
            for path in paths:
                to_record(segmenter(path, WORDS), name=path.name)

        def runner() -> None:
            for shard in range(plan.shards):
                worker.do(shard)

        maps()
        runner()
        found: dict[str, list[dict[str, float]]] = {"maps": [], "records": [], "runner": []}
        for _ in range(rounds):
            for name, loop in (("maps", maps), ("runner", runner), ("records", records)):
                found[name].append(timed(loop))
    result: dict[str, Any] = {
        "load_s": round(loaded, 2),
        "photo_s": summary([t["processor"] / len(paths) for t in found["maps"]]),
    }
    for plain in ("maps", "records"):
        for clock in ("processor", "wall"):
            ratios = [
                a[clock] / b[clock] for a, b in zip(found["runner"], found[plain], strict=True)
            ]
            result[f"runner / {plain}, {clock}"] = summary(ratios)
    count = len(paths)
    result["bytes read per photo"] = sum(p.stat().st_size for p in paths) // count
    for table in ("segments", "images"):
        size = sum(p.stat().st_size for p in (work / "job" / table).iterdir())
        result[f"bytes of {table} per photo"] = size // count
    return result


def rate(photos: Path, output: Path, preset: str, processes: int) -> float:
    """Photos per second of a job while its processes work."""
    subprocess.run(
        [
            sys.executable, "-m", "scanseg", "batch", str(photos), "--labels", ",".join(WORDS),
            "--preset", preset, "--devices", "cpu", "--threads", "1", "--readers", "1",
            "--processes", str(processes), "--shard-size", str(SHARD_SIZE // 4),
            "--output", str(output), "--quiet",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    logs = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (output / "log").iterdir()
    ]
    shutil.rmtree(output)
    # From the moment when all work to the moment when the first one has nothing left to do.
    start = max(log[0]["finished"] - log[0]["seconds"] for log in logs)
    end = min(log[-1]["finished"] for log in logs)
    if len(logs) < processes or end <= start:
        raise SystemExit("one process did all the work: give more photos with --count")
    images = 0.0
    for log in logs:
        for shard in log:  # a shard at the edge counts with its part inside
            began = shard["finished"] - shard["seconds"]
            inside = max(0.0, min(end, shard["finished"]) - max(start, began))
            images += shard["images"] * inside / shard["seconds"]
    return images / (end - start)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["overhead", "processes"])
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    result: dict[str, Any] = {"preset": chosen.preset, "photos": chosen.count}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "photos").mkdir()
        for photo in sorted(chosen.photos.rglob("*.jpg"))[: chosen.count]:
            (work / "photos" / photo.name).symlink_to(photo.resolve())
        if chosen.only != "processes":
            result |= overhead(work / "photos", work, chosen.preset, chosen.rounds)
        if chosen.only != "overhead":
            rates: dict[int, list[float]] = {1: [], 2: []}
            for turn in range(chosen.rounds):
                for processes in (1, 2) if turn % 2 == 0 else (2, 1):
                    rates[processes].append(
                        rate(work / "photos", work / "job", chosen.preset, processes)
                    )
                load = os.getloadavg()[0]
                print(f"{rates[1][-1]:.3g}/s, {rates[2][-1]:.3g}/s, load {load}", file=sys.stderr)
            result["1 process, photos/s"] = summary(rates[1])
            result["2 processes, photos/s"] = summary(rates[2])
            result["2 / 1"] = summary([b / a for a, b in zip(rates[1], rates[2], strict=True)])
            result["load"] = os.getloadavg()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
