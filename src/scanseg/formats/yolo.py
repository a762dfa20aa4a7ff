"""YOLO segmentation: ``data.yaml``, ``images/`` and ``labels/`` with a text file per photo.

A line is a class and a polygon, ``class x1 y1 x2 y2 ...`` as shares of width and height. YOLO knows
one line per object and no holes: each connected region is a line of its own, its holes cut open.
The points are those that OpenCV fills back to the mask exactly (``outlines``).

The photos are copied, since YOLO finds labels by the path of the photo. One that a camera stored
lying on its side, or in a format that YOLO does not read, is saved upright as PNG.
"""

from __future__ import annotations

import json
import re
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
_HEAD = (
    "# photos and labels by scanseg; train and val name the same photos: split them first\n"
    "train: images\nval: images\nnames:\n"
)


def write(folder: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write ``data.yaml``, ``images/*`` and ``labels/*.txt`` into ``folder``.

    Photos and labels of an earlier data set with other words are removed at the end.
    """
    written = set()
    for item in items:
        label = folder / "labels" / f"{item.stem}.txt"
        written |= {_key(_copy_photo(item, folder / "images")), _key(label)}
        with atomic_write(label) as file:
            for line in lines(item):
                file.write(f"{line}\n".encode())
    quoted = (json.dumps(name, ensure_ascii=False) for name in names)  # JSON strings are YAML
    classes = "".join(f"  {i}: {name}\n" for i, name in enumerate(quoted))
    about = (_HEAD + classes).encode()
    if _has_other_names(folder / "data.yaml", about):
        _remove_others(folder, written)
    with atomic_write(folder / "data.yaml") as file:
        file.write(about)


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


def _has_other_names(path: Path, about: bytes) -> bool:
    """Whether an earlier ``data.yaml``, as written here, has other words; not if it was edited."""
    try:
        earlier = path.read_bytes()
    except FileNotFoundError:
        return False
    ours = re.fullmatch(re.escape(_HEAD.encode()) + rb'(  \d+: ".*"\n)*', earlier)
    return ours is not None and earlier != about


def _remove_others(folder: Path, written: set[str]) -> None:
    """Remove label files that were not written now, and the photos that they are about."""
    images, labels = folder / "images", folder / "labels"
    for photo in [p for p in images.rglob("*") if p.suffix.lower() in _READ_BY_YOLO]:
        about = labels / photo.relative_to(images).with_suffix(".txt")
        if _key(photo) not in written and about.is_file():
            photo.unlink()
    for label in list(labels.rglob("*.txt")):
        if _key(label) not in written:
            label.unlink()


def _key(path: Path) -> str:
    """A path as systems compare it that ignore case."""
    return str(path).casefold()


def _copy_photo(item: Item, folder: Path) -> Path:
    """Returns the path of the copy."""
    if item.photo is None:
        raise InputError(f"the format yolo needs the photo {item.file_name} itself: it is no file")
    source = item.photo
    if source.suffix.lower() in _READ_BY_YOLO and is_upright(source):
        copy = folder / f"{item.stem}{source.suffix}"
        with source.open("rb") as photo, atomic_write(copy) as file:
            shutil.copyfileobj(photo, file)
    else:
        copy = folder / f"{item.stem}.png"
        with atomic_write(copy) as file:
            Image.fromarray(read_photo(source).pixels).save(file, "PNG")
    return copy
