"""The list of all photos of a job, divided into shards, as one Parquet file.

A shard is a row group of ``plan.parquet``, so a process reads the items of its shard and no more.
The list is made once; a photo's number is its place in it, and stays so whatever is added to the
source later. Which photos make a shard depends on the list and the shard size alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scanseg.batch.sources import Item, Source
from scanseg.batch.tables import IMAGES, arrow
from scanseg.contracts import InputError
from scanseg.storage import first_difference, new_file

FILE = "plan.parquet"
_ABOUT = b"scanseg_plan"  # key in the metadata: what the list was made from
_HASH = b"scanseg_hash"  # and of the list itself; noted, because it may have gigabytes


@dataclass(frozen=True)
class Numbered:
    """An item and its number, counted from 0 over the whole job."""

    image: int
    item: Item


class Plan:
    """Shards of a job, read from disk as they are needed.

    Args:
        folder: the output folder.

    Attributes:
        images: photos of the job.
        shards: of the job.
        shard_size: photos per shard; only the last one may have fewer.
        about: what the list was made from.
        hash: 16 hexadecimal digits of the list.

    Raises:
        InputError: there is no plan, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        pa, pq = arrow()
        self.path = folder / FILE
        try:
            self._file = pq.ParquetFile(self.path)
            self.about: dict[str, Any] = json.loads(self._file.schema_arrow.metadata[_ABOUT])
            self.hash: str = self._file.metadata.metadata[_HASH].decode()
        except FileNotFoundError:
            raise InputError(f"{folder} holds no batch job: it has no {FILE}") from None
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.path} is damaged ({error})") from error
        self.images: int = self._file.metadata.num_rows
        self.shards: int = self._file.num_row_groups
        self.shard_size: int = self.about["shard size"]

    def size(self, shard: int) -> int:
        """Photos in a shard; only the last one may have fewer than the others."""
        return min(self.shard_size, self.images - shard * self.shard_size)

    def items(self, shard: int) -> list[Numbered]:
        """The photos of a shard, in order."""
        start = shard * self.shard_size
        return [
            Numbered(start + place, _item(row))
            for place, row in enumerate(self._file.read_row_group(shard).to_pylist())
        ]

    def sample(self, count: int) -> list[Item]:
        """Photos spread evenly over the job."""
        chosen = spread(self.images, count)
        return [self.items(n // self.shard_size)[n % self.shard_size].item for n in chosen]


def spread(total: int, count: int) -> list[int]:
    """``count`` places in ``range(total)`` at equal distances, or all of them if they are fewer."""
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def make_plan(
    source: Source,
    folder: Path,
    shard_size: int,
    *,
    limit: int | None = None,
    output: Path | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Plan:
    """The plan of the folder, listed from the source if there is none yet.

    If two processes list at once, the plan of the first one to finish stays.

    Args:
        source: where the photos are.
        folder: where the plan is.
        shard_size: photos per shard.
        limit: take only so many photos, the first ones.
        output: folder for the results, if it is another; not searched for photos.
        advance: called with the number of photos listed so far.

    Raises:
        InputError: no photos, the source cannot be listed, or the folder has the plan of another
            job.
    """
    wanted = {"source": str(source.path), "shard size": shard_size, "limit": limit}
    if (folder / FILE).exists():
        plan = Plan(folder)
        differs = first_difference(plan.about, wanted)
        if differs is None:
            return plan
        if (folder / IMAGES).exists():
            raise InputError(
                f"{folder} holds results of another run ({differs}: {plan.about.get(differs)} "
                f"there, {wanted[differs]} here): use another --output"
            )
        plan.path.unlink()  # of a command that ended before anything was done
    pa, pq = arrow()
    schema = pa.schema(
        [("key", pa.string()), ("archive", pa.string()), ("labels", pa.list_(pa.string()))],
        metadata={_ABOUT: json.dumps(wanted)},
    )
    items = islice(source.items(output or folder), limit)
    first = list(islice(items, shard_size))
    if not first:
        raise InputError(f"{source.path} has no photos in it")
    with (
        suppress(FileExistsError),
        new_file(folder / FILE) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        digest = hashlib.sha256(json.dumps(wanted).encode())
        for shard, count in _shards(first, items, shard_size):
            rows = [_row(item) for item in shard]
            digest.update(json.dumps(rows).encode())
            writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=2**31)
            advance(count)
        writer.add_key_value_metadata({_HASH: digest.hexdigest()[:16]})
    return Plan(folder)


def _shards(
    shard: list[Item], items: Iterator[Item], size: int
) -> Iterator[tuple[list[Item], int]]:
    count = 0
    while shard:
        count += len(shard)
        yield shard, count
        shard = list(islice(items, size))


def _row(item: Item) -> dict[str, object]:
    labels = None if item.labels is None else list(item.labels)
    return {"key": item.key, "archive": item.archive, "labels": labels}


def _item(row: dict) -> Item:
    labels = row["labels"]
    return Item(row["key"], row["archive"], None if labels is None else tuple(labels))
