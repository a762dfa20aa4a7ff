"""The training set of the embedded head in memory: photos, true labels, votes; and their views."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scanseg.contracts import InputError
from scanseg.training.head_labels import (
    IGNORE,
    Layer,
    SoftLabels,
    gated_votes,
    label_layers,
)
from scanseg.training.head_photos import Photo
from scanseg.training.head_segments import PhotoSegments, read_photo_segments
from scanseg.training.head_views import View, random_view
from scanseg.training.head_vocabularies import VOCABULARIES
from scanseg.training.head_votes import vote_path

IMAGE_CLASSES = "imagenet1k"
"""Vocabulary of the image-level labels: the lemmas of the 1000 ImageNet classes."""


@dataclass(frozen=True)
class StoredPhoto:
    """A photo of the training set.

    Attributes:
        photo: where it comes from.
        pixels: (H, W, 3) uint8.
        truth: (H, W) uint8 true ids, ``IGNORE`` where nothing is said; ``None`` without labels.
        votes: teacher -> gated soft labels on the vote grid.
        segments: its objects and surfaces one by one, where the source tells them.
        hints: teacher -> features of the whole photo, (h, w, C) float16.
    """

    photo: Photo
    pixels: np.ndarray
    truth: np.ndarray | None
    votes: Mapping[str, SoftLabels]
    segments: PhotoSegments | None = None
    hints: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Hint:
    """What a teacher's features are in the cells of a view.

    Attributes:
        features: (n, C) float16, of all places of the photo.
        place: (rows, columns) which of these a cell shows; -1 where it shows something pasted.
    """

    features: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class TrainingView:
    """A window of a photo, ready to train on.

    Attributes:
        pixels: (3, window, window) uint8 RGB.
        layers: what its sources say about each cell at stride 8.
        rest: (rows, columns) bool, cells that are certainly none of the first ``exhaustive``
            classes of the photo's own vocabulary.
        vocabulary: the photo's own vocabulary.
        exhaustive: number of its classes that are labelled wherever they occur.
        image_class: ImageNet class index of the whole photo, or -1.
        segments: (window / 4, window / 4) uint16, ``PhotoSegments.ids`` at stride 4, or ``None``.
        segment_labels: class of each segment in ``coco133``, whether or not it is in the window.
        everything: no segment is missing.
        hints: teacher -> its features.
        own: (rows, columns) bool, cells that show the photo itself; ``None``: all of them do.
    """

    pixels: Tensor
    layers: Sequence[Layer]
    rest: np.ndarray
    vocabulary: str
    exhaustive: int
    image_class: int
    segments: np.ndarray | None = None
    segment_labels: tuple[int, ...] = ()
    everything: bool = False
    hints: Mapping[str, Hint] = field(default_factory=dict)
    own: np.ndarray | None = None

    @property
    def shows_itself(self) -> np.ndarray:
        """(rows, columns) bool, ``own`` or all true."""
        return np.ones(self.grid, bool) if self.own is None else self.own

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the cells, at stride 8."""
        return self.rest.shape[0], self.rest.shape[1]


def load_photos(photos: Sequence[Photo], work: Path) -> list[StoredPhoto]:
    """Read photos, labels and votes; photos that have neither are left out.

    Raises:
        InputError: nothing is left.
    """
    stored = []
    for photo in photos:
        votes, hints = {}, {}
        if vote_path(work, photo).is_file():
            with np.load(vote_path(work, photo)) as file:
                votes = gated_votes(photo, dict(file))
                hints = {name: file[f"{name}_hints"] for name in votes if f"{name}_hints" in file}
        truth = photo.truth()
        if truth is not None or votes:
            pixels, segments = np.asarray(photo.open()), read_photo_segments(photo)
            stored.append(StoredPhoto(photo, pixels, truth, votes, segments, hints))
    if not stored:
        raise InputError("none of the photos has labels or votes: run the first step again")
    return stored


def draw_view(
    stored: StoredPhoto, sides: tuple[int, int], window: int, rng: random.Random
) -> TrainingView:
    """A random window of a photo with all that its sources say about it."""
    height, width = stored.pixels.shape[:2]
    view = random_view((width, height), sides, window, rng)
    photo, cells, segments = stored.photo, window // 8, stored.segments
    truth = None if stored.truth is None else view.sample(stored.truth)
    votes = {name: soft.sampled(view) for name, soft in stored.votes.items()}
    rest = np.zeros((cells, cells), bool)
    if truth is not None and 0 < photo.exhaustive < len(VOCABULARIES[photo.vocabulary]):
        rest = truth == IGNORE
    return TrainingView(
        pixels=view.pixels(Image.fromarray(stored.pixels))[0],
        layers=label_layers(photo, truth, votes),
        rest=rest,
        vocabulary=photo.vocabulary,
        exhaustive=photo.exhaustive,
        image_class=photo.image_class,
        segments=None if segments is None else view.sample(segments.ids, 4),
        segment_labels=() if segments is None else segments.labels,
        everything=segments is not None and segments.everything,
        hints={name: _hint(features, view) for name, features in stored.hints.items()},
    )


def _hint(features: np.ndarray, view: View) -> Hint:
    rows, columns, channels = features.shape
    place = view.sample(np.arange(rows * columns).reshape(rows, columns))
    return Hint(features.reshape(-1, channels), place)


def class_counts(stored: Sequence[StoredPhoto], vocabulary: str, classes: int) -> Tensor:
    """(classes,) how often a class of a vocabulary is said, in cells of an eighth of a photo's
    sides at full size (true labels) or of a quarter of the vote grid's resolution (votes)."""
    counts = torch.zeros(classes, dtype=torch.float64)
    for one in stored:
        said = []
        if one.truth is not None and one.photo.vocabulary == vocabulary:
            said.append(one.photo.named(one.truth[4::8, 4::8]))
        if vocabulary in one.votes:
            ids, shares = one.votes[vocabulary].ids[0], one.votes[vocabulary].shares[0]
            said.append(np.where(shares > 0, ids, IGNORE)[2::4, 2::4])
        for ids in said:
            known = torch.from_numpy(ids[ids != IGNORE].astype(np.int64))
            counts += torch.bincount(known, minlength=classes)[:classes]
    return counts
