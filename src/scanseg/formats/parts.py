"""Connected parts of a map: instances, and COCO's panoptic mix of things and stuff.

The map says what every pixel is, not where one cat ends and the next begins. A *part* is a
4-connected region of one word, which is as far as the map goes: two cats that touch are one part
(``docs/decisions/0095``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from scipy import ndimage

from scanseg.contracts import UNKNOWN, Segment, Segmentation, Things, UnknownName


@dataclass(frozen=True)
class Part:
    """What a part is, without its mask.

    Attributes:
        label: index into the vocabulary.
        score: mean confidence over the part's pixels, in [0, 1].
        area: pixels.
        bbox: (x, y, width, height) in pixels.
    """

    label: int
    score: float
    area: int
    bbox: tuple[int, int, int, int]


class Parts(Sequence[Segment]):
    """Parts of a map, the largest first; each is a ``Segment`` whose mask is made when asked for.

    A photo can fall into thousands of parts, so masks are not kept: ``ids`` says for each pixel
    which part it belongs to.

    Attributes:
        ids: (H, W) int32, 0 is no part, ``i + 1`` is part number ``i``.
        parts: what each part is, in the order of the ids.
        names: the vocabulary.
        things: labels whose connected regions are parts of their own.
    """

    def __init__(
        self, ids: np.ndarray, parts: Sequence[Part], names: Sequence[str], things: Collection[int]
    ) -> None:
        self.ids = ids
        self.parts = tuple(parts)
        self.names = tuple(names)
        self.things = frozenset(things)

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> list[Segment]: ...
    def __getitem__(self, index: int | slice) -> Segment | list[Segment]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        number = range(len(self))[index]
        part = self.parts[number]
        x, y, width, height = part.bbox
        mask = np.zeros(self.ids.shape, dtype=bool)
        mask[y : y + height, x : x + width] = self.crop(number)
        return Segment(part.label, self.names[part.label], part.score, part.area, part.bbox, mask)

    def __iter__(self) -> Iterator[Segment]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.ids.shape
        return f"<{len(self)} parts of a {width} x {height} photo>"

    def crop(self, number: int) -> np.ndarray:
        """(height, width) bool: the part within its box."""
        x, y, width, height = self.parts[number].bbox
        return self.ids[y : y + height, x : x + width] == number + 1


def find_panoptic(segmentation: Segmentation, things: Things, *, min_area: int = 1) -> Parts:
    """One part per region of each thing, one per other word (``Segmentation.panoptic``)."""
    chosen = thing_labels(things, segmentation.names)
    return find_parts(segmentation, chosen, min_area=min_area)


def find_instances(segmentation: Segmentation, things: Things, *, min_area: int = 1) -> Parts:
    """One part per region of each thing, nothing else (``Segmentation.instances``)."""
    chosen = thing_labels(things, segmentation.names)
    if len(chosen) < len(segmentation.names):
        others = ~np.isin(segmentation.labels, chosen)
        labels = np.where(others, np.int32(UNKNOWN), segmentation.labels)
        segmentation = replace(segmentation, labels=labels)
    return find_parts(segmentation, chosen, min_area=min_area)


def thing_labels(things: Things, names: Sequence[str]) -> list[int]:
    """Indices of the words that are things.

    Raises:
        UnknownName: a thing is not among the words.
    """
    if isinstance(things, str):
        things = names if things == "all" else [things]
    for thing in things:
        if thing not in names:
            raise UnknownName(thing, names)
    chosen = set(things)
    return [i for i, name in enumerate(names) if name in chosen]


def find_parts(segmentation: Segmentation, things: Collection[int], *, min_area: int = 1) -> Parts:
    """Split the labels in ``things`` into 4-connected regions; other labels stay one part each.

    Args:
        segmentation: the map.
        things: indices of labels.
        min_area: smaller parts are left out; their pixels belong to no part.

    Returns:
        The parts, the largest first; of equal area the lower label first, then the upper one.
    """
    from skimage.measure import label as connected

    labels = segmentation.labels
    regions = connected(labels, background=UNKNOWN, connectivity=1)
    count = int(regions.max())
    if not count:
        return Parts(np.zeros(labels.shape, np.int32), [], segmentation.names, things)

    first = np.zeros(count + 1, dtype=np.int64)  # first pixel of each region; any would do
    flat = regions.ravel()
    first[flat[::-1]] = np.arange(flat.size - 1, -1, -1)
    of_region = labels.ravel()[first]  # region -> label
    stuff = ~np.isin(of_region, list(things))
    group = np.arange(count + 1)
    for label in np.unique(of_region[1:][stuff[1:]]):
        mine = np.flatnonzero(stuff & (of_region == label))
        mine = mine[mine > 0]
        group[mine] = mine[0]
    used, group = np.unique(group, return_inverse=True)  # group 0 is unknown
    merged = group[regions]

    areas = np.bincount(merged.ravel(), minlength=len(used))
    sums = np.bincount(merged.ravel(), weights=segmentation.confidence.ravel(), minlength=len(used))
    of_group = of_region[used]
    kept = [g for g in range(1, len(used)) if areas[g] >= min_area]
    kept.sort(key=lambda g: (-int(areas[g]), int(of_group[g]), int(first[used[g]])))
    number = np.zeros(len(used), dtype=np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    ids = number[merged]
    boxes = ndimage.find_objects(ids)
    parts = [
        Part(
            label=int(of_group[g]),
            score=min(1.0, float(sums[g] / areas[g])),
            area=int(areas[g]),
            bbox=_box(*boxes[i]),
        )
        for i, g in enumerate(kept)
    ]
    return Parts(ids, parts, segmentation.names, things)


def _box(rows: slice, columns: slice) -> tuple[int, int, int, int]:
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
