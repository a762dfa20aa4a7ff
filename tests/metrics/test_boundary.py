from __future__ import annotations

import numpy as np
import pytest

from scanseg.contracts import InputError
from scanseg.metrics.boundary import BoundaryF, contour


def halves(edge: int) -> np.ndarray:
    """A 30 x 40 map, class 0 left of the edge, class 1 right; the diagonal is 50 pixels."""
    labels = np.zeros((30, 40), int)
    labels[:, edge:] = 1
    return labels


def test_contours_within_the_tolerance_agree() -> None:
    # tolerance 0.04 * 50 = 2 pixels; the contour of class 0 is the column before the edge
    for shift, expected in ((0, 1.0), (2, 1.0), (3, 0.0)):
        score = BoundaryF(2, tolerance=0.04)
        score.update(halves(20 + shift), halves(20))
        assert score.mean() == expected, shift


def test_precision_and_recall_by_hand() -> None:
    """The prediction has the true edge and a false square far away."""
    prediction = halves(20)
    prediction[10:13, 30:33] = 0
    score = BoundaryF(2, tolerance=0.02)  # 1 pixel
    score.update(prediction, halves(20))
    # class 0: contour of 30 pixels true, 30 + 8 predicted (the square's rim): P 30/38, R 1
    assert score.per_class()[0] == pytest.approx(2 * (30 / 38) / (30 / 38 + 1))
    # class 1: its predicted contour is the edge and the 12 pixels around the square
    assert score.per_class()[1] == pytest.approx(2 * (30 / 42) / (30 / 42 + 1))


def test_void_has_no_contour() -> None:
    truth = halves(20)
    truth[:, 18:22] = -1  # the edge is void
    score = BoundaryF(2)
    score.update(halves(21), truth)
    assert score.per_class().tolist() == [1.0, 1.0]
    mask = np.array([[True, True, False]])
    assert contour(mask, np.array([[False, True, False]])).tolist() == [[False, False, False]]


def test_a_missed_class_scores_zero_and_an_absent_one_nothing() -> None:
    score = BoundaryF(3)
    score.update(np.zeros((30, 40), int), halves(20))
    assert score.per_class()[1] == 0
    assert np.isnan(score.per_class()[2])


def test_shards_merge_exactly() -> None:
    whole, first, second = BoundaryF(2), BoundaryF(2), BoundaryF(2)
    for edge, shard in ((17, first), (19, second), (24, first)):
        whole.update(halves(edge), halves(20))
        shard.update(halves(edge), halves(20))
    second.merge(first)
    assert second.per_class().tobytes() == whole.per_class().tobytes()


def test_errors() -> None:
    with pytest.raises(InputError, match="share of the diagonal"):
        BoundaryF(2, tolerance=2.0)
    with pytest.raises(InputError, match="agree"):
        BoundaryF(2).update(halves(3), halves(3)[:5])
    with pytest.raises(InputError, match=r"outside 0\.\.0"):
        BoundaryF(1).update(halves(3), halves(3))
    with pytest.raises(InputError, match="agree on classes"):
        BoundaryF(2).merge(BoundaryF(3))
