from __future__ import annotations

import numpy as np
import pytest

from scanseg.contracts import InputError
from scanseg.metrics.iou import iou_scores
from scanseg.metrics.open_miou import open_miou

MATRIX = np.array([[6, 1, 0], [2, 4, 0], [0, 3, 0], [2, 0, 0]])


def test_by_hand() -> None:
    """Class 0 with S[1][0] = 0.5: TP = 6 + 0.5 * 2 = 7, truth 10, FP = (1 - S[0][1]) * 1 = 0.8."""
    similarity = np.array([[1, 0.2, 0], [0.5, 1, 0], [0, 0, 1]])
    found = open_miou(MATRIX, similarity)
    assert found.iou[0] == pytest.approx(7 / 10.8)
    # class 1: TP = 0.2 * 1 + 4 = 4.2, truth 8, FP = 0.5 * 2 = 1
    assert found.iou[1] == pytest.approx(4.2 / 9)
    assert found.iou[2] == 0
    assert found.present == pytest.approx((7 / 10.8 + 4.2 / 9) / 2)
    assert found.union == pytest.approx((7 / 10.8 + 4.2 / 9) / 3)


def test_identity_is_plain_iou() -> None:
    plain, found = iou_scores(MATRIX), open_miou(MATRIX, np.eye(3))
    assert found.iou == pytest.approx(plain.iou)
    assert (found.present, found.union) == pytest.approx((plain.miou_present, plain.miou_union))


def test_a_word_said_only_for_its_twin_has_no_error_and_counts_zero() -> None:
    twins = np.array([[3, 0], [4, 0]])
    assert open_miou(twins, np.ones((2, 2))).iou.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("similarity", "message"),
    [
        (np.eye(2), r"\(3, 3\)"),
        (np.eye(3) * 2, r"\[0, 1\]"),
        (np.full((3, 3), 0.5), "with itself"),
        (np.full((3, 3), np.nan), r"\[0, 1\]"),
    ],
)
def test_wrong_similarities_are_refused(similarity: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_miou(MATRIX, similarity)
