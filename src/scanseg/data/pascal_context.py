"""PASCAL Context: what its 59-class and its 459-class benchmark share (SCAN section 4.1).

The annotation is one MATLAB file per photo of VOC 2010, a matrix ``LabelMap`` of values 1..459 (the
lines of ``labels.txt``). Preparation writes plain PNGs of class indices, one folder per benchmark;
photos and split lists are shared, so both may be prepared into the same folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from scanseg.data.layout import GIB, Archive, Files, Folder, Layout, SplitFacts, Take
from scanseg.data.pictures import LabelTable, encode_png, load_mat, whole_numbers
from scanseg.data.splits import read_keys

LABELS = 459


def label_png(data: bytes, table: LabelTable, void: int) -> bytes:
    """A ``.mat`` of the annotation -> a PNG of class indices.

    Args:
        data: the bytes of the MATLAB file.
        table: ``LabelMap`` values -> class indices.
        void: value in the PNG of pixels that do not count; 255 makes 8 bits, more makes 16.
    """
    stored = whole_numbers(load_mat(data, "LabelMap", "LabelMap"), "LabelMap")
    indices = table.decode(stored, "LabelMap")
    depth = np.uint8 if void < 256 else np.uint16
    return encode_png(np.where(indices < 0, void, indices).astype(depth))


def archives(labels: str, convert: Callable[[bytes], bytes]) -> tuple[Archive, ...]:
    """The two official archives, with the label maps going to the folder ``labels``."""
    return (
        Archive(
            file="VOCtrainval_03-May-2010.tar",
            url="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
            holds="photos and split lists of VOC 2010",
            takes=(
                Take(r"VOC2010/JPEGImages/(\d{4}_\d{6}\.jpg)", r"images/\1"),
                Take(r"VOC2010/ImageSets/Main/((?:train|val)\.txt)", r"splits/\1"),
            ),
            digest="md5:da459979d0c395079b5c75ee67908abb",
            max_bytes=4 * GIB,
        ),
        Archive(
            file="trainval.tar.gz",
            url="https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
            holds="annotations",
            takes=(Take(r"trainval/(\d{4}_\d{6})\.mat", rf"{labels}/\1.png", convert),),
            max_bytes=1 * GIB,
        ),
    )


class PascalContext(Layout):
    """``images/*.jpg``, ``splits/{train,val}.txt`` and one folder of label maps."""

    label_map: ClassVar[LabelTable]
    """``LabelMap`` values -> class indices."""
    labels: ClassVar[str]
    """The benchmark's folder of label maps."""
    default_split = "val"
    splits: ClassVar = {
        "train": SplitFacts(4_998, paper=4_998, also={4_996: "the Detail API's list"}),
        "val": SplitFacts(
            5_105,
            paper=5_005,
            note="VOC 2010's own list, the one that goes with the 4,998 training photos, has 5,105 "
            "(together the 10,103 annotated photos); we know no list of 5,005",
            also={5_104: "the Detail API's list (4,996 for training)"},
        ),
    }
    terms = "photos: Flickr terms, research use; annotations: no licence stated"

    @property
    def official_table(self) -> LabelTable:
        """See :attr:`Layout.official_table`."""
        return self.label_map

    def files(self, root: Path, split: str) -> Files:
        """See :meth:`Layout.files`."""
        self.pick(split)
        keys = read_keys(self.need(root, split, "split list", f"splits/{split}.txt"))
        images = Folder.scan(self.need(root, split, "photos", "images"), ".jpg")
        labels = Folder.scan(self.need(root, split, "prepared label maps", self.labels), ".png")
        return Files(keys, images, labels, listed=True)
