"""Any data set of one's own: ``images/``, ``labels/``, ``classes.txt``, ``splits/*.txt``.

``classes.txt`` has one class per line, columns separated by tabs::

    id    name    [prompt name]    [thing | stuff]    [key=value ...]

``id`` is the value in the label maps, the class index is the line's position. Label maps are PNGs
of 8 bits (255 does not count) or 16 bits (65535 does not count). ``splits/NAME.txt`` lists the
samples of a split; without lists there is one split, ``all``. ``panoptic.json`` with
``panoptic/*.png`` in COCO's format adds segments for the photos that it lists.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from scanseg.contracts import InputError
from scanseg.data.coco_panoptic import (
    MAX_JSON_BYTES,
    Segments,
    class_index,
    read_index,
    read_segments,
)
from scanseg.data.layout import Files, Folder, Layout, SplitFacts
from scanseg.data.pictures import LabelTable, decode_grey, png_header, read_bytes
from scanseg.data.samples import Sample
from scanseg.data.splits import read_keys
from scanseg.storage import read_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
VOIDS = {8: 255, 16: 65535}
"""Bits per pixel -> the value that does not count."""
_KINDS = frozenset(("thing", "stuff"))
_MAX_CLASSES_BYTES = 16 * 2**20


@dataclass(frozen=True)
class ClassList:
    """A ``classes.txt``.

    Attributes:
        ids: value of each class in the label maps.
        names: official names, unique.
        prompts: plain names for a text encoder; the official name where the file has no other.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    prompts: tuple[str, ...]


@lru_cache(maxsize=4)
def _categories(path: Path, _changed: int, names: tuple[str, ...]) -> dict[int, int]:
    content = read_json(path, MAX_JSON_BYTES)
    try:
        categories = content["categories"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a COCO panoptic file ({error})") from error
    return class_index(categories, names, path)


def read_classes(path: Path) -> ClassList:
    """Read ``classes.txt``.

    Raises:
        InputError: unreadable, a line without id and name, or an id or name twice.
    """
    try:
        if path.stat().st_size > _MAX_CLASSES_BYTES:
            raise InputError(f"{path}: too large for a list of classes")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list of classes ({error})") from error
    ids: list[int] = []
    names: list[str] = []
    prompts: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) < 2 or not _is_id(columns[0]) or not columns[1]:
            raise InputError(f"{path}: line {number} is not id, tab, name")
        third = columns[2] if len(columns) > 2 else ""
        ids.append(int(columns[0]))
        names.append(columns[1])
        prompts.append(columns[1] if not third or "=" in third or third in _KINDS else third)
    if not names:
        raise InputError(f"{path}: lists no classes")
    for what, values in (("id", ids), ("name", names)):
        twice = next((v for v, times in Counter(values).items() if times > 1), None)
        if twice is not None:
            raise InputError(f"{path}: the {what} {twice!r} occurs twice")
    if max(ids) >= VOIDS[16] or VOIDS[8] in ids:
        raise InputError(f"{path}: ids must be below 65535 and not 255, which means void")
    return ClassList(tuple(ids), tuple(names), tuple(prompts))


def _is_id(text: str) -> bool:
    return text.isdecimal() and len(text) <= 9


class FolderLayout(Layout):
    """A folder of one's own; :meth:`at` binds it to the classes of a root."""

    name = "folder"
    title = "a folder of your own"
    label_set = None
    table = LabelTable((), ())
    default_split = "all"
    splits: ClassVar[dict[str, SplitFacts]] = {}
    tree = (
        "images/*, labels/*.png, classes.txt; optional splits/*.txt, panoptic.json, panoptic/*.png"
    )
    terms = "your own"

    @property
    def labelled(self) -> str:
        """See :attr:`Layout.labelled`."""
        return f"{self.classes} classes" if self.classes else "the classes of its classes.txt"

    def at(self, root: Path) -> Layout:
        """The layout with the classes of ``root``."""
        classes = read_classes(self.need(root, "", "list of classes", "classes.txt"))
        bound = FolderLayout()
        bound.names = classes.names
        bound.prompts = classes.prompts
        bound.table = LabelTable(classes.ids, (VOIDS[16],), bits=16)
        return bound

    def available(self, root: Path) -> tuple[str, ...]:
        """The lists in ``splits/`` whose samples are keys, else ``all``."""
        lists = sorted(path.stem for path in (root / "splits").glob("*.txt"))
        return tuple(name for name in lists if not name.startswith("original_")) or ("all",)

    def files(self, root: Path, split: str) -> Files:
        """See :meth:`Layout.files`; ``all`` needs no list."""
        images = Folder.scan(self.need(root, split, "photos", "images"), *IMAGE_SUFFIXES)
        labels = Folder.scan(self.need(root, split, "label maps", "labels"), ".png")
        path = root / "splits" / f"{split}.txt"
        if Path(split).name == split and path.is_file():
            return Files(read_keys(path, labels.files), images, labels, listed=True)
        if split != "all":
            raise InputError(
                f"{root} has no split {split!r}; it has {', '.join(self.available(root))}"
            )
        return Files(tuple(labels.files), images, labels, listed=False)

    def read_label(self, path: Path) -> np.ndarray:
        """A PNG of 8 or 16 bits -> (H, W) int32 class indices, -1 for void."""
        data = read_bytes(path)
        bits = 16 if png_header(data, path)[0] == 16 else 8
        table = self.table if bits == 16 else self._table_8_bit(path)
        return table.decode(decode_grey(data, path, bits=bits), path)

    def _table_8_bit(self, path: Path) -> LabelTable:
        if max(self.table.values) > VOIDS[8]:
            raise InputError(f"{path}: 8 bits per pixel, but classes.txt has ids above 255")
        return LabelTable(self.table.values, (VOIDS[8],), bits=8)

    def sample(self, files: Files, key: str) -> Sample:
        """A sample, its photo upright; with segments if ``panoptic.json`` lists it."""
        sample = replace(super().sample(files, key), upright=True)
        segments = self._segments(files.labels.path.parent).get(key)
        if segments is None:
            return sample
        path = files.labels.path.parent / "panoptic" / segments.file
        return replace(sample, read_panoptic=partial(read_segments, path, segments))

    def _segments(self, root: Path) -> dict[str, Segments]:
        path = root / "panoptic.json"
        if not path.is_file():
            return {}
        return read_index(path, _categories(path, path.stat().st_mtime_ns, self.names))

    def remedy(self, root: Path, split: str) -> str:
        """What such a folder must have."""
        return "a data set of your own has images/, labels/ and classes.txt (id, tab, name)"
