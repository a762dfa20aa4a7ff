"""Degenerate baselines: what a metric pays for answers that need no image.

Each takes the truth's pixels per class and gives the confusion matrix that the baseline would get,
so every metric can be computed on it. A gain of SG-IoU over mIoU means little where
``always_parent`` scores high: it has every contour right and never says the specific word.
"""

from __future__ import annotations

import numpy as np

from scanseg.contracts import InputError
from scanseg.metrics.confusion import empty_confusion
from scanseg.metrics.sg_iou import IndexLists, Relations


def most_frequent_class(truth_pixels: np.ndarray) -> np.ndarray:
    """Every pixel is called the class that has most pixels in the truth.

    Args:
        truth_pixels: (K,) int64 pixels of each class in the truth.

    Returns:
        (K + 1, K) int64 confusion matrix.
    """
    pixels = _check(truth_pixels)
    matrix = empty_confusion(len(pixels))
    matrix[int(np.argmax(pixels))] = pixels
    return matrix


def always_parent(truth_pixels: np.ndarray, parents: IndexLists) -> np.ndarray:
    """Perfect masks, but every class with a parent is called by the first one listed.

    Args:
        truth_pixels: (K,) int64 pixels of each class in the truth.
        parents: class -> its parents.

    Returns:
        (K + 1, K) int64 confusion matrix.

    Raises:
        InputError: an index of ``parents`` is out of range or its own parent.
    """
    pixels = _check(truth_pixels)
    Relations.build(len(pixels), parents)
    said = [parents[label][0] if parents.get(label) else label for label in range(len(pixels))]
    matrix = empty_confusion(len(pixels))
    matrix[said, np.arange(len(pixels))] = pixels
    return matrix


def _check(truth_pixels: np.ndarray) -> np.ndarray:
    pixels = np.asarray(truth_pixels)
    if pixels.ndim != 1 or not len(pixels) or pixels.dtype.kind not in "iu" or (pixels < 0).any():
        raise InputError("truth_pixels must be a (K,) array of pixel counts")
    return pixels.astype(np.int64)
