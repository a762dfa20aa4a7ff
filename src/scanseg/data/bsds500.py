"""BSDS500: photos divided into regions by several people, without classes (for proposal recall)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from scanseg.contracts import InputError
from scanseg.data.layout import Archive, Files, Folder, Layout, SplitFacts, Take
from scanseg.data.pictures import (
    LabelTable,
    decode_grey,
    load_mat,
    read_bytes,
    structs_in,
    whole_numbers,
)
from scanseg.data.samples import Sample
from scanseg.data.splits import read_keys


def read_mat(path: Path) -> tuple[np.ndarray, ...]:
    """``groundTruth/*/ID.mat`` -> one (H, W) int32 region map per annotator, ids from 1."""
    cells = structs_in(load_mat(read_bytes(path), "groundTruth", path))
    if not all(hasattr(cell, "Segmentation") for cell in cells):
        raise InputError(f"{path}: groundTruth has no field Segmentation")
    return tuple(whole_numbers(cell.Segmentation, path) for cell in cells)


def read_pngs(folder: Path, key: str) -> tuple[np.ndarray, ...]:
    """``KEY_a0.png``, ``KEY_a1.png``, ... -> one (H, W) int32 region map per annotator."""
    maps: list[np.ndarray] = []
    while (path := folder / f"{key}_a{len(maps)}.png").is_file():
        maps.append(decode_grey(read_bytes(path), path, bits=8).astype(np.int32))
    return tuple(maps)


_ABOVE = ("", "data/", "BSDS500/data/", "BSR/BSDS500/data/")


class Bsds500(Layout):
    """``images/val/*.jpg`` and ``groundTruth/val/*.mat`` as published.

    A folder with ``images/*.jpg``, ``segs/ID_aK.png`` (annotator K from 0) and ``splits/*.txt`` is
    read too.
    """

    name = "bsds500"
    title = "BSDS500"
    label_set = None
    table = LabelTable((), ())
    default_split = "test"
    splits: ClassVar = {"train": SplitFacts(200), "val": SplitFacts(100), "test": SplitFacts(200)}
    archives = (
        Archive(
            file="BSR_bsds500.tgz",
            url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/"
            "BSR_bsds500.tgz",
            holds="photos and segmentations",
            takes=tuple(
                Take(rf"data/({kind}/{s}/\d+\.{suffix})", r"\1", split=s)
                for s in ("train", "val", "test")
                for kind, suffix in (("images", "jpg"), ("groundTruth", "mat"))
            ),
            max_bytes=2 * 2**30,
        ),
    )
    tree = "images/{train,val,test}/*.jpg, groundTruth/{train,val,test}/*.mat"
    terms = "non-commercial research and education"

    @property
    def labelled(self) -> str:
        """See :attr:`Layout.labelled`."""
        return "regions without classes"

    def files(self, root: Path, split: str) -> Files:
        """See :meth:`Layout.files`; ``root`` may be the folder above ``BSDS500`` or ``data``."""
        self.pick(split)
        if (root / "segs").is_dir():
            segs = Folder.scan(root / "segs", ".png").files
            first = {k.removesuffix("_a0"): f for k, f in segs.items() if k.endswith("_a0")}
            keys = read_keys(self.need(root, split, "split list", f"splits/{split}.txt"))
            images = Folder.scan(self.need(root, split, "photos", "images"), ".jpg")
            return Files(keys, images, Folder(root / "segs", first), listed=True)
        photos, truths = (
            self.need(root, split, kind, *(f"{above}{kind}/{split}" for above in _ABOVE))
            for kind in ("images", "groundTruth")
        )
        images, labels = Folder.scan(photos, ".jpg"), Folder.scan(truths, ".mat")
        return Files(tuple(labels.files), images, labels, listed=False)

    def sample(self, files: Files, key: str) -> Sample:
        """A sample with regions only."""
        label = files.labels[key]
        matlab = label.suffix == ".mat"
        read = partial(read_mat, label) if matlab else partial(read_pngs, label.parent, key)
        return Sample(key, files.images[key], label, read_regions=read)
