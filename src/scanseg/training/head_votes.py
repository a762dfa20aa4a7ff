"""Teachers' votes for every photo, made once and kept in the work folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from scanseg.storage import atomic_write
from scanseg.training.head_labels import is_street
from scanseg.training.head_photos import Photo
from scanseg.training.teachers import TEACHERS, Teacher

log = logging.getLogger(__name__)
STREET_SOURCES = ("coco_train", "coco_train_more", "facades_night_day")
"""Where street scenes occur; the street teacher is not asked elsewhere."""
STREETS_ONLY = ("facades_night_day",)
"""Data sets that show nothing but streets; the object teacher is not asked there."""
CROPS = {
    "coco_train": 2,
    "coco_train_more": 2,
    "facades_night_day": 0,
    "imagenet_samples": 0,
    "clothing_coparsing": 0,
}
"""Enlarged parts that the teachers look at besides the whole photo; fewer for smaller photos."""


def vote_path(work: Path, photo: Photo) -> Path:
    """Where a photo's votes are kept: an npz with ``NAME``, ``NAME_shares`` and ``NAME_hints`` (the
    features) per teacher."""
    return work / "votes" / photo.source / f"{photo.stem}.npz"


def make_votes(photos: Iterable[Photo], teachers: Path, work: Path) -> None:
    """Ask the teachers about every photo that has no votes yet; safe to interrupt and go on."""
    panel: dict[str, Teacher] = {}
    for photo in photos:
        path = vote_path(work, photo)
        if path.is_file():
            continue
        image = photo.open()
        votes: dict[str, np.ndarray] = {}
        for name in TEACHERS:
            if name == "city19" and not _asked_about_streets(photo, votes):
                continue
            if name == "voc21" and photo.source in STREETS_ONLY:
                continue
            if name not in panel:
                panel[name] = Teacher(teachers, name)
            votes[name], shares, hints = panel[name].vote(image, crops=CROPS[photo.source])
            votes[f"{name}_shares"] = np.rint(255 * shares).astype(np.uint8)
            votes[f"{name}_hints"] = hints.astype(np.float16)
        with atomic_write(path) as file:
            np.savez_compressed(file, allow_pickle=False, **votes)
        log.info("votes: %s", photo.key)


def _asked_about_streets(photo: Photo, votes: Mapping[str, np.ndarray]) -> bool:
    if photo.source in STREETS_ONLY:
        return True
    return photo.source in STREET_SOURCES and is_street(votes)
