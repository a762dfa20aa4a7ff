"""Many photos as one data set that another tool opens; each format is a module beside this one.

A format's module has one function, ``write(folder, names, items)``, which goes through the photos
once and holds one of them at a time.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scanseg.contracts import InputError, Segmentation, Things
from scanseg.formats.parts import Part, Parts, find_panoptic
from scanseg.formats.records import encode_crop_rle, rle_runs

_MODULES: dict[str, tuple[str, Mapping[str, Any]]] = {
    # name: (module, arguments of its write)
    "coco": ("coco", {}),
    "coco-polygons": ("coco", {"polygons": True}),
    "coco-panoptic": ("coco_panoptic", {}),
    "yolo": ("yolo", {}),
    "cvat": ("cvat", {}),
    "cvat-polygons": ("cvat", {"polygons": True}),
    "label-studio": ("label_studio", {}),
    "fiftyone": ("fiftyone", {}),
    "voc": ("voc", {}),
    "geojson": ("geojson", {}),
}
FORMATS = tuple(_MODULES)
"""Names of the formats of data sets."""

_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Item:
    """One photo of a data set.

    Attributes:
        number: 1, 2 ... ; the photo's id where a format has ids.
        file_name: of the photo below the data set's photo folder, with ``/``.
        stem: what files about the photo are called, without an ending; no two photos share one.
        parts: what is in it.
        photo: where the photo is, for formats that carry photos along; ``None``: not known.
    """

    number: int
    file_name: str
    stem: str
    parts: Parts
    photo: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the photo."""
        height, width = self.parts.ids.shape
        return height, width


def write_dataset(
    name: str,
    folder: str | Path,
    photos: Iterable[tuple[str | Path, Segmentation]],
    *,
    things: Things = (),
    min_area: int = 1,
) -> Path:
    """Write segmented photos as one data set.

    Args:
        name: one of ``FORMATS``.
        folder: for the files; made if needed, files of the same name are replaced.
        photos: (file, segmentation) of each photo, all with the same words. The file's name is
            what the data set calls the photo; where the format carries photos along (``yolo``),
            the file is copied.
        things: words whose connected regions are instances of their own, or ``"all"``; the pixels
            of any other word are one segment per photo.
        min_area: segments of fewer pixels are left out.

    Returns:
        The folder.

    Raises:
        InputError: no such format, no photo, photos with different words or equal names.
    """
    check_format(name)

    def items() -> Iterator[Item]:
        names: tuple[str, ...] | None = None
        seen: set[str] = set()
        for number, (file, segmentation) in enumerate(photos, start=1):
            if names is None:
                names = segmentation.names
            if segmentation.names != names:
                raise InputError(f"{file} was segmented with other words than the photos before it")
            path = Path(file)
            if path.stem in seen:
                raise InputError(f"two photos of a data set are called {path.stem}: rename one")
            seen.add(path.stem)
            parts = find_panoptic(segmentation, things, min_area=min_area)
            yield Item(number, path.name, path.stem, parts, path if path.is_file() else None)

    every: Iterator[Item] = items()
    first = next(every, None)
    if first is None:
        raise InputError("a data set needs at least one photo")
    names, every = first.parts.names, chain(iter([first]), every)
    del first  # one photo at a time
    write_items(name, Path(folder), names, every)
    return Path(folder)


def write_items(name: str, folder: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write a data set of photos that are already split into parts."""
    module, arguments = _MODULES[name]
    write: Callable[..., None] = import_module(f"scanseg.formats.{module}").write
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, tuple(names), items, **arguments)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from error


def check_format(name: str) -> None:
    """Complain about a format that does not exist."""
    if name not in _MODULES:
        close = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"there is no format {name!r}{hint}: use one of {', '.join(FORMATS)}")


# ------------------------------------------------------------------ parts as plain values


def parts_record(parts: Parts) -> dict[str, Any]:
    """Parts as plain values for JSON; ``read_parts`` gives them back."""
    size = parts.ids.shape
    return {
        "things": sorted(parts.things),
        "list": [
            {
                "label": part.label,
                "score": round(part.score, _DIGITS),
                "area": part.area,
                "bbox": list(part.bbox),
                "segmentation": encode_crop_rle(parts.crop(i), part.bbox[:2], (size[0], size[1])),
            }
            for i, part in enumerate(parts.parts)
        ],
    }


def read_parts(record: Mapping[str, Any], names: Sequence[str], size: tuple[int, int]) -> Parts:
    """The parts that ``parts_record`` wrote, of a photo of ``size`` (H, W)."""
    by_columns = np.zeros(size[0] * size[1], dtype=np.int32)
    found = []
    for number, entry in enumerate(record["list"], start=1):
        x, y, width, height = entry["bbox"]
        found.append(Part(entry["label"], entry["score"], entry["area"], (x, y, width, height)))
        for start, end in rle_runs(entry["segmentation"]):
            by_columns[start:end] = number
    ids = np.ascontiguousarray(by_columns.reshape(size[1], size[0]).T)
    return Parts(ids, found, names, record["things"])


# ------------------------------------------------------------------ JSON, entry by entry


def write_json_entries(
    file: BinaryIO,
    head: Mapping[str, Any],
    key: str,
    entries: Iterable[Any],
    tail: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Write ``{**head, key: [entries], **tail()}`` without holding the entries.

    Args:
        file: binary.
        head: what is known before.
        key: of the long list.
        entries: one line each.
        tail: called after the last entry.
    """
    file.write(b"{\n")
    for name, value in head.items():
        file.write(json_line(name) + b": " + json_line(value) + b",\n")
    file.write(json_line(key) + b": [")
    between = b"\n"
    for entry in entries:
        file.write(between + json_line(entry))
        between = b",\n"
    file.write(b"\n]")
    for name, value in tail().items():
        file.write(b",\n" + json_line(name) + b": " + json_line(value))
    file.write(b"\n}\n")


def json_line(value: Any) -> bytes:
    """Compact ASCII JSON."""
    return json.dumps(value).encode()
