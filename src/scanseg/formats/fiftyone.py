"""FiftyOne: ``samples.json`` with one ``Detections`` field of instance masks per photo.

The values are FiftyOne's own serialised form (its ``LegacyFiftyOneDataset``): boxes as shares of
the photo, masks within their box, as zlib-compressed NumPy files in base64. FiftyOne itself is not
needed to write them.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.formats.datasets import Item, write_json_entries
from scanseg.storage import atomic_write

FILE = "samples.json"
FIELD = "scanseg"
"""Name of the field of a sample."""


def write(folder: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write ``samples.json`` into ``folder``."""
    with atomic_write(folder / FILE) as file:
        write_json_entries(file, {}, "samples", (sample(item, names) for item in items))


def sample(item: Item, names: Sequence[str]) -> dict[str, Any]:
    """The dictionary that ``fiftyone.Sample.from_dict`` takes."""
    height, width = item.size
    path = item.file_name if item.photo is None else str(item.photo.resolve())
    return {
        "filepath": path,
        "tags": [],
        "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
        FIELD: {"_cls": "Detections", "detections": detections(item, names)},
    }


def detections(item: Item, names: Sequence[str]) -> list[dict[str, Any]]:
    """The parts of a photo, the largest first."""
    height, width = item.size
    found = []
    for i, part in enumerate(item.parts.parts):
        x, y, w, h = part.bbox
        found.append(
            {
                "_cls": "Detection",
                "label": names[part.label],
                "bounding_box": [x / width, y / height, w / width, h / height],
                "confidence": round(part.score, 6),
                "mask": _serialised(item.parts.crop(i)),
                "tags": [],
            }
        )
    return found


def _serialised(mask: np.ndarray) -> dict[str, Any]:
    file = BytesIO()
    np.save(file, mask, allow_pickle=False)
    packed = b64encode(zlib.compress(file.getvalue())).decode("ascii")
    return {"$binary": {"base64": packed, "subType": "00"}}
