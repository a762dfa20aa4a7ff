"""ADE20K-847: the full annotation of ADE20K, reduced to 847 classes (SCAN section 4.1).

The release ``ADE20K_2021_17_01`` codes an object's class in the red and green channel of
``*_seg.png``; that number is ``name_ndx`` in the photo's ``.json`` and the 1-based position in the
release's index. So neither the index (a pickle, which runs code when opened) nor the json files are
needed to make label maps.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files as package_files
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from scanseg.data.layout import GIB, Archive, Files, Folder, Layout, SplitFacts, Take
from scanseg.data.pictures import LabelTable, decode_colour, decode_pixels, encode_png

SHORT_SIDE = 512
"""Photos and maps with a larger short side are reduced to it, as the ADE20K-150 release did."""

VOID_16_BIT = 65535
JPEG_QUALITY = 95
FOLDERS = {"train": "training", "val": "validation"}


@cache
def object_ids() -> tuple[int, ...]:
    """Position of class 0, 1, ... 846 in the index of ADE20K_2021_17_01, counted from 1."""
    text = package_files("scanseg.data").joinpath("ade20k847_ids.json").read_text("utf-8")
    return tuple(json.loads(text))


@cache
def object_table() -> LabelTable:
    """Object ids -> class indices; the objects outside the 847 do not count."""
    return LabelTable(object_ids(), voids=(0,), bits=16, others_void=True)


def decode_objects(seg: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 pixels of ``*_seg.png`` -> (H, W) int32 object ids: R // 10 * 256 + G."""
    return seg[..., 0].astype(np.int32) // 10 * 256 + seg[..., 1]


def reduced_size(height: int, width: int) -> tuple[int, int]:
    """(H, W) with the short side at most 512 and the aspect kept."""
    short = min(height, width)
    if short <= SHORT_SIDE:
        return height, width
    scale = SHORT_SIDE / short
    return max(SHORT_SIDE, round(height * scale)), max(SHORT_SIDE, round(width * scale))


def nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a map (H, W) by the value at the centre of each new pixel."""
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(np.intp)
    return values[rows[:, None], columns]


def label_from_seg(data: bytes) -> bytes:
    """``*_seg.png`` -> a 16-bit PNG with 0..846, 65535 for everything else, short side <= 512."""
    objects = decode_objects(decode_colour(data, "*_seg.png"))
    indices = object_table().decode(nearest(objects, *reduced_size(*objects.shape)), "*_seg.png")
    return encode_png(np.where(indices < 0, VOID_16_BIT, indices).astype(np.uint16))


def photo_reduced(data: bytes) -> bytes:
    """A photo with short side <= 512, bilinear, JPEG quality 95; small ones stay as they are."""
    pixels = decode_pixels(data, "photo")
    height, width = reduced_size(*pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return data
    stream = BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).save(
        stream, format="JPEG", quality=JPEG_QUALITY, subsampling=0
    )
    return stream.getvalue()


class Ade20k847(Layout):
    """``images/validation/*.jpg`` and ``labels/validation/*.png``, 16 bit, made by preparation.

    Values are 0..846 and 65535 for pixels that do not count.
    """

    name = "ade20k847"
    title = "ADE20K-847"
    label_set = "ade847"
    table = LabelTable(tuple(range(847)), voids=(VOID_16_BIT,), bits=16)
    default_split = "val"
    splits: ClassVar = {
        "train": SplitFacts(
            25_574,
            paper=20_000,
            note="the full release has 25,574 training images, the challenge release 20,210; the "
            'paper says "20k" and that both are the same',
        ),
        "val": SplitFacts(
            2_000,
            paper=2_000,
            note="the scenes of ADE20K-150's validation set, from larger originals reduced to a "
            "short side of 512",
        ),
    }
    archives = (
        Archive(
            file="ADE20K_2021_17_01.zip",
            url="https://groups.csail.mit.edu/vision/datasets/ADE20K/ (free registration)",
            holds="photos and *_seg.png",
            takes=tuple(
                take
                for s, folder in FOLDERS.items()
                for take in (
                    Take(
                        rf"images/ADE/{folder}/(?:[^/]+/)*(ADE_(?:train|val)_\d+\.jpg)",
                        rf"images/{folder}/\1",
                        photo_reduced,
                        split=s,
                    ),
                    Take(
                        rf"images/ADE/{folder}/(?:[^/]+/)*(ADE_(?:train|val)_\d+)_seg\.png",
                        rf"labels/{folder}/\1.png",
                        label_from_seg,
                        split=s,
                    ),
                )
            ),
            max_bytes=64 * GIB,
            max_members=3_000_000,  # one file per object
        ),
    )
    tree = "images/{training,validation}/*.jpg, labels/{training,validation}/*.png (prepared)"
    terms = "non-commercial research and education (ADE20K terms); registration"

    @property
    def official_table(self) -> LabelTable:
        """See :attr:`Layout.official_table`."""
        return object_table()

    def files(self, root: Path, split: str) -> Files:
        """See :meth:`Layout.files`."""
        self.pick(split)
        photos = self.need(root, split, "prepared photos", f"images/{FOLDERS[split]}")
        maps = self.need(root, split, "prepared label maps", f"labels/{FOLDERS[split]}")
        images, labels = Folder.scan(photos, ".jpg"), Folder.scan(maps, ".png")
        return Files(tuple(labels.files), images, labels, listed=False)
