"""The shards of one or more jobs as single files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scanseg.batch.plan import Plan
from scanseg.batch.tables import (
    IMAGES,
    QUARANTINE,
    SEGMENTS,
    arrow,
    damaged,
    done_shards,
    has_part,
    read_part,
    schemas,
    shard_file,
    shard_hashes,
)
from scanseg.batch.worker import read_run
from scanseg.contracts import InputError
from scanseg.storage import atomic_write, first_difference

_PER_JOB = ("source", "photos")  # what jobs that are merged may differ in


def merge_jobs(
    folders: Sequence[Path], output: Path, *, advance: Callable[[], None] = lambda: None
) -> list[Path]:
    """Write ``segments.parquet``, ``images.parquet`` and ``quarantine.parquet``.

    Every file is checked against the hash that was noted when its shard was done. Photos of the
    second job are numbered after those of the first, and so on.

    Args:
        folders: of the jobs.
        output: folder to write to.
        advance: called after each shard.

    Returns:
        The files written.

    Raises:
        InputError: a job is not finished, a file is damaged, or the jobs were made differently.
    """
    pa, pq = arrow()
    runs = [read_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if run["format"] != "parquet":
            raise InputError(f"{folder} holds WebDataset archives: they are joined by listing them")
        common = [{k: v for k, v in r.items() if k not in _PER_JOB} for r in (runs[0], run)]
        if (name := first_difference(*common)) is not None:
            raise InputError(f"{folders[0]} and {folder} were made with different {name}")
    plans = [Plan(folder) for folder in folders]
    for folder, plan in zip(folders, plans, strict=True):
        missing = plan.shards - len(done_shards(folder))
        if missing:
            raise InputError(
                f"{folder} is not finished ({missing} of {plan.shards} shards are missing): give "
                "its scanseg batch command again first"
            )
    written = []
    for table in (SEGMENTS, IMAGES, QUARANTINE):
        path, schema, before = output / f"{table}.parquet", schemas()[table], 0
        with (
            atomic_write(path) as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for folder, plan in zip(folders, plans, strict=True):
                for shard in range(plan.shards):
                    if table != QUARANTINE or has_part(folder, table, shard):
                        rows = _rows(folder, table, shard)
                        numbers = pa.compute.add(rows["image"], before)
                        writer.write_table(rows.set_column(0, schema.field(0), numbers))
                    advance()
                before += plan.images
        written.append(path)
    return written


def _rows(folder: Path, table: str, shard: int) -> Any:
    """A shard's rows in a table, checked against the hash that was noted."""
    if table != IMAGES:
        _check(shard_file(folder, table, shard), shard_hashes(folder, shard)[table])
    return read_part(folder, table, shard)


def _check(path: Path, noted: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise damaged(path, error) from error
    if found != noted:
        raise damaged(path, "its hash is not the one that was noted")
