from __future__ import annotations

import numpy as np
import pytest

from scanseg.contracts import InputError
from scanseg.metrics.bootstrap import ImageCounts, bootstrap, paired_bootstrap
from scanseg.metrics.confusion import PairCounts, count_pairs, sum_pairs
from scanseg.metrics.iou import iou_scores


def accuracy(confusion: np.ndarray) -> dict[str, float]:
    return {"pacc": iou_scores(confusion).pacc}


def images(rate: float, count: int, seed: int, size: int = 100) -> list[PairCounts]:
    """Images of one class pair; each is right on a share of its pixels, ``rate`` on average."""
    rng = np.random.default_rng(seed)
    truth = np.arange(size) % 2
    return [
        count_pairs(np.where(rng.random(size) < rng.normal(rate, 0.05), truth, 1 - truth), truth, 2)
        for _ in range(count)
    ]


def test_totals_and_weights() -> None:
    pairs = images(0.7, 5, seed=0)
    stacked = ImageCounts.stack(pairs)
    assert (stacked.total() == sum_pairs(pairs, 2)).all()
    doubled = stacked.total(np.array([2, 0, 0, 1, 0]))
    assert (doubled == 2 * pairs[0].dense() + pairs[3].dense()).all()


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    """Images of equal size: accuracy is a mean over images, whose standard error is s / sqrt(n)."""
    pairs = images(0.7, 200, seed=1)
    each = np.array([iou_scores(p.dense()).pacc for p in pairs])
    found = bootstrap(ImageCounts.stack(pairs), accuracy, replicates=2000)["pacc"]
    standard_error = each.std(ddof=1) / np.sqrt(len(each))
    assert found.value == pytest.approx(each.mean())
    assert found.error == pytest.approx(standard_error, rel=0.08)
    assert found.low == pytest.approx(each.mean() - 1.96 * standard_error, abs=standard_error / 5)
    assert found.high == pytest.approx(each.mean() + 1.96 * standard_error, abs=standard_error / 5)


def test_rare_classes_do_not_push_the_interval_off_the_value() -> None:
    """Image i has class i only, 60 of 100 pixels right, 40 called the next class: IoU 60 / 140.

    In replicates that have image i but not the one before it, class i has no false positives and
    an IoU of 60 / 100, so raw replicates lie above the value.
    """
    pairs, num_classes = [], 39
    for label in range(num_classes):
        said = np.repeat([label, (label + 1) % num_classes], [60, 40])
        pairs.append(count_pairs(said, np.full(100, label), num_classes))
    stacked = ImageCounts.stack(pairs)

    def miou(confusion: np.ndarray) -> dict[str, float]:
        return {"miou": iou_scores(confusion).miou_present}

    raw = [
        miou(stacked.total(np.bincount(draw, minlength=39)))["miou"]
        for draw in np.random.default_rng(0).integers(39, size=(200, 39))
    ]
    found = bootstrap(stacked, miou, replicates=200)["miou"]
    assert found.value == pytest.approx(60 / 140)
    assert min(raw) > found.value  # the bias is real
    assert found.low < found.value < found.high
    assert found.value - found.low == pytest.approx(found.high - found.value, rel=0.3)


def test_the_same_seed_gives_the_same_interval() -> None:
    stacked = ImageCounts.stack(images(0.6, 20, seed=2))
    first, again = (bootstrap(stacked, accuracy, replicates=50, seed=4) for _ in range(2))
    other = bootstrap(stacked, accuracy, replicates=50, seed=5)
    assert first == again != other


def test_identical_images_leave_no_doubt() -> None:
    stacked = ImageCounts.stack(images(0.6, 1, seed=3) * 8)
    found = bootstrap(stacked, accuracy, replicates=20)["pacc"]
    assert found.low == found.high == pytest.approx(found.value)


def test_pairs_see_a_small_difference_that_single_intervals_do_not() -> None:
    better, worse = [], []
    for pair in images(0.7, 60, seed=6):
        matrix = pair.dense()
        better.append(pair)
        moved = matrix.copy()
        moved[1, 0] += 1  # one pixel of every image is wrong in the second system
        moved[0, 0] -= 1
        worse.append(PairCounts.from_dense(moved))
    a, b = ImageCounts.stack(better), ImageCounts.stack(worse)
    single = [bootstrap(s, accuracy, replicates=200)["pacc"] for s in (a, b)]
    assert single[0].low < single[1].high
    result = paired_bootstrap(a, b, accuracy, replicates=200)["pacc"]
    assert result.difference == pytest.approx(0.01)
    assert result.low == pytest.approx(0.01)
    assert result.first_wins == 1.0
    assert result.p_value == pytest.approx(2 / 201)  # twice (0 + 1) of 200 + 1


def test_a_system_against_itself_is_a_tie() -> None:
    stacked = ImageCounts.stack(images(0.7, 30, seed=7))
    result = paired_bootstrap(stacked, stacked, accuracy, replicates=50)["pacc"]
    assert (result.difference, result.p_value, result.first_wins) == (0.0, 1.0, 0.5)


def test_errors() -> None:
    stacked = ImageCounts.stack(images(0.7, 3, seed=8))
    with pytest.raises(InputError, match="no images"):
        ImageCounts.stack([])
    with pytest.raises(InputError, match="same number of classes"):
        ImageCounts.stack([*images(0.7, 1, seed=0), count_pairs(np.array([0]), np.array([0]), 3)])
    with pytest.raises(InputError, match="10 replicates"):
        bootstrap(stacked, accuracy, replicates=2)
    with pytest.raises(InputError, match="level"):
        bootstrap(stacked, accuracy, level=1.0)
    with pytest.raises(InputError, match="same images"):
        paired_bootstrap(stacked, ImageCounts.stack(images(0.7, 4, seed=8)), accuracy)
