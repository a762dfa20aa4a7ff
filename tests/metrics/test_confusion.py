from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanseg.contracts import InputError
from scanseg.metrics.confusion import (
    ConfusionMatrix,
    PairCounts,
    as_confusion,
    count_pairs,
    pair_counts_from,
    sum_pairs,
    without_ignore,
)


def by_hand(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """The definition, one pixel at a time."""
    matrix = np.zeros((num_classes + 1, num_classes), np.int64)
    for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
        if t >= 0:
            matrix[p if p >= 0 else num_classes, t] += 1
    return matrix


def test_rows_are_predictions_columns_are_truth_and_the_last_row_is_unknown() -> None:
    prediction = np.array([[0, 0, 1], [1, -1, 2]])
    truth = np.array([[0, 1, 1], [0, 0, 255]])
    found = count_pairs(prediction, truth, 3, ignore=255)
    assert found.dense().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert found.pixels == 5  # the void pixel is not counted


def test_further_values_can_mean_unknown_and_void() -> None:
    found = count_pairs(
        np.array([7, 7, 0], np.uint8), np.array([0, 7, 0], np.uint8), 1, ignore=7, unknown=7
    )
    assert found.dense().tolist() == [[1], [1]]


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.sampled_from([np.int8, np.int16, np.int32, np.int64]),
)
@settings(max_examples=40, deadline=None)
def test_runs_count_as_single_pixels_do(seed: int, num_classes: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(0, 400))
    prediction = np.repeat(rng.integers(-1, num_classes, size), rng.integers(1, 6, size)).astype(
        dtype
    )
    truth = rng.integers(-1, num_classes, prediction.size).astype(dtype)
    expected = by_hand(prediction, truth, num_classes)
    assert (count_pairs(prediction, truth, num_classes).dense() == expected).all()
    total = ConfusionMatrix(num_classes)
    total.update(prediction, truth)
    assert (total.counts == expected).all()


@pytest.mark.parametrize("noisy", [False, True])
def test_large_maps_cross_blocks_and_noise_is_counted_too(noisy: bool) -> None:
    rng = np.random.default_rng(3)
    shape = (311, 701)  # several blocks, the last one short
    truth = (
        rng.integers(0, 5, shape)
        if noisy
        else np.add.outer(np.arange(311), np.arange(701)) // 97 % 5
    )
    prediction = np.where(rng.random(shape) < 0.001, -1, truth)
    prediction[100:200, 100:200] = 2
    expected = np.zeros((6, 5), np.int64)
    np.add.at(expected, (np.where(prediction < 0, 5, prediction), truth), 1)
    assert (count_pairs(prediction, truth, 5).dense() == expected).all()
    total = ConfusionMatrix(5)
    total.update(prediction.astype(np.uint8), truth.astype(np.uint8), unknown=255)
    assert (total.counts == expected).all()


def test_maps_that_are_views_are_counted_in_their_order() -> None:
    prediction, truth = np.arange(12).reshape(3, 4) % 3, np.arange(12).reshape(3, 4) % 2
    flipped = count_pairs(prediction[:, ::-1], truth[:, ::-1], 3)
    assert (flipped.dense() == count_pairs(prediction, truth, 3).dense()).all()


def test_shards_merge_to_the_whole_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    images = [(rng.integers(-1, 30, (40, 50)), rng.integers(-1, 30, (40, 50))) for _ in range(6)]
    whole = ConfusionMatrix(30)
    shards = [ConfusionMatrix(30) for _ in range(3)]
    for number, (prediction, truth) in enumerate(images):
        whole.update(prediction, truth)
        shards[number % 3].update(prediction, truth)
    merged = shards[2]
    merged.merge(shards[0])
    merged.merge(shards[1])
    assert merged.counts.tobytes() == whole.counts.tobytes()
    pairs = [count_pairs(p, t, 30) for p, t in images]
    assert sum_pairs(reversed(pairs), 30).tobytes() == whole.counts.tobytes()


def test_sparse_counts_survive_a_round_trip() -> None:
    found = count_pairs(np.array([0, 2, -1]), np.array([1, 2, 0]), 3)
    again = pair_counts_from(found.cells.tolist(), found.counts.tolist(), 3)
    assert (again.dense() == found.dense()).all()
    assert (PairCounts.from_dense(found.dense()).cells == found.cells).all()


@pytest.mark.parametrize(
    ("cells", "counts", "message"),
    [
        ([0, 1], [1], "same length"),
        ([1, 0], [1, 1], "increase"),
        ([6], [1], "0..5"),
        ([0], [0], "positive"),
    ],
)
def test_broken_sparse_counts_are_refused(
    cells: list[int], counts: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pair_counts_from(cells, counts, 2)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ([0, 3], [0, 0], "prediction holds id 3, but 3 classes have ids 0..2"),
        ([0, -2], [0, 0], "prediction holds id -2"),
        ([0, 0], [0, 3], "truth holds id 3"),
        ([0, 0], [-2, 0], "truth holds id -2"),
        ([0, 0], [0], "must agree"),
        ([0.0, 1.0], [0, 1], "integer class ids"),
    ],
)
def test_wrong_ids_and_shapes_are_named(prediction: list, truth: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        count_pairs(np.array(prediction), np.array(truth), 3)


def test_a_wrong_prediction_counts_even_on_void_pixels() -> None:
    with pytest.raises(InputError, match="prediction holds id 9"):
        count_pairs(np.array([9]), np.array([-1]), 3)


def test_matrices_are_checked() -> None:
    assert as_confusion(np.eye(2, dtype=int)).shape == (3, 2)
    square = np.array([[5, 1, 9], [0, 4, 9], [2, 0, 9]])
    assert without_ignore(square).tolist() == [[5, 1], [0, 4], [2, 0]]
    for wrong, message in (
        (np.zeros((2, 4)), r"\(K, K\)"),
        (np.array([[-1]]), "negative"),
        (np.array([["a"]]), "counts"),
    ):
        with pytest.raises(InputError, match=message):
            as_confusion(wrong)
    with pytest.raises(InputError, match="square"):
        without_ignore(np.zeros((2, 3)))
    with pytest.raises(InputError, match="at least one class"):
        ConfusionMatrix(0)
    with pytest.raises(InputError, match="merge"):
        ConfusionMatrix(2).merge(ConfusionMatrix(3))
    with pytest.raises(InputError, match="cannot add"):
        ConfusionMatrix(2).add(count_pairs(np.array([0]), np.array([0]), 3))


def test_maps_of_every_integer_type_count_alike() -> None:
    prediction, truth = np.array([[0, 1, 1, 2]]), np.array([[0, 1, 2, 2]])
    expected = dense(prediction, truth)
    for kind in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64):
        for other in (np.int64, np.uint64):
            found = dense(prediction.astype(kind), truth.astype(other))
            assert (found == expected).all(), (kind, other)


def dense(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    counted = ConfusionMatrix(3)
    counted.update(prediction, truth)
    return counted.counts
