"""PASCAL VOC 2012 with the augmented training set (SBD), as VOC-20 and as VOC-21.

VOC-20 is the open-vocabulary convention and SCAN's (section 4.1): pixels of the background do not
count. VOC-21 keeps "background" as class 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from scanseg.contracts import InputError
from scanseg.data.layout import GIB, Archive, Files, Folder, Layout, SplitFacts, Take
from scanseg.data.pictures import (
    LabelTable,
    decode_grey,
    encode_png,
    load_mat,
    read_bytes,
    structs_in,
    whole_numbers,
)
from scanseg.data.samples import Sample
from scanseg.data.splits import read_keys

VOID = 255
AUGMENTED = "train_aug"
_LISTS = ("SBD", "Segmentation")
_SBD_TABLE = LabelTable(tuple(range(21)), voids=(VOID,))


def label_from_sbd(data: bytes) -> bytes:
    """An SBD ``cls/*.mat`` -> a PNG of VOC values, 0 background and 1..20."""
    structs = structs_in(load_mat(data, "GTcls", "GTcls"))
    if len(structs) != 1 or not hasattr(structs[0], "Segmentation"):
        raise InputError("GTcls has no field Segmentation; expected a file of dataset/cls of SBD")
    stored = whole_numbers(structs[0].Segmentation, "GTcls.Segmentation")
    _SBD_TABLE.decode(stored, "GTcls.Segmentation")
    return encode_png(stored.astype(np.uint8))


def read_objects(path: Path) -> tuple[np.ndarray, ...]:
    """``SegmentationObject/*.png`` -> one (H, W) int32 map of instances, 0 for none and void."""
    stored = decode_grey(read_bytes(path), path, bits=8).astype(np.int32)
    stored[stored == VOID] = 0
    return (stored,)


class Voc20(Layout):
    """VOC's own folders; ``root`` may be ``VOC2012``, ``VOCdevkit`` or the folder above."""

    name = "voc20"
    title = "PASCAL VOC-20"
    label_set = "voc20"
    table = LabelTable(tuple(range(1, 21)), voids=(0, VOID))
    default_split = "val"
    splits: ClassVar = {
        "train": SplitFacts(1_464),
        "val": SplitFacts(1_449, paper=1_449),
        "trainval": SplitFacts(2_913),
        AUGMENTED: SplitFacts(
            10_582,
            paper=11_185,
            note="SBD's 11,355 photos joined with VOC's 1,464 training photos, less VOC's 1,449 "
            "validation photos, are 10,582; how to get 11,185 is not published",
        ),
    }
    archives = (
        Archive(
            file="VOCtrainval_11-May-2012.tar",
            url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            holds="photos, label maps and split lists",
            takes=(
                Take(r"VOC2012/JPEGImages/(\d{4}_\d{6}\.jpg)", r"JPEGImages/\1"),
                Take(
                    r"VOC2012/(SegmentationClass|SegmentationObject)/(\d{4}_\d{6}\.png)", r"\1/\2"
                ),
                Take(
                    r"VOC2012/(ImageSets/Segmentation/(?:train|val|trainval)\.txt)",
                    r"\1",
                ),
            ),
            size=1_999_639_040,
            digest="md5:6cd6e144f989b92b3379bac3b3de84fd",
            max_bytes=4 * GIB,
        ),
        Archive(
            file="benchmark.tgz",
            url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
            "semantic_contours/benchmark.tgz",
            holds="SBD, the augmented training annotations",
            takes=(
                Take(
                    r"dataset/cls/(\d{4}_\d{6})\.mat",
                    r"SegmentationClassAug/\1.png",
                    label_from_sbd,
                    split=AUGMENTED,
                ),
                Take(r"dataset/((?:train|val)\.txt)", r"ImageSets/SBD/\1", split=AUGMENTED),
            ),
            digest="md5:82b4d87ceb2ed10f6038a1cba92111cb",
            max_bytes=4 * GIB,
        ),
    )
    tree = (
        "JPEGImages/*.jpg, SegmentationClass/*.png, SegmentationObject/*.png, "
        "ImageSets/Segmentation/*.txt; SegmentationClassAug/*.png for train_aug (prepared)"
    )
    terms = "photos: Flickr terms, research use; SBD: research use"

    def files(self, root: Path, split: str) -> Files:
        """See :meth:`Layout.files`. VOC's own map wins where SBD has one too."""
        self.pick(split)
        base = self.need(
            root,
            split,
            "VOC 2012 (ImageSets/Segmentation)",
            "ImageSets/Segmentation",
            "VOC2012/ImageSets/Segmentation",
            "VOCdevkit/VOC2012/ImageSets/Segmentation",
        ).parents[1]
        list_file = f"ImageSets/Segmentation/{split}.txt"
        keys = read_keys(self.need(base, split, "split list", list_file))
        images = Folder.scan(self.need(base, split, "photos", "JPEGImages"), ".jpg")
        labels = Folder.scan(self.need(base, split, "label maps", "SegmentationClass"), ".png")
        if split == AUGMENTED:
            augmented = self.need(base, split, "prepared SBD label maps", "SegmentationClassAug")
            merged = {
                key: f"{folder.path.name}/{file}"
                for folder in (Folder.scan(augmented, ".png"), labels)
                for key, file in folder.files.items()
            }
            labels = replace(labels, path=base, files=merged)
        return Files(keys, images, labels, listed=True)

    def sample(self, files: Files, key: str) -> Sample:
        """A sample; photos with instance maps have regions."""
        sample = super().sample(files, key)
        objects = files.images.path.parent / "SegmentationObject" / f"{key}.png"
        if not objects.is_file():
            return sample
        return replace(sample, read_regions=partial(read_objects, objects))

    def generated(self, output: Path) -> Mapping[str, bytes]:
        """The list of the augmented training set, once SBD's and VOC's lists are there."""
        names = [f"{source}/{split}.txt" for source in _LISTS for split in ("train", "val")]
        lists = {name: output / "ImageSets" / name for name in names}
        if not all(path.is_file() for path in lists.values()):
            return {}
        keys = {name: set(read_keys(path)) for name, path in lists.items()}
        validation = keys.pop("Segmentation/val.txt")
        augmented = sorted(set().union(*keys.values()) - validation)
        return {f"ImageSets/Segmentation/{AUGMENTED}.txt": ("\n".join(augmented) + "\n").encode()}


class Voc21(Voc20):
    """The same files with "background" as class 0; only 255 does not count."""

    name = "voc21"
    title = "PASCAL VOC-21"
    label_set = "voc21"
    table = LabelTable(tuple(range(21)), voids=(VOID,))
