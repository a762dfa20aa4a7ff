"""GeoJSON: rings by hand, and masks that come back when the polygons are filled."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage.measure import points_in_poly

from scanseg.contracts import Segmentation
from scanseg.formats.polygons import mask_polygons, to_geojson


def shoelace(ring: list) -> float:
    x, y = np.array(ring, dtype=float).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def filled(polygons: list, shape: tuple[int, int]) -> np.ndarray:
    """How many polygons cover each pixel's centre, by the even-odd rule of another library."""
    rows, columns = np.indices(shape)
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    covered = np.zeros(shape, dtype=int)
    for polygon in polygons:
        inside = np.zeros(len(centres), dtype=bool)
        for ring in polygon:
            inside ^= points_in_poly(centres, ring)
        covered += inside.reshape(shape)
    return covered


def turned(ring: list) -> list:
    """The same ring from its smallest corner on."""
    start = ring.index(min(ring))
    return ring[start:] + ring[:start]


def test_one_pixel() -> None:
    ((ring,),) = mask_polygons(np.array([[True]]))
    assert turned(ring) == [(0, 0), (1, 0), (1, 1), (0, 1)]


def test_a_straight_side_has_two_corners() -> None:
    ((ring,),) = mask_polygons(np.ones((2, 5), dtype=bool))
    assert turned(ring) == [(0, 0), (5, 0), (5, 2), (0, 2)]


def test_a_hole_turns_the_other_way() -> None:
    mask = np.ones((3, 3), dtype=bool)
    mask[1, 1] = False
    ((outer, hole),) = mask_polygons(mask)
    assert turned(outer) == [(0, 0), (3, 0), (3, 3), (0, 3)]
    assert turned(hole) == [(1, 1), (1, 2), (2, 2), (2, 1)]
    assert shoelace(outer) == 9
    assert shoelace(hole) == -1


@pytest.mark.parametrize("mask", [[[1, 0], [0, 1]], [[0, 1], [1, 0]]])
def test_pixels_that_touch_at_a_corner_are_two_polygons(mask: list[list[int]]) -> None:
    polygons = mask_polygons(np.array(mask, dtype=bool))
    assert [len(p) for p in polygons] == [1, 1]
    assert [shoelace(p[0]) for p in polygons] == [1, 1]


def test_a_ring_that_touches_itself_becomes_a_ring_and_a_hole() -> None:
    mask = np.array(
        [
            [1, 1, 1, 0],
            [1, 0, 1, 0],
            [1, 1, 0, 0],  # the hole at (1, 1) and the outside meet at the corner (2, 2)
            [0, 0, 0, 0],
        ],
        dtype=bool,
    )
    ((outer, hole),) = mask_polygons(mask)
    assert shoelace(outer) == 8
    assert shoelace(hole) == -1
    assert len(set(outer)) == len(outer)


def test_random_masks_come_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        mask = rng.random(rng.integers(1, 14, 2)) < rng.choice([0.3, 0.5, 0.7, 0.85])
        polygons = mask_polygons(mask)
        np.testing.assert_array_equal(filled(polygons, mask.shape), mask)  # 1 inside, 0 outside
        for outer, *holes in polygons:
            assert shoelace(outer) > 0
            assert all(shoelace(hole) < 0 for hole in holes)
            assert all(len(set(ring)) == len(ring) for ring in (outer, *holes))


def test_geojson_by_hand() -> None:
    labels = np.array([[-1, 1, 1], [0, 1, 1], [-1, -1, 0]], dtype=np.int32)
    result = Segmentation(labels, ("cat", "sofa"), np.full((3, 3), 0.25, np.float32))
    data = json.loads(json.dumps(to_geojson(result)))
    assert data["type"] == "FeatureCollection"
    assert data["image"] == {"width": 3, "height": 3}
    sofa, cat = data["features"]
    assert sofa["properties"] == {
        "label": 1,
        "name": "sofa",
        "score": 0.25,
        "area": 4,
        "share": 0.444444,
    }
    assert sofa["geometry"]["type"] == "Polygon"
    (ring,) = sofa["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert turned(ring[:-1]) == [[1, 0], [3, 0], [3, 2], [1, 2]]
    assert cat["geometry"]["type"] == "MultiPolygon"
    corners = [turned(p[0][:-1])[0] for p in cat["geometry"]["coordinates"]]
    assert corners == [[0, 1], [2, 2]]


def test_nothing_found() -> None:
    result = Segmentation(np.full((2, 2), -1, np.int32), ("cat",), np.zeros((2, 2), np.float32))
    assert to_geojson(result)["features"] == []
