"""CutMix of two views: who says what in which cell."""

from __future__ import annotations

import random

import numpy as np
import torch

from scanseg.training.head_cutmix import AREA, cutmix, rectangle
from scanseg.training.head_dataset import Hint, StoredPhoto, TrainingView
from scanseg.training.head_labels import Layer, SoftLabels
from scanseg.training.head_photos import Photo
from scanseg.training.head_sampling import Views

CELLS = (10, 10)


def a_view(value: int, vocabulary: str = "coco133", *, rest: bool = False) -> TrainingView:
    """One colour, one label everywhere, hints that count the cells."""
    ids = np.full((1, *CELLS), value, np.uint8)
    return TrainingView(
        torch.full((3, 80, 80), value, dtype=torch.uint8),
        [Layer(vocabulary, SoftLabels(ids, np.ones((1, *CELLS), np.float32)), 1.0)],
        np.full(CELLS, rest),
        vocabulary,
        80,
        -1,
        segments=np.zeros((20, 20), np.uint16),
        everything=True,
        hints={"voc21": Hint(np.full((100, 1), value, np.float16), np.arange(100).reshape(CELLS))},
    )


def test_rectangles_have_the_wanted_area_and_stay_inside() -> None:
    rng = random.Random(0)
    shares = []
    for _ in range(200):
        inside = rectangle((40, 40), rng)
        rows, columns = inside.any(1).sum(), inside.any(0).sum()
        assert inside.sum() == rows * columns  # one rectangle
        shares.append(inside.mean())
    assert AREA[0] * 0.9 < min(shares) < max(shares) < AREA[1] * 1.1
    assert rectangle((1, 1), rng).all()


def test_pixels_labels_and_hints_change_together() -> None:
    view, other = a_view(3), a_view(5, "facades")
    found = cutmix(view, other, random.Random(1))
    inside = (found.pixels[0, 4::8, 4::8] == 5).numpy()
    assert AREA[0] * 0.8 < inside.mean() < AREA[1] * 1.2
    own, others = found.layers
    np.testing.assert_array_equal(own.labels.mass, ~inside)
    np.testing.assert_array_equal(others.labels.mass, inside)
    assert (own.vocabulary, others.vocabulary) == ("coco133", "facades")
    hint = found.hints["voc21"]
    np.testing.assert_array_equal(hint.features[hint.place][..., 0], np.where(inside, 5, 3))
    np.testing.assert_array_equal(hint.place % 100, np.arange(100).reshape(CELLS))
    np.testing.assert_array_equal(found.shows_itself, ~inside)
    assert found.segments is None
    assert not found.everything
    assert (view.pixels == 3).all()
    assert view.layers[0].labels.mass.all()


def test_what_unlabelled_cells_are_not_is_kept_only_in_one_vocabulary() -> None:
    same = cutmix(a_view(3), a_view(5, rest=True), random.Random(1))
    inside = (same.pixels[0, 4::8, 4::8] == 5).numpy()
    np.testing.assert_array_equal(same.rest, inside)
    assert not cutmix(a_view(3), a_view(5, "facades", rest=True), random.Random(1)).rest.any()


def test_a_hint_of_one_view_only_has_no_place_in_the_other() -> None:
    view, other = a_view(3), a_view(5)
    other.hints.clear()  # type: ignore[attr-defined]
    found = cutmix(view, other, random.Random(1))
    inside = (found.pixels[0, 4::8, 4::8] == 5).numpy()
    np.testing.assert_array_equal(found.hints["voc21"].place < 0, inside)


def test_views_are_mixed_as_often_as_asked() -> None:
    def stored(value: int) -> StoredPhoto:
        photo = Photo(f"set{value}", "a", None, vocabulary="coco133")  # type: ignore[arg-type]
        shown = np.full((64, 64, 3), value, np.uint8)
        return StoredPhoto(photo, shown, np.full((64, 64), value, np.uint8), {})

    sides = {"set0": (64, 64), "set9": (64, 64)}
    for mix, low, high in ((0.0, 0, 0), (1.0, 200, 200), (0.5, 70, 130)):
        views = Views([stored(0), stored(9)], {}, 0.0, sides, mix)
        layers = [len(view.layers) for view in views.draw(200, 64)]
        assert low <= layers.count(2) <= high
