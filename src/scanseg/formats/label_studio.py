"""Label Studio: ``tasks.json`` to import, with masks as brush strokes, and ``label_config.xml``.

The masks are predictions, which annotators accept or correct. Label Studio has to reach the photos
itself: tasks name them as ``/data/local-files/?d=FILE``, which is its local storage
(``docs/formats.md``). A brush mask is the photo's four channels in run lengths packed to bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from scanseg import __version__
from scanseg.contracts import InputError
from scanseg.formats.cvat import row_runs
from scanseg.formats.datasets import Item, json_line
from scanseg.formats.palette import label_colours
from scanseg.storage import atomic_write

FILE, CONFIG = "tasks.json", "label_config.xml"
_SIZES = (3, 4, 8, 16)  # bits that a run's length may take
_CHANNELS = 4


def write(folder: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write ``tasks.json`` and ``label_config.xml`` into ``folder``."""
    with atomic_write(folder / FILE) as file:
        between = b"[\n"
        for item in items:
            file.write(between + json_line(task(item, names)))
            between = b",\n"
        file.write(b"\n]\n")
    labels = "".join(
        f'    <Label value={quoteattr(name)} background="#{r:02x}{g:02x}{b:02x}"/>\n'
        for name, (r, g, b) in zip(names, label_colours(len(names)).tolist(), strict=True)
    )
    with atomic_write(folder / CONFIG) as file:
        file.write(
            '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
            f'  <BrushLabels name="tag" toName="image">\n{labels}  </BrushLabels>\n'
            "</View>\n".encode()
        )


def task(item: Item, names: Sequence[str]) -> dict[str, Any]:
    """The task of one photo with its prediction."""
    height, width = item.size
    results = [
        {
            "id": f"p{number}",
            "type": "brushlabels",
            "from_name": "tag",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": round(part.score, 6),
            "value": {
                "format": "rle",
                "rle": brush_runs(item.parts[number - 1].mask),
                "brushlabels": [names[part.label]],
            },
        }
        for number, part in enumerate(item.parts.parts, start=1)
    ]
    return {
        "data": {"image": f"/data/local-files/?d={quote(os.fsencode(item.file_name))}"},
        "predictions": [{"model_version": f"scanseg {__version__}", "result": results}],
    }


def brush_runs(mask: np.ndarray) -> list[int]:
    """An (H, W) bool mask as the bytes of Label Studio's brush.

    Each pixel counts four times (R, G, B, alpha), 255 inside and 0 outside. Bits: 32 of the number
    of values, 5 of the bits per value less 1, 4 for each of the sizes that lengths may have, less
    1; then for each run a 1, two bits that choose the size, the length less 1, the value.

    Raises:
        InputError: more than 2^30 pixels.
    """
    total = mask.size * _CHANNELS
    if total >= 2**32:
        raise InputError("Label Studio's brush cannot hold a photo of so many pixels")
    bits = [f"{total:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for number, run in enumerate(row_runs(mask)):
        value = "1" * 8 if number % 2 else "0" * 8
        bits += [code + value for code in _lengths(run * _CHANNELS)]
    flat = np.frombuffer("".join(bits).encode(), dtype=np.uint8) - ord("0")
    return np.packbits(flat).tolist()


def _lengths(length: int) -> Iterator[str]:
    """A run's length as bits, cut into runs of at most 2^16."""
    while length:
        part = min(length, 2 ** _SIZES[-1])
        choice = next(i for i, size in enumerate(_SIZES) if part <= 2**size)
        yield f"1{choice:02b}{part - 1:0{_SIZES[choice]}b}"
        length -= part
