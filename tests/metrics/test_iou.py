from __future__ import annotations

import numpy as np
import pytest

from scanseg.contracts import InputError
from scanseg.metrics.confusion import count_pairs
from scanseg.metrics.iou import iou_scores, split_scores

# [prediction][truth]; class 2 is only predicted, class 3 occurs nowhere; last row: unknown.
MATRIX = np.array(
    [
        [6, 1, 0, 0],
        [2, 4, 0, 0],
        [0, 3, 0, 0],
        [0, 0, 0, 0],
        [2, 0, 0, 0],
    ]
)
# truth: 10, 8, 0, 0     predicted: 7, 6, 3, 0     hits: 6, 4, 0, 0
# IoU 0: 6 / (10 + 7 - 6) = 6/11     IoU 1: 4 / (8 + 6 - 4) = 0.4     IoU 2: 0 / 3 = 0


def test_both_conventions_by_hand() -> None:
    scores = iou_scores(MATRIX)
    assert scores.iou[:3] == pytest.approx([6 / 11, 0.4, 0.0])
    assert np.isnan(scores.iou[3])
    assert scores.miou_present == pytest.approx((6 / 11 + 0.4) / 2)
    assert scores.miou_union == pytest.approx((6 / 11 + 0.4 + 0) / 3)
    assert scores.accuracy[:2] == pytest.approx([0.6, 0.5])
    assert np.isnan(scores.accuracy[2:]).all()
    assert scores.macc == pytest.approx(0.55)
    assert scores.pacc == pytest.approx(10 / 18)
    assert scores.fwiou == pytest.approx(10 / 18 * 6 / 11 + 8 / 18 * 0.4)


def test_unknown_pixels_cost_recall_but_are_nobodys_false_positive() -> None:
    decided = MATRIX.copy()
    decided[0, 0] += decided[4, 0]  # the same pixels, now said right
    decided[4, 0] = 0
    assert iou_scores(decided).iou[0] == pytest.approx(8 / (10 + 9 - 8))
    assert iou_scores(decided).iou[1] == iou_scores(MATRIX).iou[1]


def test_split_by_hand() -> None:
    split = split_scores(MATRIX, seen=[0, 3])
    assert split.seen_present == pytest.approx(6 / 11)
    assert split.unseen_present == pytest.approx(0.4)
    assert split.unseen_union == pytest.approx(0.2)  # class 2 joins with 0
    assert split.harmonic_present == pytest.approx(2 * 6 / 11 * 0.4 / (6 / 11 + 0.4))
    assert split.harmonic_union == pytest.approx(2 * 6 / 11 * 0.2 / (6 / 11 + 0.2))
    assert split.seen_pacc == pytest.approx(0.6)
    assert split.unseen_pacc == pytest.approx(0.5)
    assert np.isnan(split_scores(MATRIX, seen=[3]).seen_present)


@pytest.mark.parametrize(("seen", "message"), [([4], "not one of 0..3"), ([1, 1], "twice")])
def test_a_wrong_split_is_refused(seen: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_scores(MATRIX, seen)


def test_an_empty_matrix_has_no_score() -> None:
    scores = iou_scores(np.zeros((3, 2), int))
    assert np.isnan(
        [scores.miou_present, scores.miou_union, scores.fwiou, scores.macc, scores.pacc]
    ).all()


@pytest.mark.parametrize("seed", range(4))
def test_union_convention_equals_torchmetrics_and_present_a_direct_computation(seed: int) -> None:
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    rng = np.random.default_rng(seed)
    num_classes = 12
    truth = rng.integers(0, num_classes - 3, (3, 40, 50))  # three classes are never true
    prediction = np.where(
        rng.random(truth.shape) < 0.6, truth, rng.integers(0, num_classes - 1, truth.shape)
    )
    truth[rng.random(truth.shape) < 0.1] = 255
    scores = iou_scores(count_pairs(prediction, truth, num_classes, ignore=255).dense())

    theirs = classification.MulticlassJaccardIndex(num_classes, average="macro", ignore_index=255)
    theirs.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert scores.miou_union == pytest.approx(float(theirs.compute()), abs=1e-6)
    accuracy = classification.MulticlassAccuracy(num_classes, average="micro", ignore_index=255)
    accuracy.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert scores.pacc == pytest.approx(float(accuracy.compute()), abs=1e-6)

    known, ious = truth != 255, []
    for label in np.unique(truth[known]):
        mine, real = (prediction == label) & known, truth == label
        ious.append((mine & real).sum() / (mine | real).sum())
    assert scores.miou_present == pytest.approx(np.mean(ious), rel=1e-12)
