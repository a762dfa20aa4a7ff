"""Teachers' votes for every photo, made once and kept in the work folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from scanseg.training.head_photos import Photo
from scanseg.training.teachers import TEACHERS, Teacher

log = logging.getLogger(__name__)
STREET_SOURCES = ("coco_train", "coco_train_more", "facades_night_day")
"""Where street scenes occur; the street teacher is not asked elsewhere."""


def vote_path(work: Path, photo: Photo) -> Path:
    """Where a photo's votes are kept: an npz with ``NAME`` and ``NAME_agreement`` per teacher."""
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
            if name == "city19" and photo.source not in STREET_SOURCES:
                continue
            if name not in panel:
                panel[name] = Teacher(teachers, name)
            crops = photo.source.startswith("coco") and name != "city19"
            votes[name], votes[f"{name}_agreement"] = panel[name].vote(image, crops=crops)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **votes)
        os.replace(partial, path)
        log.info("votes: %s", photo.key)
