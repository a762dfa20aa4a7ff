"""COCO-Stuff 164k: 171 classes, the training data of SCAN (section 4.1)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from scanseg.data.layout import GIB, Archive, Files, Folder, Layout, SplitFacts, Take
from scanseg.data.pictures import LabelTable

NEVER_USED = frozenset((11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90))
"""Values of the 11 COCO categories that were named but never annotated."""

PHOTOS = (
    Archive(
        file="train2017.zip",
        url="http://images.cocodataset.org/zips/train2017.zip",
        holds="training photos",
        takes=(Take(r"train2017/(\d{12}\.jpg)", r"images/train2017/\1", split="train"),),
        size=19_336_861_798,
        digest="sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        max_bytes=24 * GIB,
    ),
    Archive(
        file="val2017.zip",
        url="http://images.cocodataset.org/zips/val2017.zip",
        holds="validation photos",
        takes=(Take(r"val2017/(\d{12}\.jpg)", r"images/val2017/\1", split="val"),),
        size=815_585_330,
        digest="sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        max_bytes=2 * GIB,
    ),
)
"""COCO's photos; the panoptic data set shares them."""

STUFF_MAPS = (
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip"
)


class CocoStuff(Layout):
    """``images/val2017/*.jpg`` and ``stuffthingmaps/val2017/*.png``.

    A map holds the COCO category id minus one: 0..90 things, 91..181 stuff, 255 unlabelled. Of the
    182 values 171 occur; class i is the i-th of them.
    """

    name = "coco_stuff"
    title = "COCO-Stuff 164k"
    label_set = "coco_stuff171"
    table = LabelTable(tuple(v for v in range(182) if v not in NEVER_USED), voids=(255,))
    default_split = "val"
    splits: ClassVar = {
        "train": SplitFacts(118_287, note="SCAN trains on it; section 4.1 gives no number"),
        "val": SplitFacts(5_000),
    }
    archives = (
        *PHOTOS,
        Archive(
            file="stuffthingmaps_trainval2017.zip",
            url=STUFF_MAPS,
            holds="label maps",
            takes=tuple(
                Take(rf"{s}2017/(\d{{12}}\.png)", rf"stuffthingmaps/{s}2017/\1", split=s)
                for s in ("train", "val")
            ),
            max_bytes=4 * GIB,
        ),
    )
    tree = "images/{train,val}2017/*.jpg, stuffthingmaps/{train,val}2017/*.png"
    terms = "annotations CC BY 4.0; photos under their Flickr licences, image by image"

    def files(self, root: Path, split: str) -> Files:
        """See :meth:`Layout.files`; photos may also lie in ``val2017/`` beside the maps."""
        self.pick(split)
        photos = self.need(root, split, "photos", f"images/{split}2017", f"{split}2017")
        maps = self.need(
            root, split, "label maps", f"stuffthingmaps/{split}2017", f"annotations/{split}2017"
        )
        images, labels = Folder.scan(photos, ".jpg"), Folder.scan(maps, ".png")
        return Files(tuple(labels.files), images, labels, listed=False)
