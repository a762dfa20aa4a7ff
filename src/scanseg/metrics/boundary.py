"""Boundary F-score: how well contours agree, within a tolerance (Csurka et al., BMVC 2013).

Per class and image: precision is the share of the predicted contour that lies within the tolerance
of the true contour, recall the reverse, F their harmonic mean. A class's score is the mean of F
over the images in which the truth has it; the tolerance is a share of the image diagonal (0.75 % by
default). Contours are the pixels of a class with a 4-neighbour of another class. Void pixels have
no class: predictions are void where the truth is, and a neighbour that is void makes no contour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import distance_transform_edt

from scanseg.contracts import UNKNOWN, InputError
from scanseg.metrics.iou import harmonic_mean, mean_over

DEFAULT_TOLERANCE = 0.0075
"""Share of the image diagonal."""


@dataclass(eq=False)
class BoundaryF:
    """Running totals over images.

    Attributes:
        num_classes: K.
        tolerance: share of the image diagonal within which contours agree; rounded up to pixels.
        scores: per class, F in [0, 1] of every image in which the truth has it.
    """

    num_classes: int
    tolerance: float = DEFAULT_TOLERANCE
    scores: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise InputError(
                f"the tolerance is a share of the diagonal in (0, 1), not {self.tolerance}"
            )
        self.scores = [[] for _ in range(self.num_classes)]

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Compare the contours of one image.

        Args:
            prediction: (H, W) class ids, -1 unknown.
            truth: (H, W) class ids, -1 void.

        Raises:
            InputError: shapes differ or an id is out of range.
        """
        if prediction.shape != truth.shape or truth.ndim != 2:
            raise InputError(
                f"prediction has shape {prediction.shape}, truth {truth.shape}: they must be "
                "(H, W) and agree"
            )
        reach = max(1, math.ceil(self.tolerance * math.hypot(*truth.shape)))
        void = truth == UNKNOWN
        present = np.unique(truth[~void])
        if present.size and (present[0] < 0 or present[-1] >= self.num_classes):
            raise InputError(f"the truth holds ids outside 0..{self.num_classes - 1}")
        for label in present:
            mine = contour(prediction == label, void)
            theirs = contour(truth == label, void)
            self.scores[label].append(
                _contour_f(mine, theirs, reach, bool(((prediction == label) & ~void).any()))
            )

    def merge(self, other: BoundaryF) -> None:
        """Add the totals of another shard; exact in any order.

        Raises:
            InputError: number of classes or tolerance differ.
        """
        if (other.num_classes, other.tolerance) != (self.num_classes, self.tolerance):
            raise InputError("shards of a boundary score must agree on classes and tolerance")
        for mine, theirs in zip(self.scores, other.scores, strict=True):
            mine.extend(theirs)

    def per_class(self) -> np.ndarray:
        """(K,) mean F in [0, 1], NaN for classes that the truth never has."""
        return np.array([math.fsum(f) / len(f) if f else np.nan for f in self.scores])

    def mean(self) -> float:
        """Mean over the classes in the truth."""
        scores = self.per_class()
        return mean_over(scores, ~np.isnan(scores))


def contour(mask: np.ndarray, void: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of ``mask`` with a 4-neighbour outside it, void pixels left out of
    account."""
    inside, outside = mask & ~void, ~mask & ~void
    touches = np.zeros_like(inside)
    touches[1:] |= outside[:-1]
    touches[:-1] |= outside[1:]
    touches[:, 1:] |= outside[:, :-1]
    touches[:, :-1] |= outside[:, 1:]
    return inside & touches


def _contour_f(mine: np.ndarray, theirs: np.ndarray, reach: int, predicted: bool) -> float:
    """F of two contours; a class that fills the image has no contour and agrees if it was
    predicted."""
    if not mine.any() and not theirs.any():
        return float(predicted)
    if not mine.any() or not theirs.any():
        return 0.0
    precision = float((distance_transform_edt(~theirs)[mine] <= reach).mean())
    recall = float((distance_transform_edt(~mine)[theirs] <= reach).mean())
    return harmonic_mean(precision, recall)
