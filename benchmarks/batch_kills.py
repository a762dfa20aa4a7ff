"""Jobs that are killed again and again end with the same files as one that is left in peace.

    python benchmarks/batch_kills.py --photos FOLDER [--count 300] [--kills 50] [--seed 0]
    python benchmarks/batch_kills.py --photos FOLDER --engine ray --count 100 --kills 2

Takes the first ``--count`` photos below FOLDER, and a damaged file among them, and labels them
once undisturbed (preset ``tiny``). Then it runs the same job with random kills:

* ``local``: SIGKILL to the whole process at a moment drawn between its first shard and the time
  that the rest takes, then the same command again; jobs begin anew until all kills are spent.
* ``processes``: the same with two worker processes, of which now and then only one is killed.
* ``ray``: SIGKILL to a Ray worker process that holds a model, while the job goes on.

Every job's output must have exactly the same files and bytes, every photo once. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = "person,dog,cat,bird,car,tree,grass,sky,water,wall"
SHARD_SIZE = 6
TABLES = ("segments", "images", "quarantine")
_FIRST = 60.0  # seconds that a run may take to begin


def command(photos: Path, output: Path, *more: str) -> list[str]:
    """The command line of a job."""
    return [
        sys.executable, "-m", "scanseg", "batch", str(photos), "--labels", WORDS,
        "--preset", "tiny", "--threads", "1", "--shard-size", str(SHARD_SIZE),
        "--output", str(output), "--quiet", *more,
    ]  # fmt: skip


def run(photos: Path, output: Path, *more: str) -> float:
    """A job from start to end; seconds. Exit code 3: the damaged file was set aside."""
    started = time.perf_counter()
    done = subprocess.run(command(photos, output, *more), capture_output=True, text=True)
    if done.returncode != 3:
        raise SystemExit(f"exit code {done.returncode}: {done.stderr}")
    return time.perf_counter() - started


def chosen_photos(folder: Path, count: int, target: Path) -> None:
    """Links to the first photos below ``folder``, and a damaged one."""
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")]
    if len(found) < count:
        raise SystemExit(f"{folder} has {len(found)} photos, fewer than {count}")
    target.mkdir()
    for number, photo in enumerate(found[:count]):
        (target / f"{number:05d}{photo.suffix.lower()}").symlink_to(photo.resolve())
    (target / f"{count // 2:05d}-damaged.jpg").write_bytes(found[0].read_bytes()[:300])


def differences(reference: Path, output: Path) -> list[str]:
    """What is not the same in two outputs; also photos that are there twice or not at all."""
    import pyarrow.parquet as pq

    wrong = [] if filecmp.cmp(reference / "run.json", output / "run.json", False) else ["run.json"]
    for table in TABLES:
        names = [{p.name for p in (folder / table).iterdir()} for folder in (reference, output)]
        wrong += [f"{table}/{name}" for name in sorted(names[0] ^ names[1])]
        wrong += [
            f"{table}/{name}"
            for name in sorted(names[0] & names[1])
            if not filecmp.cmp(reference / table / name, output / table / name, False)
        ]
    images = pq.read_table(output / "images")["image"].to_pylist()
    if sorted(images) != list(range(pq.read_metadata(output / "plan.parquet").num_rows)):
        wrong.append("a photo is missing or there twice")
    return wrong


def shards_done(output: Path) -> int:
    """Shards that were committed."""
    return len(list((output / "images").glob("shard-*.parquet")))


def kill_local(
    photos: Path, output: Path, kills: int, seconds: float, draw: random.Random, *more: str
) -> dict[str, int]:
    """A job with up to ``kills`` kills; how many there were, by moment."""
    moments = {"before its first photo": 0, "at work": 0}
    for _ in range(kills):
        before = traces(output)
        process = subprocess.Popen(
            command(photos, output, *more), stderr=subprocess.DEVNULL, start_new_session=True
        )
        if draw.random() < 0.8:  # the others are killed while they start
            deadline = time.monotonic() + _FIRST
            while traces(output) == before:
                if process.poll() is not None or time.monotonic() > deadline:
                    break
                time.sleep(0.01)
        try:
            process.wait(draw.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            one = [] if "--processes" not in more or draw.random() < 0.5 else _children(process.pid)
            working = traces(output) != before
            if one:
                os.kill(draw.choice(one), signal.SIGKILL)
                process.wait()  # its parent starts another
            else:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            moments["at work" if working else "before its first photo"] += 1
        if process.returncode == 3:
            return moments
    run(photos, output, *more)
    return moments


def traces(output: Path) -> set[str]:
    """What changes as soon as a process works on a shard: claims and shards that are done."""
    return {p.name for folder in ("claims", "images") for p in (output / folder).glob("[0s]*")}


def _children(parent: int) -> list[int]:
    """Worker processes of a job."""
    import psutil

    children = psutil.Process(parent).children()
    return [c.pid for c in children if any("spawn_main" in part for part in c.cmdline())]


def kill_ray(photos: Path, output: Path, draw: random.Random) -> int:
    """A Ray job of which one worker is killed in mid-run; how many were killed."""
    process = subprocess.Popen(
        command(photos, output, "--engine", "ray", "--processes", "2"), stderr=subprocess.DEVNULL
    )
    wanted, killed = draw.randint(1, 3), 0
    while process.poll() is None:
        logs = list((output / "log").glob("*.jsonl")) if (output / "log").exists() else []
        if not killed and shards_done(output) >= wanted and logs:
            os.kill(int(draw.choice(logs).stem.rpartition("-")[2]), signal.SIGKILL)
            killed = 1
        time.sleep(0.005)
    if process.returncode != 3:
        raise SystemExit(f"exit code {process.returncode} after a Ray worker was killed")
    return killed


def main() -> int:
    """Run the benchmark; 0 if every output was the same."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--engine", choices=["local", "processes", "ray"], default="local")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    draw, wrong = random.Random(chosen.seed), []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        photos, reference = work / "photos", work / "reference"
        chosen_photos(chosen.photos, chosen.count, photos)
        seconds = run(photos, reference)
        print(f"undisturbed: {seconds:.1f} s", file=sys.stderr)
        spent, jobs = 0, 0
        moments = {"before its first photo": 0, "at work": 0}
        started = time.perf_counter()
        while spent < chosen.kills:
            output = work / f"job-{jobs}"
            if chosen.engine == "ray":
                spent += kill_ray(photos, output, draw)
            else:
                more = ["--processes", "2"] if chosen.engine == "processes" else []
                share = max(0.3, (seconds - 5) / 4)  # so that a job sees several kills
                found = kill_local(photos, output, chosen.kills - spent, share, draw, *more)
                spent += sum(found.values())
                moments = {k: v + found[k] for k, v in moments.items()}
            wrong += [f"job {jobs}: {what}" for what in differences(reference, output)]
            shutil.rmtree(output)
            jobs += 1
            print(f"{spent} of {chosen.kills} kills, {jobs} jobs", file=sys.stderr)
        result = {
            "engine": chosen.engine,
            "photos": chosen.count + 1,
            "kills": spent,
            "jobs": jobs,
            "moments": moments if chosen.engine != "ray" else {"at work": spent},
            "different": wrong,
            "seconds": round(time.perf_counter() - started, 1),
            "seed": chosen.seed,
        }
    print(json.dumps(result, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
