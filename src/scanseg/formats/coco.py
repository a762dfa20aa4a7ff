"""COCO instances: one JSON file for one photo or many, masks as run lengths or polygons.

Category ids are label + 1, image ids the photos' numbers, annotation ids count from 1 in the order
of the photos. A part is one annotation; polygons run along the edges of pixels and fill back to the
mask exactly in pycocotools, holes cut open (``outlines``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from scanseg import __version__
from scanseg.contracts import Segmentation, Things
from scanseg.formats.datasets import Item, write_json_entries
from scanseg.formats.outlines import mask_outlines
from scanseg.formats.parts import find_panoptic
from scanseg.formats.records import encode_crop_rle
from scanseg.storage import atomic_write

FILE = "annotations/instances_default.json"
"""Where data set tools (CVAT, Datumaro) look for it."""


def write(
    folder: Path, names: Sequence[str], items: Iterable[Item], *, polygons: bool = False
) -> None:
    """Write ``annotations/instances_default.json`` into ``folder``."""
    images: list[dict[str, Any]] = []
    numbers = count(1)

    def entries() -> Iterator[dict[str, Any]]:
        for item in items:
            images.append(image_entry(item))
            yield from part_entries(item, numbers, polygons=polygons)

    head = {"info": {"description": f"scanseg {__version__}"}, "categories": coco_categories(names)}
    with atomic_write(folder / FILE) as file:
        write_json_entries(file, head, "annotations", entries(), lambda: {"images": images})


def to_coco(
    segmentation: Segmentation,
    *,
    image_id: int = 1,
    file_name: str = "",
    things: Things = (),
    polygons: bool = False,
) -> dict[str, Any]:
    """A COCO dictionary of one photo (``Segmentation.to_coco``)."""
    item = Item(image_id, file_name, file_name, find_panoptic(segmentation, things))
    return {
        "images": [image_entry(item)],
        "annotations": list(part_entries(item, count(1), polygons=polygons)),
        "categories": coco_categories(segmentation.names),
    }


def coco_categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """COCO's list of all words; ids are label + 1."""
    return [{"id": i + 1, "name": name} for i, name in enumerate(names)]


def image_entry(item: Item) -> dict[str, Any]:
    """COCO's entry for a photo."""
    height, width = item.size
    return {"id": item.number, "width": width, "height": height, "file_name": item.file_name}


def part_entries(
    item: Item, numbers: Iterator[int], *, polygons: bool = False
) -> Iterator[dict[str, Any]]:
    """COCO's entries for the parts of a photo."""
    for i, part in enumerate(item.parts.parts):
        crop, origin = item.parts.crop(i), part.bbox[:2]
        yield {
            "id": next(numbers),
            "image_id": item.number,
            "category_id": part.label + 1,
            "segmentation": _polygons(crop, origin)
            if polygons
            else encode_crop_rle(crop, origin, item.size),
            "area": part.area,
            "bbox": list(part.bbox),
            "iscrowd": 0,
            "score": round(part.score, 6),
        }


def _polygons(crop: np.ndarray, origin: tuple[int, int]) -> list[list[int]]:
    x, y = origin
    return [
        [int(value) for px, py in line for value in (px + x, py + y)]
        for line in mask_outlines(crop)
    ]
