"""Where the maps of a system or of a ground truth come from, and which of them belong together."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Protocol

import numpy as np

from scanseg.contracts import InputError
from scanseg.evaluation.coco_maps import MAX_JSON_BYTES, image_list, open_coco
from scanseg.evaluation.label_maps import Coding, PngFolder, Role, Segments
from scanseg.storage import read_json
from scanseg.vocabulary.label_sets import LabelSet

_SHOWN = 3  # names in a message


class Maps(Protocol):
    """Label maps by key."""

    has_segments: bool
    """Whether :meth:`segments` knows objects, not only classes."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the images, sorted."""

    def labels(self, key: str) -> np.ndarray:
        """(H, W) int32 class indices, -1 unknown or void."""

    def segments(self, key: str) -> Segments:
        """The segments of an image, for panoptic quality."""


def open_maps(
    path: str | Path, labels: LabelSet, coding: Coding, role: Role, *, truth: Path | None = None
) -> Maps:
    """Label PNGs in a folder, or a COCO or panoptic JSON (or a folder with just that).

    Args:
        path: the folder or file.
        labels: the classes.
        coding: of PNG values.
        role: what the maps are, for messages.
        truth: the ground truth's path, whose image list serves COCO results that have none.

    Raises:
        InputError: nothing there, or nothing that can be read.
    """
    place = Path(path)
    if place.is_dir():
        jsons = sorted(place.glob("*.json"))
        panoptic = [j for j in jsons if _is_panoptic(j)]
        if len(panoptic) == 1:
            place = panoptic[0]
        elif panoptic or (len(jsons) == 1 and not any(place.rglob("*.png"))):
            if len(jsons) > 1:
                raise InputError(f"{place}: several panoptic JSON files; name the one to read")
            place = jsons[0]
        else:
            return PngFolder(place, coding, role)
    elif not place.exists():
        raise InputError(f"{place}: no such folder or file of {role} maps")
    if place.suffix.lower() != ".json":
        raise InputError(f"{place}: give a folder of label PNGs or a COCO JSON")
    images = None
    if truth is not None and truth.is_file() and truth.suffix.lower() == ".json":
        content = read_json(truth, MAX_JSON_BYTES)
        images = image_list(truth, content.get("images")) if isinstance(content, dict) else None
    return open_coco(place, labels.names, labels.ids, role, images)


def pair(predictions: Maps, truth: Maps, *, common: bool = False) -> tuple[str, ...]:
    """Keys to compare, sorted.

    Args:
        predictions: maps of the system.
        truth: ground-truth maps.
        common: compare what both have, instead of refusing sets that differ.

    Raises:
        InputError: maps are missing on one side, or the two have nothing in common.
    """
    predicted, true = set(predictions.keys), set(truth.keys)
    both = predicted & true
    if not both:
        raise InputError(
            f"no prediction has the name of a ground-truth map ({min(predicted)!r} against "
            f"{min(true)!r}): files are paired by their names without the ending"
        )
    if not common:
        _refuse(true - predicted, true, "ground-truth maps", "prediction", len(both))
        _refuse(predicted - true, predicted, "predictions", "ground-truth map", len(both))
    return tuple(sorted(both))


def _refuse(missing: set[str], of: set[str], what: str, lacks: str, both: int) -> None:
    if missing:
        names = ", ".join(sorted(missing)[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise InputError(
            f"{len(missing)} of {len(of)} {what} have no {lacks}: {names} "
            f"(--common scores the {both} that have both)"
        )


def _is_panoptic(path: Path) -> bool:
    """Whether a JSON speaks of segments, without parsing hundreds of megabytes."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b'"segments_info"') >= 0
