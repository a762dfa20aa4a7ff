"""Intersection over union and accuracies of a confusion matrix ``[prediction][truth]``.

For class c, with hits ``tp_c = C[c][c]``, truth G_c (column sum, unknown pixels included) and
predicted P_c (row sum)::

    IoU_c = tp_c / (P_c + G_c - tp_c)          accuracy_c = tp_c / G_c

Papers average IoU in two ways and rarely say which:

- ``present``: the mean over classes that occur in the truth;
- ``union``: the mean over classes that occur in the truth **or in the prediction**; a class that is
  only predicted counts with 0. OVSeg and SCAN print this one.

All results are fractions in [0, 1]; NaN where a class (or nothing at all) has no pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scanseg.contracts import InputError
from scanseg.metrics.confusion import as_confusion


@dataclass(frozen=True, eq=False)
class ClassPixels:
    """Pixels per class, each (K,).

    Attributes:
        hits: tp_c, predicted and true.
        truth: G_c, true, whatever was predicted.
        predicted: P_c, predicted, among pixels whose truth is not void.
    """

    hits: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True, eq=False)
class IouScores:
    """Scores of one confusion matrix, fractions in [0, 1].

    Attributes:
        iou: (K,), NaN for classes in neither truth nor prediction.
        accuracy: (K,) recall of each class, NaN where the truth has none of it.
        miou_present: mean IoU over classes in the truth.
        miou_union: mean IoU over classes in truth or prediction.
        fwiou: IoU weighted by the share of each class in the truth.
        macc: mean accuracy over classes in the truth.
        pacc: share of all pixels that are right.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    miou_present: float
    miou_union: float
    fwiou: float
    macc: float
    pacc: float


@dataclass(frozen=True)
class SplitScores:
    """Seen and unseen classes apart, and their harmonic mean (fractions, NaN where undefined).

    Attributes:
        seen_present: mean IoU over seen classes in the truth.
        unseen_present: the same over unseen classes.
        harmonic_present: harmonic mean of these two.
        seen_union: mean IoU over seen classes in truth or prediction.
        unseen_union: the same over unseen classes.
        harmonic_union: harmonic mean of these two.
        seen_pacc: share of the pixels of seen classes that are right.
        unseen_pacc: the same for unseen classes.
    """

    seen_present: float
    unseen_present: float
    harmonic_present: float
    seen_union: float
    unseen_union: float
    harmonic_union: float
    seen_pacc: float
    unseen_pacc: float


def class_pixels(confusion: np.ndarray) -> ClassPixels:
    """Hits, truth and predictions per class of a (K, K) or (K + 1, K) confusion matrix."""
    matrix = as_confusion(confusion)
    return ClassPixels(matrix.diagonal().copy(), matrix.sum(0), matrix[:-1].sum(1))


def iou_scores(confusion: np.ndarray) -> IouScores:
    """All scores of a (K, K) or (K + 1, K) confusion matrix."""
    pixels = class_pixels(confusion)
    return scores_with_credit(pixels, np.zeros(len(pixels.hits)))


def scores_with_credit(pixels: ClassPixels, credit: np.ndarray) -> IouScores:
    """Scores after adding partial credit to the hits, the unions unchanged (SG-IoU, eq. 6).

    Args:
        pixels: of the confusion matrix.
        credit: (K,) pixels to add to the hits of each class, not more than its missed pixels.
    """
    hits, truth, predicted = pixels.hits + credit, pixels.truth, pixels.predicted
    union = truth + predicted - pixels.hits
    iou, accuracy = ratio(hits, union), ratio(hits, truth)
    total = truth.sum()
    present = truth > 0
    return IouScores(
        iou=iou,
        accuracy=accuracy,
        miou_present=mean_over(iou, present),
        miou_union=mean_over(iou, union > 0),
        fwiou=float((iou[present] * (truth[present] / total)).sum()) if total else float("nan"),
        macc=mean_over(accuracy, present),
        pacc=float(hits[present].sum() / total) if total else float("nan"),
    )


def split_scores(
    confusion: np.ndarray, seen: Sequence[int], credit: np.ndarray | None = None
) -> SplitScores:
    """Seen, unseen and harmonic IoU for a split of the classes.

    Args:
        confusion: (K, K) or (K + 1, K).
        seen: indices of the seen classes; all others are unseen.
        credit: (K,) pixels of partial credit, to split SG-IoU; none by default.

    Raises:
        InputError: an index is out of range or given twice.
    """
    pixels = class_pixels(confusion)
    num_classes = len(pixels.hits)
    is_seen = np.zeros(num_classes, bool)
    for index in seen:
        if not 0 <= index < num_classes:
            raise InputError(f"seen class {index} is not one of 0..{num_classes - 1}")
        if is_seen[index]:
            raise InputError(f"seen class {index} is listed twice")
        is_seen[index] = True
    extra = np.zeros(num_classes) if credit is None else credit
    scores = scores_with_credit(pixels, extra)
    in_truth = pixels.truth > 0
    in_either = in_truth | (pixels.predicted > 0)
    hits = pixels.hits + extra

    def right(chosen: np.ndarray) -> float:
        total = pixels.truth[chosen].sum()
        return float(hits[chosen].sum() / total) if total else float("nan")

    present = [mean_over(scores.iou, in_truth & part) for part in (is_seen, ~is_seen)]
    either = [mean_over(scores.iou, in_either & part) for part in (is_seen, ~is_seen)]
    return SplitScores(
        seen_present=present[0],
        unseen_present=present[1],
        harmonic_present=harmonic_mean(*present),
        seen_union=either[0],
        unseen_union=either[1],
        harmonic_union=harmonic_mean(*either),
        seen_pacc=right(is_seen),
        unseen_pacc=right(~is_seen),
    )


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element-wise quotient in float64, NaN where the denominator is 0."""
    result = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)
    return result


def mean_over(values: np.ndarray, chosen: np.ndarray) -> float:
    """Mean of the chosen values, NaN if none is chosen."""
    return float(values[chosen].mean()) if chosen.any() else float("nan")


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b); 0 if both are 0, NaN if either is."""
    total = first + second
    return 0.0 if total == 0 else 2 * first * second / total
