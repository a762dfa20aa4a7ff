"""Which photos the embedded head may learn from, and which are held out.

One folder per data set, laid out as the project's reference data (``images/``, ``labels/``,
``splits/``). Photos of evaluation-only sets (camvid, bsds500) are never listed.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from scanseg.contracts import InputError

Recipe = Literal["default", "permissive"]

PERMISSIVE_LICENCES = (
    "Attribution License",
    "Attribution-ShareAlike License",
    "No known copyright restrictions",
)
HELD_OUT_SEED = 20240617
HELD_OUT = {"panoptic_full": 30, "things_only": 40}
"""Photos of coco_train that development runs never see, per split."""


@dataclass(frozen=True)
class Photo:
    """A photo and what its source says about it.

    Attributes:
        source: data set (folder name).
        stem: file name without its ending.
        image: the photo.
        labels: PNG of class ids (255 = not labelled), or ``None``.
        vocabulary: whose ids those are, a key of ``head_vocabularies.VOCABULARIES``.
        silent: label ids that say nothing (a background that hides other things).
        unnamed: label ids that teachers must agree with, but whose name is too coarse to be learned
            (a "street" that may be road or pavement).
        exhaustive: ids 0..n-1 that are labelled wherever they occur in the photo: an unlabelled
            pixel is certainly none of them. 0: nothing is known about unlabelled pixels.
        permissive: its licence allows the permissive recipe.
        image_class: ImageNet class index of the whole photo, or -1.
    """

    source: str
    stem: str
    image: Path
    labels: Path | None = None
    vocabulary: str = ""
    silent: tuple[int, ...] = ()
    unnamed: tuple[int, ...] = ()
    exhaustive: int = 0
    permissive: bool = False
    image_class: int = -1

    @property
    def key(self) -> str:
        """Unique name."""
        return f"{self.source}/{self.stem}"

    def open(self) -> Image.Image:
        """The photo in RGB."""
        with Image.open(self.image) as file:
            return file.convert("RGB")

    def truth(self) -> np.ndarray | None:
        """(H, W) uint8 class ids, 255 where the source says nothing; ``None`` without labels."""
        if self.labels is None:
            return None
        with Image.open(self.labels) as file:
            ids = np.array(file)
        ids[np.isin(ids, self.silent)] = 255
        return ids

    def named(self, truth: np.ndarray) -> np.ndarray:
        """True ids of any shape, 255 also where their name is too coarse to be learned."""
        return np.where(np.isin(truth, self.unnamed), 255, truth)


def held_out(data: Path) -> dict[str, list[str]]:
    """The held-out stems of coco_train per split: a seeded draw from the sorted lists."""
    drawn = {}
    for split, count in HELD_OUT.items():
        stems = sorted(_stems(data / "coco_train" / "splits" / f"{split}.txt"))
        drawn[split] = sorted(random.Random(HELD_OUT_SEED).sample(stems, count))
    return drawn


def training_photos(
    data: Path, recipe: Recipe = "default", *, hold_out: bool = False
) -> list[Photo]:
    """Every photo that a recipe may learn from.

    Args:
        data: folder of the data sets.
        recipe: ``"default"`` takes all but the evaluation sets; ``"permissive"`` only photos under
            BY, BY-SA, CC BY or no known restrictions.
        hold_out: leave out the held-out part of coco_train (development runs). The clothing test
            and facades validation splits are always left out.

    Raises:
        InputError: ``data`` holds none of the data sets.
    """
    photos = [
        *_coco(data / "coco_train"),
        *_coco(data / "coco_train_more"),
        *_facades(data / "facades_night_day"),
        *_clothing(data / "clothing_coparsing"),
        *_imagenet(data / "imagenet_samples"),
    ]
    if not photos:
        raise InputError(f"{data} holds no data set: pass the folder that contains coco_train")
    if hold_out:
        away = {f"coco_train/{stem}" for stems in held_out(data).values() for stem in stems}
        photos = [photo for photo in photos if photo.key not in away]
    if recipe == "permissive":
        photos = [photo for photo in photos if photo.permissive]
    return photos


def _stems(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _coco(folder: Path) -> list[Photo]:
    if not folder.is_dir():
        return []
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        licences = {row["image"]: row["image_licence"] for row in csv.DictReader(file)}
    exhaustive = {"panoptic_full": 133, "things_only": 80, "person_only": 1}
    return [
        Photo(
            source=folder.name,
            stem=stem,
            image=folder / "images" / f"{stem}.jpg",
            labels=folder / "labels" / f"{stem}.png",
            vocabulary="coco133",
            exhaustive=ids,
            permissive=licences.get(stem, "") in PERMISSIVE_LICENCES,
        )
        for split, ids in exhaustive.items()
        for stem in _stems(folder / "splits" / f"{split}.txt")
    ]


def _facades(folder: Path) -> list[Photo]:
    return [
        Photo(
            source=folder.name,
            stem=stem,
            image=folder / "images" / f"{stem}.jpg",
            labels=folder / "labels" / f"{stem}.png",
            vocabulary="facades",
            silent=(4, 7),  # "non-building / traffic infrastructure" name no visible kind of thing
            unnamed=(6,),  # "street" is road and pavement alike
            permissive=True,
        )
        for stem in _stems(folder / "splits" / "train.txt")
    ]


def _clothing(folder: Path) -> list[Photo]:
    return [
        Photo(
            source=folder.name,
            stem=stem,
            image=folder / "images" / f"{stem}.jpg",
            labels=folder / "labels" / f"{stem}.png",
            vocabulary="clothing",
            silent=(0,),
        )
        for stem in _stems(folder / "splits" / "train.txt")
    ]


def _imagenet(folder: Path) -> list[Photo]:
    if not folder.is_dir():
        return []
    with (folder / "index.csv").open(encoding="utf-8") as file:
        return [
            Photo(
                source=folder.name,
                stem=Path(row["image"]).stem,
                image=folder / "images" / row["image"],
                image_class=int(row["class_index"]),
            )
            for row in csv.DictReader(file)
        ]
