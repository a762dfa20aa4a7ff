"""The single objects and surfaces of the COCO photos: what pasting and mask training learn from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scanseg.data.coco_panoptic import CATEGORY_IDS, read_index, read_segments
from scanseg.training.head_photos import Photo

THINGS = 80
"""COCO classes below this one are things; the others are stuff."""
CROWD = 65535
"""Value in a segment map of a crowd, which stands for nobody knows how many."""


Annotation = tuple[int, bool, Any]
"""Class, crowd?, COCO segmentation."""


@dataclass(frozen=True)
class PhotoSegments:
    """Disjoint segments of a photo.

    Attributes:
        ids: (H, W) uint16: 0 = none, i + 1 = segment i, ``CROWD`` = a crowd.
        labels: class of each segment, 0..132 as in ``coco133``.
        everything: whether stuff has its segments too, so that nothing is missing.
    """

    ids: np.ndarray
    labels: tuple[int, ...]
    everything: bool

    def boxed(self, segment: int) -> tuple[slice, slice, np.ndarray]:
        """Rows, columns and (rows, columns) bool mask of a segment."""
        inside = self.ids == segment + 1
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if not len(rows):
            return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        return *box, inside[box]


def read_photo_segments(photo: Photo) -> PhotoSegments | None:
    """Segments of a COCO photo, ``None`` if its data set tells none.

    Fully labelled photos have panoptic PNGs; for the others the polygons of things are drawn, small
    ones over large ones.
    """
    if photo.vocabulary != "coco133":
        return None
    folder = photo.image.parent.parent
    if photo.exhaustive > THINGS:
        return _panoptic(folder, photo.stem)
    with Image.open(photo.image) as file:
        size = file.size
    said = (
        *_polygons(folder / "instances.json").get(photo.stem, ()),
        *_polygons(folder / "instances_person_only.json").get(photo.stem, ()),
    )
    return _drawn(said, size)


def _panoptic(folder: Path, stem: str) -> PhotoSegments:
    classes = {category: index for index, category in enumerate(CATEGORY_IDS)}
    told = read_index(folder / "panoptic.json", classes)[stem]
    found = read_segments(folder / "panoptic" / told.file, told)
    ids = np.zeros(found.ids.shape, np.uint16)
    labels = []
    for segment, label in found.labels.items():
        if segment in found.crowds:
            ids[found.ids == segment] = CROWD
        else:
            labels.append(label)
            ids[found.ids == segment] = len(labels)
    return PhotoSegments(ids, tuple(labels), everything=True)


@lru_cache(maxsize=8)
def _polygons(path: Path) -> Mapping[str, tuple[Annotation, ...]]:
    """Photo -> its annotations, the largest first."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    found: dict[str, list[Annotation]] = {}
    for one in sorted(content["annotations"], key=lambda a: -a["area"]):
        said = (int(one["category_id"]), bool(one["iscrowd"]), one["segmentation"])
        found.setdefault(stems[one["image_id"]], []).append(said)
    return {stem: tuple(each) for stem, each in found.items()}


def _drawn(annotations: Sequence[Annotation], size: tuple[int, int]) -> PhotoSegments:
    from pycocotools import mask as coco

    width, height = size
    ids = np.zeros((height, width), np.uint16)
    labels = []
    for label, crowd, shape in sorted(annotations, key=lambda a: not a[1]):  # crowds below
        runs = coco.frPyObjects(shape, height, width)
        inside = coco.decode(coco.merge(runs) if isinstance(runs, list) else runs) > 0
        if crowd:
            ids[inside] = CROWD
        else:
            labels.append(label)
            ids[inside] = len(labels)
    return PhotoSegments(ids, tuple(labels), everything=False)
