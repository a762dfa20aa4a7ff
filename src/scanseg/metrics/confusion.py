"""Counting pixels: label maps in, confusion matrices ``[prediction][truth]`` out.

A confusion matrix of K classes has the shape (K + 1, K), int64. Row p < K holds the pixels that
were predicted as class p; **the last row holds the pixels that the system left unknown**. Such a
pixel belongs to the truth of its class, so it lowers recall and IoU, and it is a false positive of
no class. Pixels whose truth is void are not counted at all (``docs/decisions/0030``).

Every map is counted by its runs: neighbouring pixels mostly repeat, so comparing each pixel with
the one before it, at the speed of memory, leaves a few thousand runs whose lengths are added up.
The counts are integers throughout, hence exact, and a sum of parts equals the whole bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scanseg.contracts import UNKNOWN, InputError

_BLOCK = 1 << 16
"""Pixels compared at once; two such blocks of int32 and their comparison stay in the L2 cache."""
_NOISY = 4
"""A block with more than one run per this many pixels is counted pixel by pixel instead."""


@dataclass(frozen=True, eq=False)
class PairCounts:
    """The confusion matrix of one image, only the cells that are not zero.

    Attributes:
        num_classes: K.
        cells: (n,) int64, ``prediction * K + truth``, strictly increasing; prediction K is unknown.
        counts: (n,) int64, pixels in each of these cells, all positive.
    """

    num_classes: int
    cells: np.ndarray
    counts: np.ndarray

    @property
    def pixels(self) -> int:
        """Counted pixels: those whose truth is not void."""
        return int(self.counts.sum())

    def dense(self) -> np.ndarray:
        """The (K + 1, K) int64 confusion matrix."""
        matrix = empty_confusion(self.num_classes)
        matrix.reshape(-1)[self.cells] = self.counts
        return matrix

    @classmethod
    def from_dense(cls, confusion: np.ndarray) -> PairCounts:
        """The sparse form of a confusion matrix, (K, K) or (K + 1, K)."""
        matrix = as_confusion(confusion)
        cells = np.flatnonzero(matrix)
        return cls(matrix.shape[1], cells, matrix.reshape(-1)[cells])


class ConfusionMatrix:
    """A running total over images.

    Attributes:
        counts: (K + 1, K) int64, ``[prediction][truth]``, last row unknown; updated in place.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = empty_confusion(num_classes)

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.counts.shape[1])

    def update(
        self,
        prediction: np.ndarray,
        truth: np.ndarray,
        *,
        ignore: int | None = None,
        unknown: int | None = None,
    ) -> None:
        """Count one image more; arguments and errors as in :func:`count_pairs`."""
        cells, lengths = _cells(prediction, truth, self.num_classes, ignore, unknown)
        flat = self.counts.reshape(-1)
        if lengths is None:
            flat += np.bincount(cells, minlength=flat.size)
        else:
            np.add.at(flat, cells, lengths)

    def add(self, pairs: PairCounts) -> None:
        """Add the counts of an image.

        Raises:
            InputError: the counts are those of another number of classes.
        """
        if pairs.num_classes != self.num_classes:
            raise InputError(
                f"cannot add counts of {pairs.num_classes} classes to {self.num_classes} classes"
            )
        self.counts.reshape(-1)[pairs.cells] += pairs.counts

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the total of another shard or rank; exact, in any order.

        Raises:
            InputError: the shards have different numbers of classes.
        """
        if other.num_classes != self.num_classes:
            raise InputError(
                f"cannot merge matrices of {self.num_classes} and {other.num_classes} classes"
            )
        self.counts += other.counts


def empty_confusion(num_classes: int) -> np.ndarray:
    """A (K + 1, K) int64 matrix of zeros.

    Raises:
        InputError: there is not at least one class.
    """
    if num_classes < 1:
        raise InputError(f"a confusion matrix needs at least one class, not {num_classes}")
    return np.zeros((num_classes + 1, num_classes), np.int64)


def as_confusion(confusion: np.ndarray) -> np.ndarray:
    """Check a confusion matrix ``[prediction][truth]`` and give it its row of unknown pixels.

    Args:
        confusion: (K + 1, K), the last row unknown, or (K, K) for systems that always decide.

    Returns:
        (K + 1, K), the same array if it has that shape already.

    Raises:
        InputError: another shape, negative counts, or something that is not a number.
    """
    matrix = np.asarray(confusion)
    if matrix.ndim != 2 or matrix.shape[0] - matrix.shape[1] not in (0, 1) or matrix.shape[1] < 1:
        raise InputError(
            f"a confusion matrix is (K, K), or (K + 1, K) with a last row of unknown pixels, "
            f"not {matrix.shape}"
        )
    if matrix.dtype.kind not in "iuf":
        raise InputError(f"a confusion matrix holds counts, not {matrix.dtype}")
    if not (matrix >= 0).all():
        raise InputError("a confusion matrix holds counts of pixels: none may be negative or NaN")
    if matrix.shape[0] == matrix.shape[1]:
        matrix = np.vstack([matrix, np.zeros((1, matrix.shape[1]), matrix.dtype)])
    return matrix


def without_ignore(confusion: np.ndarray) -> np.ndarray:
    """Drop the ignore column of a square (K + 1, K + 1) matrix, the form detectron2 evaluators
    keep.

    Its last row (predicted "ignore") becomes the row of unknown pixels.

    Raises:
        InputError: the matrix is not square.
    """
    matrix = np.asarray(confusion)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] < 2:
        raise InputError(
            f"expected a square matrix with a last row and column to ignore, not {matrix.shape}"
        )
    return as_confusion(matrix[:, :-1])


def count_pairs(
    prediction: np.ndarray,
    truth: np.ndarray,
    num_classes: int,
    *,
    ignore: int | None = None,
    unknown: int | None = None,
) -> PairCounts:
    """Count which class was predicted where which class is true, for one image.

    Args:
        prediction: integer label map of any shape, class ids in [0, K); -1 is unknown.
        truth: the true labels, same shape, class ids in [0, K); -1 is void.
        num_classes: K.
        ignore: a further value of ``truth`` that means void (255 in many label PNGs).
        unknown: a further value of ``prediction`` that means "no class".

    Returns:
        The counts of all pixels whose truth is not void.

    Raises:
        InputError: different shapes, arrays that hold no integers, or an id outside [0, K).
    """
    cells, lengths = _cells(prediction, truth, num_classes, ignore, unknown)
    if lengths is None:
        dense = np.bincount(cells, minlength=1)
        found = np.flatnonzero(dense)
        return PairCounts(num_classes, found, dense[found])
    found, index = np.unique(cells, return_inverse=True)
    # Sums of lengths stay far below 2**53, so bincount's float64 sums are exact.
    return PairCounts(num_classes, found, np.bincount(index, lengths).astype(np.int64))


def sum_pairs(pairs: Iterable[PairCounts], num_classes: int) -> np.ndarray:
    """The (K + 1, K) int64 confusion matrix of many images."""
    total = ConfusionMatrix(num_classes)
    for image in pairs:
        total.add(image)
    return total.counts


def _cells(
    prediction: np.ndarray,
    truth: np.ndarray,
    num_classes: int,
    ignore: int | None,
    unknown: int | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cell and length of every run; where maps are noise, cell of every pixel and ``None``."""
    predicted, true = _flat(prediction, "prediction"), _flat(truth, "truth")
    if np.shape(prediction) != np.shape(truth):
        raise InputError(
            f"prediction has shape {np.shape(prediction)}, truth {np.shape(truth)}: they must agree"
        )
    ends, lengths = _runs(predicted, true)
    if ends is not None:
        predicted, true = predicted[ends], true[ends]
    if _are_classes(predicted, num_classes, unknown) and _are_classes(true, num_classes, ignore):
        return predicted.astype(np.int64) * num_classes + true.astype(np.int64), lengths
    predicted, true = predicted.astype(np.int64), true.astype(np.int64)
    undecided = predicted == UNKNOWN
    if unknown is not None:
        undecided |= predicted == unknown
    wrong = ((predicted < 0) | (predicted >= num_classes)) & ~undecided
    if wrong.any():
        raise InputError(
            f"the prediction holds id {predicted[wrong][0]}, but {num_classes} classes have ids "
            f"0..{num_classes - 1}"
        )
    void = true == UNKNOWN
    if ignore is not None:
        void |= true == ignore
    wrong = ((true < 0) | (true >= num_classes)) & ~void
    if wrong.any():
        raise InputError(
            f"the truth holds id {true[wrong][0]}, but {num_classes} classes have ids "
            f"0..{num_classes - 1}"
        )
    cells = np.where(undecided, num_classes, predicted) * num_classes + true
    if void.any():
        cells = cells[~void]
        lengths = None if lengths is None else lengths[~void]
    return cells, lengths


def _are_classes(labels: np.ndarray, num_classes: int, special: int | None) -> bool:
    """Whether every value is a class id: nothing unknown, void or wrong, so nothing to sort out."""
    if not labels.size or (special is not None and 0 <= special < num_classes):
        return False
    return bool(labels.min() >= 0 and labels.max() < num_classes)


def _flat(labels: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise InputError(f"the {what} must hold integer class ids, not {array.dtype}")
    return np.ascontiguousarray(array).reshape(-1)


def _runs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Last pixel and length of every run in which both arrays stay the same; ``None`` for noise."""
    size = min(first.size, second.size)
    found: list[np.ndarray] = []
    total = 0
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK + 1, size)
        changes = first[start + 1 : stop] != first[start : stop - 1]
        changes |= second[start + 1 : stop] != second[start : stop - 1]
        here = np.flatnonzero(changes)
        total += here.size
        if total * _NOISY > stop and stop >= _BLOCK:
            return None, None
        here += start
        found.append(here)
    ends = np.concatenate([*found, [size - 1]]) if size else np.empty(0, np.int64)
    return ends, np.diff(ends, prepend=-1)


def pair_counts_from(cells: Sequence[int], counts: Sequence[int], num_classes: int) -> PairCounts:
    """Sparse counts read back from a file.

    Raises:
        InputError: cells out of range or out of order, or counts that are not positive.
    """
    index, pixels = np.asarray(cells, np.int64), np.asarray(counts, np.int64)
    if index.shape != pixels.shape or index.ndim != 1:
        raise InputError("cells and counts of an image must be two lists of the same length")
    limit = (num_classes + 1) * num_classes
    if index.size and (index[0] < 0 or index[-1] >= limit or (np.diff(index) <= 0).any()):
        raise InputError(f"cells of {num_classes} classes must increase within 0..{limit - 1}")
    if (pixels <= 0).any():
        raise InputError("counts of pixels must be positive")
    return PairCounts(num_classes, index, pixels)
