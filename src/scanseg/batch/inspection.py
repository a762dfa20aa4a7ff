"""What a job's folder holds: counts, labels, rates, failures, and a sheet of pictures."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from scanseg.batch.plan import Plan, spread
from scanseg.batch.sources import Item, Reader, open_source
from scanseg.batch.tables import (
    IMAGES,
    QUARANTINE,
    SAMPLES,
    SEGMENTS,
    batches,
    done_shards,
    has_part,
    read_part,
    shard_file,
)
from scanseg.batch.worker import LOG_FOLDER, read_run
from scanseg.contracts import UNKNOWN, InputError, Segmentation
from scanseg.formats.lettering import Lettering, shortened
from scanseg.formats.overlay import draw_overlay
from scanseg.formats.photos import PhotoLimits, read_photo
from scanseg.formats.records import decode_rle

_THUMBNAIL = 240  # pixels, long side
_PAPER, _INK = (255, 255, 255), (34, 34, 38)
_NAMES = 3  # of labels under a picture


@dataclass(frozen=True)
class LabelCount:
    """How often a label was found.

    Attributes:
        name: the label.
        photos: that have it.
        share: of the pixels of all photos, in [0, 1].
    """

    name: str
    photos: int
    share: float


@dataclass(frozen=True)
class Inspection:
    """Facts about a job.

    Attributes:
        images: photos of the whole job.
        shards: of the whole job.
        done_shards: how many of them are done.
        ok: photos labelled.
        failed: photos set aside.
        reasons: of failures, without the photos' names -> how many, the most frequent first.
        labels: by share of the pixels, the largest first.
        unknown_share: of the pixels of all photos, in [0, 1].
        photo_bytes: of the files that were read.
        result_bytes: of the files that were written.
        processes: that took part.
        seconds: of work, summed over processes, in shards that are done.
        elapsed: seconds from the first to the last shard, pauses included; ``None`` for one shard.
        run: what decided the output.
    """

    images: int
    shards: int
    done_shards: int
    ok: int
    failed: int
    reasons: dict[str, int]
    labels: list[LabelCount]
    unknown_share: float
    photo_bytes: int
    result_bytes: int
    processes: int
    seconds: float
    elapsed: float | None
    run: dict[str, Any]


def inspect_job(folder: Path) -> Inspection:
    """Read the tables of a job, one batch of rows at a time.

    Raises:
        InputError: the folder holds no job, or a file is damaged.
    """
    run, plan, done = read_run(folder), Plan(folder), done_shards(folder)
    status: Counter[str] = Counter()
    pixels = unknown = photo_bytes = 0.0
    for batch in batches(folder, IMAGES, ("status", "width", "height", "unknown_share", "bytes")):
        columns = batch.to_pydict()
        status.update(columns["status"])
        photo_bytes += sum(b or 0 for b in columns["bytes"])
        for width, height, share in zip(
            columns["width"], columns["height"], columns["unknown_share"], strict=True
        ):
            if width is not None:
                pixels += width * height
                unknown += width * height * share
    photos: Counter[str] = Counter()
    areas: Counter[str] = Counter()
    for name, area in _parts(folder, done):
        photos[name] += 1
        areas[name] += area
    reasons: Counter[str] = Counter()
    for batch in batches(folder, QUARANTINE):
        for row in batch.to_pylist():
            reasons[row["reason"].replace(row["path"], "").strip()] += 1
    seconds, elapsed, processes = _times(folder)
    return Inspection(
        images=plan.images,
        shards=plan.shards,
        done_shards=len(done),
        ok=status["ok"],
        failed=status["failed"],
        reasons=dict(reasons.most_common()),
        labels=[
            LabelCount(name, photos[name], area / pixels) for name, area in areas.most_common()
        ],
        unknown_share=unknown / pixels if pixels else 0.0,
        photo_bytes=int(photo_bytes),
        result_bytes=sum(p.stat().st_size for p in folder.glob("*/shard-*") if p.is_file()),
        processes=processes,
        seconds=seconds,
        elapsed=elapsed,
        run=run,
    )


def contact_sheet(folder: Path, count: int = 20, columns: int = 5) -> Image.Image:
    """Small overlays of photos spread over the job, each with its number and largest labels.

    Args:
        folder: of the job.
        count: pictures at most.
        columns: pictures per row.

    Raises:
        InputError: no photo was labelled, or the source is no longer where it was.
    """
    run, plan = read_run(folder), Plan(folder)
    if run["format"] != "parquet":
        raise InputError("a contact sheet needs segments in Parquet, not in WebDataset archives")
    done = sorted(done_shards(folder))
    total = sum(map(plan.size, done))
    wanted = Counter(done[place // plan.shard_size] for place in spread(total, count))
    tiles: list[Image.Image] = []
    for shard, number in wanted.items():
        tiles += _tiles(folder, run, plan, shard, number)
    if not tiles:
        raise InputError(f"{folder} has no labelled photos yet")
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * width, rows * height), _PAPER)
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * width, place // columns * height))
    return sheet


def _tiles(
    folder: Path, run: dict[str, Any], plan: Plan, shard: int, count: int
) -> list[Image.Image]:
    images = read_part(folder, IMAGES, shard).to_pylist()
    good = [row for row in images if row["status"] == "ok"]
    good = [good[place] for place in spread(len(good), count)]
    numbers = [row["image"] for row in good]
    wanted = [("image", "in", numbers)] if numbers else None
    parts = read_part(folder, SEGMENTS, shard, wanted).to_pylist()
    items = {n.image: n.item for n in plan.items(shard)}
    reader = Reader(open_source(run["source"]), PhotoLimits(*run["limits"]))
    try:
        return [
            _tile(
                row,
                _names(items[row["image"]], run),
                [p for p in parts if p["image"] == row["image"]],
                reader.read(items[row["image"]]),
            )
            for row in good
        ]
    finally:
        reader.close()


def _tile(
    row: dict[str, Any], names: tuple[str, ...], parts: list[dict[str, Any]], data: bytes
) -> Image.Image:
    photo = read_photo(data)
    height, width = photo.pixels.shape[:2]
    labels = np.full((height, width), UNKNOWN, np.int32)
    for part in parts:
        rle = {"size": [part["height"], part["width"]], "counts": part["rle"]}
        labels[decode_rle(rle)] = part["label"]
    scale = min(1.0, _THUMBNAIL / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Segmentation(
        labels=np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)),
        names=names,
        confidence=np.ones(size[::-1], np.float32),
        image=np.asarray(Image.fromarray(photo.pixels).resize(size, Image.Resampling.LANCZOS)),
    )
    lettering = Lettering(names)
    font = lettering.font(13)
    tile = Image.new("RGB", (_THUMBNAIL + 12, _THUMBNAIL + 52), _PAPER)
    tile.paste(draw_overlay(small, legend=False), (6, 6 + _THUMBNAIL - size[1]))
    draw = ImageDraw.Draw(tile)
    found = ", ".join(lettering.names[p["label"]] for p in parts[:_NAMES]) or "nothing found"
    lines = (f"{row['image']}  {Path(row['key']).name}", found)
    for number, line in enumerate(lines):
        place = (6, _THUMBNAIL + 10 + 19 * number)
        draw.text(place, shortened(line, font, _THUMBNAIL), _INK, font=font)
    return tile


def _names(item: Item, run: dict[str, Any]) -> tuple[str, ...]:
    from scanseg.vocabulary import Vocabulary

    return tuple(run["labels"]) if item.labels is None else Vocabulary(item.labels).names


def _parts(folder: Path, done: set[int]) -> Any:
    """(name, area) of every segment, from either format."""
    for batch in batches(folder, SEGMENTS, ("name", "area")):
        yield from zip(batch["name"].to_pylist(), batch["area"].to_pylist(), strict=True)
    for shard in sorted(done):
        if has_part(folder, SAMPLES, shard):
            for record in records(shard_file(folder, SAMPLES, shard)):
                for part in record["segments"]:
                    yield part["name"], part["area"]


def records(path: Path) -> Any:
    """The JSON records in a WebDataset archive that was written by a job."""
    from scanseg.batch.sources import TAR_BOUNDS
    from scanseg.data.archives import TarBundle

    bundle = TarBundle(path, TAR_BOUNDS)
    try:
        for member in bundle.members:
            if member.path.endswith(".json"):
                yield json.loads(bundle.read(member))
    finally:
        bundle.close()


def _times(folder: Path) -> tuple[float, float | None, int]:
    """Seconds of work, seconds from first to last shard, processes; from the logs."""
    entries, processes = [], 0
    for path in sorted((folder / LOG_FOLDER).glob("*.jsonl")):
        processes += 1
        for line in path.read_text().splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:  # a line that a kill tore
                continue
    if not entries:
        return 0.0, None, processes
    start = min(e["finished"] - e["seconds"] for e in entries)
    end = max(e["finished"] for e in entries)
    elapsed = end - start if len(entries) > 1 else None
    return sum(e["seconds"] for e in entries), elapsed, processes
