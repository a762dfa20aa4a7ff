"""``scanseg batch``: photos by the million; ``inspect`` and ``merge`` for what comes out."""

from __future__ import annotations

import json as json_text
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scanseg.cli import EXIT_OK, EXIT_SOME_FAILED
from scanseg.cli.report_console import progress_bar
from scanseg.cli.segment import vocabulary_of
from scanseg.cli.settings_options import given_settings
from scanseg.contracts import Branches, InputError, Mode, Semantics, ShiftSource

if TYPE_CHECKING:
    from scanseg.batch.inspection import Inspection
    from scanseg.batch.plan import Plan
    from scanseg.batch.progress import Progress
    from scanseg.batch.sources import Source
    from scanseg.batch.worker import BatchJob

SHARD_SIZE = 256
_MOST = 1_000_000_000  # of anything that is counted
_TRIED = 5  # photos that a dry run labels
_MOST_LABELS = 30  # that inspect prints


def batch(
    source: str,
    *,
    labels: str | None = None,
    labels_file: str | None = None,
    background: str | None = None,
    output: str,
    format: Literal["parquet", "webdataset"] = "parquet",
    png: bool = False,
    preset: str = "embedded",
    weights: str | None = None,
    mode: Mode = "exact",
    processes: int | None = None,
    devices: str = "auto",
    threads: int | None = None,
    readers: int = 2,
    shard_size: int = SHARD_SIZE,
    limit: int | None = None,
    lease: float = 900.0,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
    unknown_below: float | None = None,
    operating_point: str | None = None,
    semantics: Semantics | None = None,
    branches: Branches | None = None,
    ensemble_weight: float | None = None,
    mask_threshold: float | None = None,
    log_fusion: bool = False,
    shift_source: ShiftSource | None = None,
    shift_ratio: float | None = None,
    shift_seed: int | None = None,
) -> int:
    """Label many photos: scanseg batch photos/ --labels "cat, sofa" --output result.

    A job can be killed at any moment; the same command goes on where it stopped and ends with the
    same files. Give it again on other machines that see the same folders, and they share the work.
    Results are Parquet tables in the folders segments, images and quarantine of the output. Photos
    that cannot be read are set aside with the reason (exit code 3). Two more commands look at a
    job: scanseg batch inspect DIR and scanseg batch merge DIR. See docs/batch.md.

    Args:
        source: folder of photos (with its folders), .csv or .parquet list with a column "path"
            and, if you like, "labels", or WebDataset .tar shards (a file, folder or quoted pattern)
        labels: words, separated by commas
        labels_file: file with one word per line; "sofa: couch, settee" adds synonyms, # comments
        background: words, separated by commas, whose pixels become unknown; "none" for no such
            words (default: the preset's)
        output: folder for the results
        format: of the segments: parquet, or webdataset (.tar with one JSON record per photo)
        png: also write each map as an indexed PNG, in a .tar per shard
        preset: embedded, vit_b, vit_l, zero_train, tiny, a model folder or a hub id
        weights: folder with the weights of a preset that ships none
        mode: exact, bf16 (region classifier in bfloat16) or fast (that, and approximations)
        processes: on this machine, each with a model (default: one per device)
        devices: separated by commas, as cuda:0,cuda:1 (default: all GPUs, else the CPU)
        threads: of the CPU for each process (default: the cores, shared out)
        readers: threads of each process that read and decode photos ahead of the model
        shard_size: photos that are committed together
        limit: take only so many photos, the first ones
        lease: seconds after which the shard of a silent process is taken over
        engine: local processes, or ray
        address: of a Ray cluster (auto: the one that runs here); default: Ray on this machine alone
        dry_run: print the plan and an estimate, measured on a few photos, and write nothing
        json: print one JSON object to standard output
        quiet: no progress
        unknown_below: pixels of lower confidence become unknown, 0 to 1
        operating_point: the released settings for a benchmark (ade150, pc59 ...) of vit_b and vit_l
    """
    _check_counts(
        processes=processes,
        threads=threads,
        readers=readers,
        shard_size=shard_size,
        limit=limit,
    )
    if not 0 <= lease <= _MOST:
        raise InputError(f"--lease must lie between 0 and {_MOST:,} seconds, not {lease}")
    if address is not None and engine != "ray":
        raise InputError("--address is of a Ray cluster: add --engine ray")
    if labels is None and labels_file is None:
        raise InputError('no words: give --labels "cat, sofa" or --labels-file FILE')
    changes = given_settings(
        unknown_below=unknown_below,
        semantics=semantics,
        branches=branches,
        ensemble_weight=ensemble_weight,
        mask_threshold=mask_threshold,
        log_fusion=log_fusion,
        shift_source=shift_source,
        shift_ratio=shift_ratio,
        shift_seed=shift_seed,
    )
    vocabulary = vocabulary_of((), labels, labels_file, background)

    from scanseg.batch.plan import make_plan
    from scanseg.batch.sources import open_source
    from scanseg.batch.worker import BatchJob
    from scanseg.evaluation.runner import ModelSpec

    opened = open_source(source)
    if opened.path == Path(os.path.abspath(output)):
        raise InputError(f"results in {output} would mix with the photos: choose another --output")
    team = _team(processes, devices)
    job = BatchJob(
        source=str(opened.path),
        output=os.path.abspath(output),
        vocabulary=vocabulary,
        model=ModelSpec(preset, weights, team[0], operating_point, changes, mode),
        format=format,
        maps=png,
        threads=threads or (_cores() // len(team) or 1 if len(team) > 1 else None),
        readers=readers,
    )
    try:
        if dry_run:
            return _dry_run(job, opened, team, shard_size, limit, as_json=json)
        plan = make_plan(opened, job.folder, shard_size, limit=limit, advance=_listing(quiet=quiet))
        _run(job, team, engine, address, lease, None if quiet else _Meter())
    except OSError as error:
        raise InputError(f"{error.filename or output}: {error.strerror or error}") from error
    return _finish(job, plan, as_json=json)


def inspect(
    folder: str, *, sheet: str | None = None, pictures: int = 20, json: bool = False
) -> int:
    """What a job's folder holds: counts, labels, rates, failures; --sheet draws pictures.

    Works while the job runs, too.

    Args:
        folder: output of scanseg batch
        sheet: PNG file to write a contact sheet to: small overlays of photos of the job
        pictures: on the sheet, at most
        json: print one JSON object to standard output
    """
    _check_counts(pictures=pictures)
    from scanseg.batch.inspection import contact_sheet, inspect_job
    from scanseg.storage import atomic_write

    found = inspect_job(Path(folder))
    if json:
        print(json_text.dumps(asdict(found), ensure_ascii=False, indent=1))
    else:
        _print_inspection(found)
    if sheet is not None:
        drawn = contact_sheet(Path(folder), pictures)
        try:
            with atomic_write(sheet) as file:
                drawn.save(file, "PNG")
        except OSError as error:
            raise InputError(f"{sheet} cannot be written: {error.strerror or error}") from error
        print(f"written: {sheet}", file=sys.stderr)
    return EXIT_OK


def merge(folders: list[str], *, output: str, quiet: bool = False) -> int:
    """Join the shards of finished jobs: segments.parquet, images.parquet, quarantine.parquet.

    Every file is checked against the hash noted when it was written. Photos of the second job are
    numbered after those of the first, and so on.

    Args:
        folders: outputs of scanseg batch
        output: folder for the three files
        quiet: no progress bar
    """
    from scanseg.batch.merging import merge_jobs
    from scanseg.batch.plan import Plan

    paths = [Path(folder) for folder in folders]
    steps = 3 * sum(Plan(path).shards for path in paths)
    with progress_bar("shards", steps, quiet=quiet) as advance:
        written = merge_jobs(paths, Path(output), advance=advance)
    print("written: " + ", ".join(map(str, written)), file=sys.stderr)
    return EXIT_OK


COMMAND = batch
COMMANDS = {"inspect": inspect, "merge": merge}


# -------------------------------------------------------------------------------- the work


def _run(
    job: BatchJob,
    team: Sequence[str],
    engine: str,
    address: str | None,
    lease: float,
    meter: _Meter | None,
) -> None:
    from scanseg.batch.local import run_here, run_processes
    from scanseg.batch.progress import Watch
    from scanseg.batch.ray_engine import run_ray

    watch = Watch(job.folder, None if meter is None else meter.show)
    try:
        if engine == "ray":
            gpus = 1.0 if team[0].startswith("cuda") else 0.0
            job = replace(job, model=replace(job.model, device="cuda" if gpus else team[0]))
            run_ray(job, address=address, actors=len(team), gpus=gpus, watch=watch)
        elif len(team) == 1:
            run_here(job, lease=lease, watch=watch)
        else:
            run_processes(job, team, lease=lease, watch=watch)
    finally:
        if meter is not None:
            meter.end()


def _finish(job: BatchJob, plan: Plan, *, as_json: bool) -> int:
    """Tidy up and say what came out; the exit code."""
    from scanseg.batch.claims import Claims
    from scanseg.batch.tables import IMAGES, batches, remove_temporary

    Claims(job.folder).clean()
    remove_temporary(job.folder)
    status: Counter[str] = Counter()
    for rows in batches(job.folder, IMAGES, ("status",)):
        status.update(rows["status"].to_pylist())
    if as_json:
        found = {"images": plan.images, "ok": status["ok"], "failed": status["failed"]}
        print(json_text.dumps({**found, "output": job.output}))
    else:
        aside = f", {status['failed']} set aside in quarantine" if status["failed"] else ""
        print(f"{job.output}: {status['ok']} of {plan.images} photos labelled{aside}")
    return EXIT_SOME_FAILED if status["failed"] else EXIT_OK


def _dry_run(
    job: BatchJob,
    source: Source,
    team: Sequence[str],
    shard_size: int,
    limit: int | None,
    *,
    as_json: bool,
) -> int:
    """Make the plan in a folder that is thrown away, and label a few photos."""
    from scanseg.batch.plan import Numbered, make_plan
    from scanseg.batch.tables import commit
    from scanseg.batch.worker import Worker

    with tempfile.TemporaryDirectory(prefix="scanseg-") as name:
        folder = Path(name)
        plan = make_plan(source, folder, shard_size, limit=limit, output=job.folder)
        tried = [Numbered(i, item) for i, item in enumerate(plan.sample(_TRIED))]
        with Worker(replace(job, output=name)) as worker:
            device = str(worker.segmenter.device)
            worker.label(tried[:1])  # the first one also warms up
            seconds, rows = [], None
            for numbered in tried:
                started = time.perf_counter()
                worker.label([numbered])
                seconds.append(time.perf_counter() - started)
            rows = worker.label(tried)
            commit(folder, 0, rows)
        size = sum(p.stat().st_size for p in folder.glob("*/shard-*"))
    each = statistics.median(seconds)
    found: dict[str, Any] = {
        "images": plan.images,
        "shards": plan.shards,
        "shard_size": plan.shard_size,
        "processes": len(team),
        "devices": [device] if team[0] == "auto" else sorted(set(team)),
        "tried": len(tried),
        "tried_failed": len(rows.rows["quarantine"]),
        "seconds_per_image": each,
        "seconds": each * plan.images / len(team),
        "bytes": size * plan.images // len(tried),
    }
    if as_json:
        print(json_text.dumps(found))
        return EXIT_OK
    failed = f", {found['tried_failed']} of them failed" if found["tried_failed"] else ""
    print(
        f"{plan.images} photos in {plan.shards} shards of {plan.shard_size}\n"
        f"{len(team)} process{'es' if len(team) > 1 else ''} on {', '.join(found['devices'])}\n"
        f"{each:.3g} s per photo (median of {len(tried)} tried{failed}, range "
        f"{min(seconds):.3g} to {max(seconds):.3g})\n"
        f"about {_duration(found['seconds'])} if processes do not slow each other down, "
        f"{_duration(each * plan.size(0))} per shard\n"
        f"about {_bytes(found['bytes'])} of results\n"
        "nothing was written"
    )
    return EXIT_OK


def _team(processes: int | None, devices: str) -> list[str]:
    """The device of each process."""
    named = [name.strip() for name in devices.split(",") if name.strip()]
    if not named:
        raise InputError("--devices names no device: leave it out, or give cpu or cuda:0,cuda:1")
    if named == ["auto"]:
        import torch

        named = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["auto"]
    count = processes or len(named)
    return [named[i % len(named)] for i in range(count)]


def _check_counts(**options: int | None) -> None:
    for name, value in options.items():
        if value is not None and not 1 <= value <= _MOST:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} must be at least 1 and at most {_MOST:,}, not {value}")


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


# -------------------------------------------------------------------------------- what is shown


class _Meter:
    """Progress on standard error: one line that changes on a terminal, a line now and then else."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._pause = 0.0 if self._terminal else 30.0
        self._shown = 0.0
        self._first = True

    def show(self, progress: Progress) -> None:
        """Show a moment of the job, unless the last one was shown only just now."""
        first, self._first, now = self._first, False, time.monotonic()
        text = f"{progress.done} of {progress.images} photos"
        if now - self._shown < self._pause and not first:
            return
        self._shown = now
        if first and not self._terminal:
            if not progress.done:
                return
            text += " were done before"
        elif progress.remaining is not None:
            text += f", {progress.rate:.3g}/s, {_duration(progress.remaining)} left"
        line = f"\r{text:<70}" if self._terminal else f"{text}\n"
        print(line, end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            print(file=sys.stderr)


def _listing(*, quiet: bool) -> Any:
    """Tells how many photos were listed, if that takes long."""
    started = shown = time.monotonic()

    def advance(count: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if not quiet and now - started > 2 and now - shown > 10:
            shown = now
            print(f"{count} photos listed", file=sys.stderr)

    return advance


def _print_inspection(found: Inspection) -> None:
    run = found.run
    print(
        f"{run['preset']}, weights {run['weights']}, {len(run['labels'])} labels, {run['device']}; "
        f"scanseg {run['scanseg']}, torch {run['torch']}"
    )
    print(
        f"{found.done_shards} of {found.shards} shards done: {found.ok} photos labelled, "
        f"{found.failed} set aside, {found.images - found.ok - found.failed} to do"
    )
    if found.seconds:
        line = f"{(found.ok + found.failed) / found.seconds:.3g} photos/s per process"
        if found.elapsed:
            line += f", {(found.ok + found.failed) / found.elapsed:.3g}/s over all"
        print(f"{line}; {found.processes} processes, {_duration(found.seconds)} of work")
    if found.ok:
        each = found.result_bytes / (found.ok + found.failed)
        print(
            f"{_bytes(found.photo_bytes)} read, {_bytes(found.result_bytes)} written "
            f"({each:,.0f} bytes per photo)"
        )
    if found.reasons:
        print("set aside:")
        for reason, count in found.reasons.items():
            print(f"  {count:>8}  {reason}")
    if found.labels:
        print("label (photos that have it, share of all pixels):")
        widest = max(label.share for label in found.labels)
        width = max(len(label.name) for label in found.labels[:_MOST_LABELS])
        for label in found.labels[:_MOST_LABELS]:
            bar = "#" * round(24 * label.share / widest)
            print(f"  {label.name:<{width}} {label.photos:>8} {label.share:>7.2%} {bar}")
        if len(found.labels) > _MOST_LABELS:
            print(f"  and {len(found.labels) - _MOST_LABELS} more; --json lists all")
        print(f"  {'(unknown)':<{width}} {'':>8} {found.unknown_share:>7.2%}")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
