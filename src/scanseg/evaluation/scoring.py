"""Predictions beside their ground truth: counts of every image."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from scanseg.contracts import InputError
from scanseg.evaluation.sources import Maps
from scanseg.metrics.bootstrap import ImageCounts
from scanseg.metrics.boundary import BoundaryF
from scanseg.metrics.confusion import PairCounts, count_pairs
from scanseg.metrics.panoptic import PanopticQuality

MOST_WORKERS = 8


@dataclass(frozen=True, eq=False)
class Counted:
    """What was counted on a set of images.

    Attributes:
        keys: names of the images, in order.
        images: the confusion matrix of each.
        panoptic: totals for PQ, where the truth has segments.
        panoptic_objects: the system's maps know objects too (otherwise each class is one segment).
        boundary: totals of the boundary score, if it was asked for.
    """

    keys: tuple[str, ...]
    images: tuple[PairCounts, ...]
    panoptic: PanopticQuality | None = None
    panoptic_objects: bool = False
    boundary: BoundaryF | None = None

    def stacked(self) -> ImageCounts:
        """The counts in the form that resampling wants."""
        return ImageCounts.stack(self.images)


def count_maps(
    predictions: Maps,
    truth: Maps,
    keys: Sequence[str],
    num_classes: int,
    *,
    panoptic: bool | None = None,
    boundary: bool = False,
    workers: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Counted:
    """Count every image; the result does not depend on the number of workers.

    Args:
        predictions: maps of the system.
        truth: ground-truth maps.
        keys: which images, in this order.
        num_classes: K.
        panoptic: count segments for PQ; ``None``: if the ground truth knows objects.
        boundary: score contours too (slower).
        workers: threads that decode and count; ``None``: one per core, at most eight.
        advance: called after each image.

    Raises:
        InputError: a map cannot be read, or the two maps of an image differ in size.
    """
    with_segments = truth.has_segments if panoptic is None else panoptic

    def one(key: str) -> tuple[PairCounts, PanopticQuality | None, BoundaryF | None]:
        quality, contours = None, None
        if with_segments:
            said, real = predictions.segments(key), truth.segments(key)
            prediction, true = said.labels(), real.labels()
            _same_size(key, prediction.shape, true.shape)
            quality = PanopticQuality(num_classes)
            quality.update(said.ids, said.classes, real.ids, real.classes, real.crowds)
        else:
            prediction, true = predictions.labels(key), truth.labels(key)
            _same_size(key, prediction.shape, true.shape)
        if boundary:
            contours = BoundaryF(num_classes)
            contours.update(prediction, true)
        return count_pairs(prediction, true, num_classes), quality, contours

    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    threads = workers or min(MOST_WORKERS, os.cpu_count() or 1)
    found = []
    pool = ThreadPoolExecutor(threads)
    try:
        for result in pool.map(one, keys):
            found.append(result)
            advance()
    finally:
        pool.shutdown(cancel_futures=True)
    total_quality = PanopticQuality(num_classes) if with_segments else None
    total_contours = BoundaryF(num_classes) if boundary else None
    for _, quality, contours in found:
        if total_quality is not None and quality is not None:
            total_quality.merge(quality)
        if total_contours is not None and contours is not None:
            total_contours.merge(contours)
    return Counted(
        tuple(keys),
        tuple(pairs for pairs, _, _ in found),
        total_quality,
        predictions.has_segments,
        total_contours,
    )


def _same_size(key: str, prediction: tuple[int, ...], truth: tuple[int, ...]) -> None:
    if prediction == truth:
        return
    hint = "; is it transposed?" if prediction == truth[::-1] else ""
    raise InputError(
        f"{key}: the prediction is {prediction[1]} x {prediction[0]} pixels, the ground truth "
        f"{truth[1]} x {truth[0]}{hint or '; save predictions in the size of the ground truth'}"
    )
