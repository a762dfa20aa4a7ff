"""COCO panoptic: 80 thing and 53 stuff classes, with the identity of every segment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from scanseg.contracts import InputError
from scanseg.data.coco_stuff import PHOTOS
from scanseg.data.layout import GIB, Archive, Files, Folder, Layout, SplitFacts, Take
from scanseg.data.pictures import LabelTable, decode_colour, read_bytes
from scanseg.data.samples import VOID, Panoptic, Sample
from scanseg.storage import read_json

MAX_JSON_BYTES = 1 * GIB

_GAPS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91))
# fmt: off
_STUFF = (
    92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148,
    149, 151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, 184, 185, 186,
    187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197, 198, 199, 200,
)
# fmt: on
CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in _GAPS) + _STUFF
"""COCO category of class 0, 1, ... 132."""


@dataclass(frozen=True)
class Segments:
    """What a panoptic JSON says of one PNG.

    Attributes:
        file: name of the PNG.
        labels: segment id -> class index, -1 for categories that are not in the label set.
        crowds: ids of crowd segments.
    """

    file: str
    labels: Mapping[int, int]
    crowds: frozenset[int] = field(default=frozenset())


def read_index(path: Path, classes: Mapping[int, int]) -> dict[str, Segments]:
    """A panoptic JSON -> the segments of each photo, by the stem of its PNG.

    Args:
        path: the JSON.
        classes: COCO category id -> class index.

    Raises:
        InputError: unreadable, too large, not panoptic, or with a category that is unknown.
    """
    try:
        stat = path.stat()
        return _read_index(path, stat.st_size, stat.st_mtime_ns, tuple(sorted(classes.items())))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


@lru_cache(maxsize=4)
def _read_index(
    path: Path, _size: int, _changed: int, classes: tuple[tuple[int, int], ...]
) -> dict[str, Segments]:
    index_of = dict(classes)
    content = read_json(path, MAX_JSON_BYTES)
    try:
        annotations = content["annotations"]
        return {
            str(a["file_name"]).rsplit("/", 1)[-1].removesuffix(".png"): Segments(
                file=str(a["file_name"]).rsplit("/", 1)[-1],
                labels={int(s["id"]): index_of[s["category_id"]] for s in a["segments_info"]},
                crowds=frozenset(int(s["id"]) for s in a["segments_info"] if s.get("iscrowd")),
            )
            for a in annotations
        }
    except KeyError as error:
        what = error.args[0]
        raise InputError(
            f"{path}: category {what} is not in the label set"
            if isinstance(what, int)
            else f"{path}: not a COCO panoptic file (no {what!r})"
        ) from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: not a COCO panoptic file ({error})") from error


def read_segments(path: Path, segments: Segments) -> Panoptic:
    """A panoptic PNG (id = R + 256 G + 65536 B) -> its segments.

    Raises:
        InputError: damaged, or ids in the PNG and in the JSON differ.
    """
    pixels = decode_colour(read_bytes(path), path).astype(np.int32)
    ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
    drawn = set(np.unique(ids).tolist()) - {0}
    if drawn != set(segments.labels):
        differ = sorted(drawn ^ set(segments.labels))
        raise InputError(f"{path}: segment {differ[0]} is only in the PNG or only in the JSON")
    return Panoptic(ids, segments.labels, segments.crowds)


def read_classes(path: Path, segments: Segments) -> np.ndarray:
    """A panoptic PNG -> (H, W) int32 class indices, -1 where there is no segment."""
    panoptic = read_segments(path, segments)
    present, where = np.unique(panoptic.ids, return_inverse=True)
    label_of = [panoptic.labels.get(int(i), VOID) for i in present]
    return np.asarray(label_of, dtype=np.int32)[where].reshape(panoptic.ids.shape)


class CocoPanoptic(Layout):
    """``images/val2017/*.jpg``, ``annotations/panoptic_val2017.json`` and the PNGs beside it."""

    name = "coco_panoptic"
    title = "COCO panoptic 2017"
    label_set = "coco_panoptic133"
    table = LabelTable(CATEGORY_IDS, voids=(0,), bits=16)
    default_split = "val"
    splits: ClassVar = {"train": SplitFacts(118_287), "val": SplitFacts(5_000)}
    archives = (
        *PHOTOS,
        Archive(
            file="panoptic_annotations_trainval2017.zip",
            url="http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip",
            holds="segment lists",
            takes=tuple(
                Take(rf"(panoptic_{s}2017\.json)", r"annotations/\1", split=s)
                for s in ("train", "val")
            ),
            size=860_725_834,
            digest="sha256:c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
            max_bytes=4 * GIB,
        ),
        *(
            Archive(
                file=f"panoptic_{s}2017.zip",
                url="http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip",
                holds=f"segment maps of {s}2017",
                takes=(
                    Take(
                        rf"panoptic_{s}2017/(\d{{12}}\.png)",
                        rf"annotations/panoptic_{s}2017/\1",
                        split=s,
                    ),
                ),
                within="panoptic_annotations_trainval2017.zip",
                max_bytes=4 * GIB,
            )
            for s in ("train", "val")
        ),
    )
    tree = (
        "images/{train,val}2017/*.jpg, annotations/panoptic_{train,val}2017.json, "
        "annotations/panoptic_{train,val}2017/*.png"
    )
    terms = "annotations CC BY 4.0; photos under their Flickr licences, image by image"

    def files(self, root: Path, split: str) -> Files:
        """See :meth:`Layout.files`. The samples are those of the JSON, by key."""
        self.pick(split)
        photos = self.need(root, split, "photos", f"images/{split}2017", f"{split}2017")
        maps = self.need(root, split, "segment maps", f"annotations/panoptic_{split}2017")
        self.need(root, split, "segment list", f"annotations/panoptic_{split}2017.json")
        keys = tuple(sorted(self._index(maps)))
        return Files(keys, Folder.scan(photos, ".jpg"), Folder.scan(maps, ".png"), listed=True)

    def sample(self, files: Files, key: str) -> Sample:
        """A sample with classes and segments."""
        label, segments = files.labels[key], self._index(files.labels.path)[key]
        return Sample(
            key,
            files.images[key],
            label,
            partial(read_classes, label, segments),
            partial(read_segments, label, segments),
        )

    def _index(self, maps: Path) -> dict[str, Segments]:
        return read_index(
            maps.with_suffix(".json"), {category: i for i, category in enumerate(CATEGORY_IDS)}
        )


def class_index(categories: Any, names: tuple[str, ...], path: Path) -> dict[int, int]:
    """COCO category id -> index of the category's name in ``names``.

    Raises:
        InputError: a category whose name is not among them.
    """
    position = {name: i for i, name in enumerate(names)}
    try:
        return {int(c["id"]): position[c["name"]] for c in categories}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: categories differ from classes.txt ({error})") from error
