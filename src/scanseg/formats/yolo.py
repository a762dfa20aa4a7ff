"""YOLO segmentation: ``data.yaml``, ``images/`` and ``labels/`` with a text file per photo.

A line is a class and a polygon, ``class x1 y1 x2 y2 ...`` as shares of width and height. YOLO knows
one line per object and no holes: each connected region is a line of its own, its holes cut open.
The points are those that OpenCV fills back to the mask exactly (``outlines``).

The photos are copied, since YOLO finds labels by the path of the photo. One that a camera stored
lying on its side, or in a format that YOLO does not read, is saved upright as PNG.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from scanseg.contracts import InputError
from scanseg.formats.datasets import Item
from scanseg.formats.outlines import mask_outlines
from scanseg.formats.photos import is_upright, read_photo
from scanseg.storage import atomic_write

_READ_BY_YOLO = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_INSET = (0.25, 0.75)


def write(folder: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write ``data.yaml``, ``images/*`` and ``labels/*.txt`` into ``folder``."""
    for item in items:
        _copy_photo(item, folder / "images")
        with atomic_write(folder / "labels" / f"{item.stem}.txt") as file:
            for line in lines(item):
                file.write(f"{line}\n".encode())
    head = "# photos and labels by scanseg; train and val name the same photos: split them first\n"
    quoted = (json.dumps(name, ensure_ascii=False) for name in names)  # JSON strings are YAML
    classes = "".join(f"  {i}: {name}\n" for i, name in enumerate(quoted))
    with atomic_write(folder / "data.yaml") as file:
        file.write(f"{head}train: images\nval: images\nnames:\n{classes}".encode())


def lines(item: Item) -> Iterable[str]:
    """The lines of a photo's text file, the largest part first."""
    height, width = item.size
    for i, part in enumerate(item.parts.parts):
        left, top = part.bbox[:2]
        for outline in mask_outlines(item.parts.crop(i), inset=_INSET):
            points = (
                f"{(x + left) / width:.7f} {(y + top) / height:.7f}"
                for x, y in _at_least_three(outline)
            )
            yield f"{part.label} {' '.join(points)}"


def _at_least_three(outline: Sequence[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    """Without points that repeat the one before, as long as a triangle is left."""
    kept = [p for i, p in enumerate(outline) if p != outline[i - 1]]
    return kept if len(kept) >= 3 else outline


def _copy_photo(item: Item, folder: Path) -> None:
    if item.photo is None:
        raise InputError(f"the format yolo needs the photo {item.file_name} itself: it is no file")
    source = item.photo
    if source.suffix.lower() in _READ_BY_YOLO and is_upright(source):
        with (
            source.open("rb") as photo,
            atomic_write(folder / f"{item.stem}{source.suffix}") as file,
        ):
            shutil.copyfileobj(photo, file)
    else:
        with atomic_write(folder / f"{item.stem}.png") as file:
            Image.fromarray(read_photo(source).pixels).save(file, "PNG")
