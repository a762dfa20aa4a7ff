"""Pascal VOC segmentation: ``SegmentationClass``, ``SegmentationObject`` and ``labelmap.txt``.

Class pictures are palette PNGs: 0 is unknown (``background``), value i the i-th word. Object
pictures number the parts of a photo from 1, in VOC's own colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from scanseg.contracts import InputError
from scanseg.formats.datasets import Item
from scanseg.formats.palette import label_colours
from scanseg.storage import atomic_write

_BACKGROUND = "background"
_MOST = 254  # 0 is background and 255 a border in VOC


def write(folder: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write the pictures and lists into ``folder``.

    Raises:
        InputError: more than 254 words, or a photo with more parts.
    """
    if len(names) > _MOST:
        raise InputError(f"the format voc holds at most {_MOST} words, not {len(names)}")
    colours = np.concatenate([[(0, 0, 0)], label_colours(len(names))]).astype(np.uint8)
    stems = []
    for item in items:
        stems.append(item.stem)
        if len(item.parts) > _MOST:
            raise InputError(
                f"the format voc holds at most {_MOST} parts of a photo, and {item.file_name} has "
                f"{len(item.parts)}: name fewer things"
            )
        classes = np.array([0, *(part.label + 1 for part in item.parts.parts)])[item.parts.ids]
        _save(folder / "SegmentationClass" / f"{item.stem}.png", classes, colours)
        _save(folder / "SegmentationObject" / f"{item.stem}.png", item.parts.ids, voc_colours())
    rows = zip([_BACKGROUND, *_distinct(names)], colours.tolist(), strict=True)
    labelmap = "".join(f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in rows)
    lists = "".join(f"{stem}\n" for stem in stems)
    for path, text in (
        ("labelmap.txt", f"# label:color_rgb:parts:actions\n{labelmap}"),
        ("ImageSets/Segmentation/default.txt", lists),
    ):
        with atomic_write(folder / path) as file:
            file.write(text.encode("utf-8", "surrogateescape"))  # names of files as they are


def voc_colours() -> np.ndarray:
    """VOC's own palette, (256, 3) uint8, by which readers tell objects apart.

    The lowest three bits of an index are the highest bits of red, green and blue, the next three
    bits the next ones, and so on.
    """
    index = np.arange(256)
    return np.stack(
        [sum((index >> (3 * k + c) & 1) << (7 - k) for k in range(3)) for c in range(3)], axis=1
    ).astype(np.uint8)


def _save(path: Path, values: np.ndarray, palette: np.ndarray) -> None:
    image = Image.fromarray(values.astype(np.uint8)).convert("P")
    image.putpalette(palette.tobytes())
    with atomic_write(path) as file:
        image.save(file, "PNG")


def _distinct(names: Sequence[str]) -> list[str]:
    """The words as ``labelmap.txt`` can hold them; where a name is taken, with ``_2``, ``_3``."""
    taken, found = {_BACKGROUND, *names}, []
    for name in names:
        plain = chosen = _plain(name)
        if plain != name or name == _BACKGROUND:
            numbers = count(2)
            while chosen in taken:
                chosen = f"{plain}_{next(numbers)}"
            taken.add(chosen)
        found.append(chosen)
    return found


def _plain(name: str) -> str:
    """A name that ``labelmap.txt`` can hold, whose fields end with a colon."""
    return name.replace(":", " ").replace("\n", " ")
