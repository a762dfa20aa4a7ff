"""COCO panoptic: a JSON file, and a PNG per photo with a segment id in each pixel.

A pixel's id is R + 256 G + 65,536 B and 0 is unknown; ids count from 1, the largest first. Words
named as things have ``isthing`` 1 and one segment per connected region.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scanseg import __version__
from scanseg.formats.coco import coco_categories, image_entry
from scanseg.formats.datasets import Item, write_json_entries
from scanseg.storage import atomic_write

FILE = "annotations/panoptic_default.json"
PICTURES = "annotations/panoptic_default"


def write(folder: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write ``annotations/panoptic_default.json`` and its pictures into ``folder``."""
    images: list[dict[str, Any]] = []
    things: set[int] = set()

    def entries() -> Iterator[dict[str, Any]]:
        for item in items:
            things.update(item.parts.things)
            images.append(image_entry(item))
            name = f"{item.stem}.png"
            with atomic_write(folder / PICTURES / name) as file:
                Image.fromarray(id_colours(item.parts.ids)).save(file, "PNG")
            yield {
                "image_id": item.number,
                "file_name": name,
                "segments_info": [
                    {
                        "id": number,
                        "category_id": part.label + 1,
                        "area": part.area,
                        "bbox": list(part.bbox),
                        "iscrowd": 0,
                        "score": round(part.score, 6),
                    }
                    for number, part in enumerate(item.parts.parts, start=1)
                ],
            }

    def tail() -> dict[str, Any]:
        categories = [
            {**category, "isthing": int(i in things)}
            for i, category in enumerate(coco_categories(names))
        ]
        return {"images": images, "categories": categories}

    head = {"info": {"description": f"scanseg {__version__}"}}
    with atomic_write(folder / FILE) as file:
        write_json_entries(file, head, "annotations", entries(), tail)


def id_colours(ids: np.ndarray) -> np.ndarray:
    """(H, W) segment ids below 2^24 -> (H, W, 3) uint8."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)
