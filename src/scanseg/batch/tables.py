"""Results of a shard as tables, and how they get to disk.

Three tables, each a folder of Parquet files, one file per shard, so that
``pandas.read_parquet("OUT/segments")`` reads the whole job:

``segments``    a row per labelled part of a photo, with its run-length mask
``images``      a row per photo, also for those that failed
``quarantine``  a row per photo that failed, with the reason; it can be given as a manifest again

The files of a shard are written one after the other, each complete or not at all, ``images`` last:
a shard is done when its file in ``images`` exists. That file also names the hash of the shard's
other files. Equal results give equal bytes: nothing in them tells when, where or by whom they were
made.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from scanseg.batch.sources import Item
from scanseg.contracts import InputError, MissingExtra, Segmentation
from scanseg.formats.png import indexed_png
from scanseg.formats.records import to_record
from scanseg.storage import atomic_write

SEGMENTS, IMAGES, QUARANTINE, SAMPLES, MAPS = "segments", "images", "quarantine", "samples", "maps"
_HASHES = b"scanseg_files"  # key in the metadata of a shard's images table


@cache
def arrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet module.

    Raises:
        MissingExtra: they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("batch", "scanseg batch") from error
    return pyarrow, pyarrow.parquet


@cache
def schemas() -> dict[str, Any]:
    """The columns of each table; what they mean is in ``docs/batch.md``."""
    pa, _ = arrow()
    whole, short, text, number = pa.int64(), pa.int32(), pa.string(), pa.float64()
    return {
        SEGMENTS: pa.schema([
            ("image", whole), ("key", text), ("label", short), ("name", text),
            ("confidence", number), ("area", whole), ("share", number),
            ("bbox", pa.list_(short, 4)), ("height", short), ("width", short), ("rle", text),
        ]),
        IMAGES: pa.schema([
            ("image", whole), ("key", text), ("status", text), ("reason", text), ("width", short),
            ("height", short), ("bytes", whole), ("sha256", text), ("segments", short),
            ("unknown_share", number), ("notes", text),
        ]),
        QUARANTINE: pa.schema([("image", whole), ("path", text), ("reason", text)]),
    }  # fmt: skip


@dataclass(frozen=True)
class FileFacts:
    """What is known of a photo's file: its size in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass
class ShardRows:
    """The rows of a shard while it is worked on, in the order of its photos.

    Args:
        samples: keep records and maps for a WebDataset archive instead of segment rows.
        maps: keep an indexed PNG of each map.
    """

    samples: bool = False
    maps: bool = False
    rows: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {SEGMENTS: [], IMAGES: [], QUARANTINE: []}
    )
    members: list[tuple[str, bytes]] = field(default_factory=list)

    def done(self, image: int, item: Item, facts: FileFacts, result: Segmentation) -> None:
        """Add a photo that was labelled."""
        record = to_record(result, name=item.key)
        height, width = result.labels.shape
        if not self.samples:
            self.rows[SEGMENTS] += [
                {
                    "image": image,
                    "key": item.key,
                    "label": part["label"],
                    "name": part["name"],
                    "confidence": part["score"],
                    "area": part["area"],
                    "share": part["share"],
                    "bbox": part["bbox"],
                    "height": height,
                    "width": width,
                    "rle": part["segmentation"]["counts"],
                }
                for part in record["segments"]
            ]
        else:
            text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
            self.members.append((f"{image:012d}.json", text.encode("utf-8", "backslashreplace")))
        if self.maps:
            self.members.append((f"{image:012d}.png", indexed_png(result)))
        self.rows[IMAGES].append(
            {
                "image": image,
                "key": item.key,
                "status": "ok",
                "width": width,
                "height": height,
                "bytes": facts.size,
                "sha256": facts.sha256,
                "segments": len(record["segments"]),
                "unknown_share": record["unknown_share"],
                "notes": "; ".join(result.notes) or None,
            }
        )

    def failed(self, image: int, item: Item, reason: str, facts: FileFacts | None) -> None:
        """Add a photo that was set aside."""
        self.rows[QUARANTINE].append({"image": image, "path": item.key, "reason": reason})
        self.rows[IMAGES].append(
            {
                "image": image,
                "key": item.key,
                "status": "failed",
                "reason": reason,
                "bytes": facts and facts.size,
                "sha256": facts and facts.sha256,
            }
        )


def commit(folder: Path, shard: int, found: ShardRows) -> None:
    """Write the files of a shard, the one in ``images`` last; after that the shard is done.

    Without failures, the quarantine of somebody who died before that is removed.
    """
    files: dict[str, bytes] = {}
    if found.samples:
        files[SAMPLES] = _tar(found.members)
    else:
        files[SEGMENTS] = _parquet(SEGMENTS, found.rows[SEGMENTS])
        if found.maps:
            files[MAPS] = _tar(found.members)
    if found.rows[QUARANTINE]:
        files[QUARANTINE] = _parquet(QUARANTINE, found.rows[QUARANTINE])
    hashes = {table: hashlib.sha256(data).hexdigest() for table, data in sorted(files.items())}
    files[IMAGES] = _parquet(IMAGES, found.rows[IMAGES], {_HASHES: json.dumps(hashes).encode()})
    if QUARANTINE not in files:
        shard_file(folder, QUARANTINE, shard).unlink(missing_ok=True)
    for table, data in files.items():  # images is the last
        with atomic_write(shard_file(folder, table, shard)) as file:
            file.write(data)


def shard_file(folder: Path, table: str, shard: int) -> Path:
    """Where a shard's part of a table is."""
    ending = "tar" if table in (SAMPLES, MAPS) else "parquet"
    return folder / table / f"shard-{shard:06d}.{ending}"


def done_shards(folder: Path) -> set[int]:
    """Numbers of the shards that are done."""
    try:
        names = [path.name for path in (folder / IMAGES).iterdir()]
    except FileNotFoundError:
        return set()
    return {
        int(name[6:-8]) for name in names if name.startswith("shard-") and name.endswith(".parquet")
    }


def is_done(folder: Path, shard: int) -> bool:
    """Whether the files of a shard were committed."""
    return shard_file(folder, IMAGES, shard).exists()


def remove_temporary(folder: Path) -> None:
    """Remove half-written files of processes that died; for a job of which every shard is done."""
    for table in (SEGMENTS, IMAGES, QUARANTINE, SAMPLES, MAPS):
        for path in (folder / table).glob(".shard-*.tmp"):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        (folder / QUARANTINE).rmdir()


def shard_hashes(folder: Path, shard: int) -> dict[str, str]:
    """SHA-256 of the other files of a shard that is done, by table.

    A file that is not noted here is none of the shard's.

    Raises:
        InputError: the shard's file in ``images`` is damaged, or of another program.
    """
    pa, pq = arrow()
    path = shard_file(folder, IMAGES, shard)
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from error
    try:
        found: dict[str, str] = json.loads(metadata[_HASHES])
    except (KeyError, ValueError):
        raise InputError(f"{path} was not written by scanseg batch") from None
    return found


def has_part(folder: Path, table: str, shard: int) -> bool:
    """Whether a shard that is done has rows in a table."""
    return table == IMAGES or table in shard_hashes(folder, shard)


def read_part(folder: Path, table: str, shard: int, filters: list[Any] | None = None) -> Any:
    """A shard's part of a table, as pyarrow's ``Table``.

    Args:
        folder: of the job.
        table: which one.
        shard: its number.
        filters: which rows, as ``pyarrow.parquet.read_table`` has it.

    Raises:
        InputError: the file is damaged.
    """
    pa, pq = arrow()
    path = shard_file(folder, table, shard)
    try:
        return pq.read_table(path, filters=filters).cast(schemas()[table])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from error


def batches(folder: Path, table: str, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """The record batches of a table, shard by shard, of those that are done.

    Raises:
        InputError: a file is damaged.
    """
    pa, pq = arrow()
    for shard in sorted(done_shards(folder)):
        if not has_part(folder, table, shard):
            continue
        path = shard_file(folder, table, shard)
        try:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(columns=list(columns) if columns else None)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(path, error) from error


def damaged(path: Path, reason: object) -> InputError:
    """What to say about a file of a shard that cannot be read or is not what it was."""
    if isinstance(reason, FileNotFoundError):
        reason = "it is missing"
    first = (str(reason).splitlines() or [""])[0]
    beside = "" if path.parent.name == IMAGES else f" and its namesake in {IMAGES}/"
    return InputError(
        f"{path} is damaged ({first}): delete it{beside}, then give the same scanseg batch command "
        "again"
    )


def _parquet(
    table: str, rows: list[dict[str, Any]], metadata: dict[bytes, bytes] | None = None
) -> bytes:
    pa, pq = arrow()
    schema = schemas()[table].with_metadata(metadata)
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), stream, compression="zstd")
    return stream.getvalue()


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    """An archive without times, owners or anything else that differs from run to run."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()
