"""Instances, panoptic segments and single outlines, worked out by hand and beside OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from scanseg.contracts import InputError, Segmentation
from scanseg.formats.outlines import mask_outlines
from scanseg.formats.parts import find_parts


def made(labels: list[list[int]], names: str = "abc") -> Segmentation:
    array = np.array(labels, dtype=np.int32)
    confidence = np.linspace(0, 1, array.size, dtype=np.float32).reshape(array.shape)
    return Segmentation(array, tuple(names), confidence)


def test_instances_by_hand() -> None:
    out = made([[0, 0, 1, 0], [-1, 1, 0, 0], [1, 1, 1, -1]])
    # a: {(0,0) (0,1)} and {(0,3) (1,2) (1,3)}; b: {(0,2)} and {(1,1) (2,0) (2,1) (2,2)}: corners
    # do not connect, so b's pixel above is alone
    parts = out.instances()
    assert [(p.name, p.area, p.bbox) for p in parts] == [
        ("b", 4, (0, 1, 3, 2)),
        ("a", 3, (2, 0, 2, 2)),
        ("a", 2, (0, 0, 2, 1)),
        ("b", 1, (2, 0, 1, 1)),
    ]
    assert parts.ids.tolist() == [[3, 3, 4, 2], [0, 1, 2, 2], [1, 1, 1, 0]]
    assert parts[2].score == pytest.approx((0 + 1 / 11) / 2)
    assert parts[-1].mask.tolist() == (parts.ids == 4).tolist()
    assert [p.area for p in parts[1:3]] == [3, 2]
    with pytest.raises(IndexError):
        parts[4]


def test_things_and_stuff() -> None:
    out = made([[0, 1, 0], [1, 1, 1], [0, 1, 2]])
    assert [(p.name, p.area) for p in out.panoptic()] == [("b", 5), ("a", 3), ("c", 1)]
    panoptic = out.panoptic(["a"])
    assert [(p.name, p.area) for p in panoptic] == [
        ("b", 5), ("a", 1), ("a", 1), ("a", 1), ("c", 1),
    ]  # fmt: skip
    assert panoptic.things == {0}
    assert [p.name for p in out.instances(["a"])] == ["a"] * 3
    assert out.instances(["a"]).ids.tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 0]]
    assert [p.name for p in out.instances("a")] == ["a"] * 3  # one word without a list
    assert [p.name for p in out.panoptic("all", min_area=2)] == ["b"]
    assert out.panoptic(min_area=2).ids.tolist() == [[2, 1, 2], [1, 1, 1], [2, 1, 0]]


def test_nothing_found() -> None:
    parts = made([[-1, -1]]).instances()
    assert len(parts) == 0
    assert list(parts) == []
    assert parts.ids.tolist() == [[0, 0]]
    assert repr(parts) == "<0 parts of a 2 x 1 photo>"


def test_a_thing_that_is_no_word() -> None:
    with pytest.raises(InputError, match="'d' is not one of the words: a, b, c"):
        made([[0]]).instances(["d"])


def test_parts_agree_with_scipy_and_with_segments() -> None:
    rng = np.random.default_rng(0)
    for trial in range(40):
        labels = rng.integers(-1, 3, rng.integers(1, 14, 2)).astype(np.int32)
        labels = np.kron(labels, np.ones((1 + trial % 3, 2), np.int32))
        confidence = rng.random(labels.shape, dtype=np.float32)
        out = Segmentation(labels, ("a", "b", "c"), confidence)
        for part, segment in zip(out.panoptic(), out.segments, strict=True):
            assert (part.label, part.area, part.bbox) == (
                segment.label,
                segment.area,
                segment.bbox,
            )
            assert part.score == pytest.approx(segment.score, abs=1e-6)
            np.testing.assert_array_equal(part.mask, segment.mask)
        expected = sum(ndimage.label(labels == k)[1] for k in range(3))
        instances = find_parts(out, [0, 1, 2])
        assert len(instances) == expected
        for part in instances:
            assert ndimage.label(part.mask)[1] == 1
            assert (labels[part.mask] == part.label).all()


# ------------------------------------------------------------------ outlines


def test_a_hole_is_cut_open_by_hand() -> None:
    mask = np.ones((3, 3), dtype=bool)
    mask[1, 1] = False
    (line,) = mask_outlines(mask)
    # round the outside, with a detour from the upper side at x = 1 down to the hole and round it
    assert line == [
        (0, 0), (1, 0), (1, 1), (1, 1), (1, 2), (2, 2),
        (2, 1), (1, 1), (1, 0), (3, 0), (3, 3), (0, 3),
    ]  # fmt: skip


def test_inset_corners_are_pixels() -> None:
    mask = np.zeros((3, 4), dtype=bool)
    mask[1:, 1:3] = True
    (line,) = mask_outlines(mask, inset=(0.25, 0.75))
    assert {(int(x), int(y)) for x, y in line} == {(1, 1), (2, 1), (1, 2), (2, 2)}
    assert {(round(x), round(y)) for x, y in line} == {(1, 1), (2, 1), (1, 2), (2, 2)}


def test_outlines_fill_back_to_the_mask() -> None:
    """In pycocotools along the edges, in OpenCV cut or rounded to integers with the inset."""
    coco = pytest.importorskip("pycocotools.mask")
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    for trial in range(250):
        mask = rng.random(rng.integers(1, 30, 2)) < rng.uniform(0.1, 1)
        if trial % 3 == 0:
            mask = np.kron(mask, np.ones((3, 2), dtype=bool))
        height, width = mask.shape
        lines = mask_outlines(mask)
        assert len(lines) == ndimage.label(mask)[1]
        if lines:
            flat = [[c for point in line for c in point] for line in lines]
            rle = coco.merge(coco.frPyObjects(flat, height, width))
            np.testing.assert_array_equal(coco.decode(rle).astype(bool), mask)
        for whole in (np.trunc, np.round):
            canvas = np.zeros(mask.shape, dtype=np.uint8)
            for line in mask_outlines(mask, inset=(0.25, 0.75)):
                cv2.fillPoly(canvas, [whole(np.array(line)).astype(np.int32)], 1)
            np.testing.assert_array_equal(canvas.astype(bool), mask)
