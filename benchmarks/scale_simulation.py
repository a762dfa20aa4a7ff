"""Jobs of 10^6 to 10^9 photos, simulated: machines, hours, storage, and what gives way first.

    python benchmarks/scale_simulation.py [--seconds-per-image 0.63] [--plot docs/images/scale.png]

A machine has slots; a slot labels one shard after the other, as ``scanseg batch`` does. Drawn at
random, with a seed: how long a shard takes, which machines are slow, when a machine fails. A
machine that fails loses the shards it works on; each is free again when its lease has passed, and
the machine comes back after a repair and the loading of models. What a photo costs is measured
(``batch_throughput.py``); what machines and disks do is assumed, stated below and an option.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

OPERATIONS = 24  # on files per shard: claim 6, commit of two files 14, log 2, release 2
LISTED_BYTES = 3  # of plan.parquet per photo, for names with running numbers


@dataclass(frozen=True)
class Cluster:
    """What a job runs on and costs.

    Args:
        images: photos.
        machines: at work.
        slots: processes per machine.
        seconds: per photo and process.
        spread: standard deviation of these seconds between photos, as a share of them.
        shard_size: photos per shard.
        shard_seconds: to claim and commit a shard.
        failure_hours: mean time between two failures of a machine.
        repair: seconds until a machine that failed is back.
        load: seconds until a process has its model.
        lease: seconds until the shards of a machine that failed are free.
        slow_share: of the machines.
        slow_factor: how much longer these take.
        photo_bytes: read per photo.
        result_bytes: written per photo.
    """

    images: int
    machines: int
    slots: int = 16
    seconds: float = 0.63
    spread: float = 0.3
    shard_size: int = 2048
    shard_seconds: float = 0.1
    failure_hours: float = 500.0
    repair: float = 600.0
    load: float = 10.0
    lease: float = 900.0
    slow_share: float = 0.03
    slow_factor: float = 3.0
    photo_bytes: int = 90_000
    result_bytes: int = 4_000


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        hours: until the last shard was done.
        ideal_hours: if no machine failed or was slow and the work divided evenly.
        efficiency: ideal by real.
        failures: of machines.
        redone: share of the photos that were labelled in vain.
        tail_hours: from the moment when the first slot found nothing left to do.
        read_gb_s: photos read, gigabytes per second.
        operations_s: on files per second.
        files: written, logs not counted.
        result_tb: terabytes written.
        plan_gb: gigabytes of the list of photos.
    """

    hours: float
    ideal_hours: float
    efficiency: float
    failures: int
    redone: float
    tail_hours: float
    read_gb_s: float
    operations_s: float
    files: int
    result_tb: float
    plan_gb: float


def simulate(cluster: Cluster, seed: int = 0) -> Outcome:
    """One job, shard by shard."""
    random = np.random.default_rng(seed)
    shards = math.ceil(cluster.images / cluster.shard_size)
    slow = random.random(cluster.machines) < cluster.slow_share
    factor = np.where(slow, cluster.slow_factor, 1.0)
    failure = random.exponential(cluster.failure_hours * 3600, cluster.machines)
    deviation = cluster.spread / math.sqrt(cluster.shard_size)
    free = [(cluster.load, m * cluster.slots + s, m) for m in range(cluster.machines)
            for s in range(cluster.slots)]  # fmt: skip
    heapq.heapify(free)
    returned: list[float] = []  # when shards of failed machines are free again
    fresh, failures, lost = shards, 0, 0.0
    end, idle = 0.0, math.inf
    while free:
        now, slot, machine = heapq.heappop(free)
        while failure[machine] <= now:  # it failed while this slot was idle or being repaired
            failures += 1
            failure[machine] += cluster.repair + random.exponential(cluster.failure_hours * 3600)
        if returned and returned[0] <= now:
            heapq.heappop(returned)
        elif fresh:
            fresh -= 1
        elif returned:  # wait for a lease to pass, as processes do that find all shards claimed
            idle = min(idle, now)
            heapq.heappush(free, (returned[0], slot, machine))
            continue
        else:
            idle = min(idle, now)
            continue
        photos = cluster.shard_size * cluster.seconds * (1 + deviation * random.standard_normal())
        done = now + photos * factor[machine] + cluster.shard_seconds
        if done > failure[machine]:
            lost += failure[machine] - now
            heapq.heappush(returned, failure[machine] + cluster.lease)
            back = failure[machine] + cluster.repair + cluster.load
            heapq.heappush(free, (back, slot, machine))
        else:
            end = max(end, done)
            heapq.heappush(free, (done, slot, machine))
    work = cluster.images * cluster.seconds
    slots = cluster.machines * cluster.slots
    return Outcome(
        hours=end / 3600,
        ideal_hours=work / slots / 3600,
        efficiency=work / slots / end,
        failures=failures,
        redone=lost / work,
        tail_hours=(end - min(idle, end)) / 3600,
        read_gb_s=cluster.images * cluster.photo_bytes / end / 1e9,
        operations_s=shards * OPERATIONS / end,
        files=2 * shards,
        result_tb=cluster.images * cluster.result_bytes / 1e12,
        plan_gb=cluster.images * LISTED_BYTES / 1e9,
    )


def table(base: Cluster, seed: int) -> list[dict[str, float]]:
    """A few jobs of each size, with as many machines as somebody might have."""
    rows = []
    for images, machines in [
        (10**6, (1, 10)),
        (10**7, (1, 10, 100)),
        (10**8, (10, 100, 1000)),
        (10**9, (100, 1000, 4000)),
    ]:
        for count in machines:
            cluster = replace(base, images=images, machines=count)
            rows.append({"images": images, "machines": count, **asdict(simulate(cluster, seed))})
    return rows


def shard_sizes(base: Cluster, seed: int) -> list[dict[str, float]]:
    """10^8 photos on 100 machines: small shards cost files, large ones a long tail."""
    rows = []
    for size in (64, 256, 1024, 2048, 8192, 32768):
        cluster = replace(base, images=10**8, machines=100, shard_size=size)
        rows.append({"shard_size": size, **asdict(simulate(cluster, seed))})
    return rows


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Hours by machines, one line per size of job; dashed: without failures and slow machines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for images in sorted({row["images"] for row in rows}):
        mine = [row for row in rows if row["images"] == images]
        machines = [row["machines"] for row in mine]
        [line] = axes.loglog(
            machines, [r["hours"] for r in mine], "o-", label=f"$10^{{{math.log10(images):.0f}}}$"
        )
        axes.loglog(machines, [r["ideal_hours"] for r in mine], "--", color=line.get_color())
    axes.set(xlabel="machines", ylabel="hours")
    axes.grid(which="major", alpha=0.3)
    axes.legend(title="photos")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Simulate, print Markdown tables or JSON, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    base = Cluster(images=0, machines=0)
    for name in ("seconds", "failure_hours", "lease", "slow_share", "slow_factor"):
        option = "--seconds-per-image" if name == "seconds" else f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=getattr(base, name), dest=name)
    for name in ("slots", "shard_size", "photo_bytes", "result_bytes"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(base, name))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    chosen = vars(parser.parse_args())
    seed, plot, as_json = (chosen.pop(name) for name in ("seed", "plot", "json"))
    base = replace(base, **chosen)
    rows, sizes = table(base, seed), shard_sizes(base, seed)
    if plot is not None:
        draw(rows, plot)
    if as_json:
        print(json.dumps({"assumed": asdict(base), "seed": seed, "jobs": rows, "sizes": sizes}))
        return
    shown = {
        "hours": "{:.2f}", "efficiency": "{:.0%}", "failures": "{}", "redone": "{:.2%}",
        "tail_hours": "{:.2f}", "read_gb_s": "{:.2g}", "operations_s": "{:.0f}", "files": "{:,}",
        "result_tb": "{:.3g}", "plan_gb": "{:.2g}",
    }  # fmt: skip
    for first, found in (("images", rows), ("shard_size", sizes)):
        head = ["images", "machines"] if first == "images" else ["shard_size"]
        print("| " + " | ".join([*head, *shown]) + " |")
        print("|" + "---:|" * (len(head) + len(shown)))
        for row in found:
            cells = [f"{row[h]:,}" for h in head]
            cells += [form.format(row[name]) for name, form in shown.items()]
            print("| " + " | ".join(cells) + " |")
        print()


if __name__ == "__main__":
    main()
