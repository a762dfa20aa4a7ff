"""The values of this room: a data set is a sequence of samples, a sample knows its own truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np

from scanseg.contracts import InputError
from scanseg.data.pictures import read_pixels, read_upright

VOID = -1
"""Value in a truth map of a pixel that does not count."""


@dataclass(frozen=True, eq=False)
class Panoptic:
    """The segments of one photo.

    Attributes:
        ids: (H, W) int32, the segment of each pixel; 0 where there is none.
        labels: segment id -> class index.
        crowds: ids of segments that stand for many objects at once; metrics leave them out.
    """

    ids: np.ndarray
    labels: Mapping[int, int]
    crowds: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Sample:
    """One photo and what is known about it; nothing is read before it is asked for.

    Attributes:
        key: name of the sample, unique in its data set and the stem of its files.
        image: the photo.
        label: the file that :meth:`truth` reads; ``None`` where there are no classes.
        read_truth: reads the class map; use :meth:`truth`.
        read_panoptic: reads the segments; use :meth:`panoptic`.
        read_regions: reads class-agnostic region maps; use :meth:`regions`.
        upright: the labels were drawn on the photo as it is looked at, not as it is stored.
    """

    key: str
    image: Path
    label: Path | None = None
    read_truth: Callable[[], np.ndarray] | None = field(default=None, repr=False, compare=False)
    read_panoptic: Callable[[], Panoptic] | None = field(default=None, repr=False, compare=False)
    read_regions: Callable[[], tuple[np.ndarray, ...]] | None = field(
        default=None, repr=False, compare=False
    )
    upright: bool = False

    def pixels(self) -> np.ndarray:
        """The photo, (H, W, 3) uint8 RGB, in the frame of the label map.

        Of a folder of one's own the photo as the model reads it from its path: upright, on white
        where it is transparent. The published data sets drew their labels on the stored pixels:
        there an EXIF orientation is *not* applied. Give a model this array rather than the path.

        Raises:
            InputError: missing, damaged or too large.
        """
        return read_upright(self.image) if self.upright else read_pixels(self.image)

    def truth(self) -> np.ndarray:
        """The class map, (H, W) int32: index into the label set, -1 for pixels that do not count.

        Raises:
            InputError: the data set has no classes, or the file is missing, damaged, of another
                bit depth, or holds a value that the data set does not define.
        """
        if self.read_truth is None:
            raise InputError(f"{self.key}: this data set has regions but no class labels")
        return self.read_truth()

    def panoptic(self) -> Panoptic:
        """The segments with class and identity.

        Raises:
            InputError: this sample has none, or its files are damaged.
        """
        if self.read_panoptic is None:
            raise InputError(f"{self.key}: this data set has no panoptic truth for the photo")
        return self.read_panoptic()

    def regions(self) -> tuple[np.ndarray, ...]:
        """Class-agnostic regions for proposal recall: one (H, W) int32 map per annotator.

        In a map each value above 0 is one region; 0 belongs to none.

        Raises:
            InputError: this sample has none, or its files are damaged.
        """
        if self.read_regions is not None:
            return self.read_regions()
        if self.read_panoptic is not None:
            return (self.read_panoptic().ids,)
        raise InputError(f"{self.key}: this data set has no regions or instances for the photo")


@dataclass(frozen=True)
class Dataset(Sequence[Sample]):
    """A split of a data set, in a fixed order.

    Attributes:
        name: name of the data set, ``"ade20k150"``.
        split: name of the split, ``"val"``.
        root: the folder it was opened from.
        keys: the samples' keys, in order.
        classes: K, number of classes of the truth maps; 0 where there are none.
        label_set: name of the label set in ``scanseg.vocabulary`` whose order the indices follow;
            ``None`` where the folder brings its own names.
        names: the folder's own class names in index order, empty where there is a label set.
        prompts: plain names for a text encoder in the same order, from the same folder.
        expected: how many samples the official split has; ``None`` if nobody fixed a number. A
            report on fewer says so.
        make: key -> sample.
    """

    name: str
    split: str
    root: Path
    keys: tuple[str, ...] = field(repr=False)
    classes: int
    label_set: str | None
    names: tuple[str, ...] = field(repr=False)
    prompts: tuple[str, ...] = field(repr=False)
    expected: int | None = field(repr=False)
    make: Callable[[str], Sample] = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Sample | Dataset:
        """One sample, or the data set of a slice (``dataset[::4]`` is one of four shards)."""
        if isinstance(index, slice):
            return replace(self, keys=self.keys[index])
        return self.make(self.keys[index])

    def __iter__(self) -> Iterator[Sample]:
        return map(self.make, self.keys)

    def only(self, keys: Sequence[str]) -> Dataset:
        """The data set of these keys, in their order.

        Raises:
            InputError: a key that is not in the split.
        """
        unknown = sorted(set(keys) - set(self.keys))
        if unknown:
            raise InputError(f"{self.name} {self.split} has no sample {unknown[0]!r}")
        return replace(self, keys=tuple(keys))
