"""A segmentation as GeoJSON polygons whose sides run exactly along the edges of pixels.

Nothing is smoothed: neighbours share their borders, and a polygon filled by the rule "a pixel
belongs to it if its centre does" gives the mask back. Why: ``docs/decisions/0053``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import ndimage

from scanseg.contracts import Segment, Segmentation

Ring = list[tuple[int, int]]
"""Corners (x, y) of a closed line in pixel coordinates; the first is not repeated at the end."""


# A grid point by the pixels around it: 1 north-west, 2 north-east, 4 south-west, 8 south-east.
_FALLING, _RISING = 1 | 8, 2 | 4  # two pixels that meet like \ and like /
_IS_CORNER = np.array(
    [code.bit_count() % 2 == 1 or code in (_FALLING, _RISING) for code in range(16)]
)


def to_geojson(
    segmentation: Segmentation, segments: Iterable[Segment] | None = None
) -> dict[str, Any]:
    """A FeatureCollection with one feature per label found, the largest first.

    Coordinates are pixels of the photo: x to the right, y down, (0, 0) is the outer corner of the
    top left pixel and (W, H) that of the bottom right one. Rings are closed; going by the numbers,
    outer rings have positive area and holes negative, as RFC 7946 asks. Properties: ``label``,
    ``name``, ``score``, ``area`` (pixels), ``share`` (of the photo).

    Args:
        segmentation: the map.
        segments: what becomes a feature each, such as ``segmentation.instances()``.
    """
    return feature_collection(
        segmentation.segments if segments is None else segments, segmentation.labels.shape
    )


def feature_collection(segments: Iterable[Segment], size: tuple[int, ...]) -> dict[str, Any]:
    """The FeatureCollection of segments of a photo of ``size`` (H, W)."""
    height, width = size
    features = []
    for segment in segments:
        x, y, w, h = segment.bbox
        polygons = mask_polygons(segment.mask[y : y + h, x : x + w])
        closed = [
            [[[cx + x, cy + y] for cx, cy in [*ring, ring[0]]] for ring in polygon]
            for polygon in polygons
        ]
        features.append(
            {
                "type": "Feature",
                "properties": {
                    "label": segment.label,
                    "name": segment.name,
                    "score": round(segment.score, 6),
                    "area": segment.area,
                    "share": round(segment.area / (height * width), 6),
                },
                "geometry": {"type": "Polygon", "coordinates": closed[0]}
                if len(closed) == 1
                else {"type": "MultiPolygon", "coordinates": closed},
            }
        )
    return {
        "type": "FeatureCollection",
        "image": {"width": width, "height": height},
        "features": features,
    }


def mask_polygons(mask: np.ndarray) -> list[list[Ring]]:
    """Polygons of an (H, W) bool mask: for each 4-connected part its outer ring, then its holes."""
    parts, count = ndimage.label(mask)
    outer: list[Ring] = [[] for _ in range(count)]
    holes: list[list[Ring]] = [[] for _ in range(count)]
    for ring, pixel in _rings(mask):
        part = int(parts[pixel]) - 1
        if _area(ring) > 0:
            outer[part] = ring
        else:
            holes[part].append(ring)
    return [[ring, *inside] for ring, inside in zip(outer, holes, strict=True)]


def _area(ring: Ring) -> int:
    """Twice the signed area of a ring; positive if x turns towards y."""
    (ax, ay), total = ring[-1], 0
    for bx, by in ring:
        total += ax * by - bx * ay
        ax, ay = bx, by
    return total


def _rings(mask: np.ndarray) -> list[tuple[Ring, tuple[int, int]]]:
    """Boundary rings of a mask, each with a pixel (row, column) of the mask that touches it.

    A corner is a grid point where the boundary turns. Along a grid line the corners pair up into
    the sides of the boundary, so a ring is found by following a horizontal side, a vertical side,
    and so on. Where two pixels of the mask meet only diagonally, the point counts as two corners,
    one of each pixel.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    code = padded[:-1, :-1] | padded[:-1, 1:] << 1 | padded[1:, :-1] << 2 | padded[1:, 1:] << 3
    ys, xs = np.nonzero(_IS_CORNER[code])
    rising = code[ys, xs] == _RISING
    twice = rising | (code[ys, xs] == _FALLING)
    own = np.cumsum(1 + twice) - (1 + twice)  # number of a point's first corner
    second = own[twice] + 1
    x, y = np.repeat(xs, 1 + twice), np.repeat(ys, 1 + twice)

    # Row by row the corners are in order already: first the one with the western side.
    across = np.arange(len(x)) ^ 1
    # Column by column: of a falling pair the western corner is the northern one, of a rising
    # pair the eastern.
    northern = np.zeros(len(x), dtype=np.int8)
    northern[second] = 1
    swap = own[rising]
    northern[swap], northern[swap + 1] = 1, 0
    order = np.lexsort((northern, y, x))
    along = np.empty(len(x), dtype=np.int64)
    along[order] = order[np.arange(len(x)) ^ 1]

    return _follow(x.tolist(), y.tolist(), across.tolist(), along.tolist(), mask)


def _follow(
    x: list[int], y: list[int], across: list[int], along: list[int], mask: np.ndarray
) -> list[tuple[Ring, tuple[int, int]]]:
    """Walk the sides into rings, each split where it comes back to a point of its own."""
    rings = []
    seen = bytearray(len(x))
    for start in range(len(x)):
        if seen[start]:
            continue
        # Walk so that the mask lies on the right hand (y down): eastwards below the side.
        corner, other = start, across[start]
        column = min(x[corner], x[other])
        row = y[corner]
        below = row < mask.shape[0] and bool(mask[row, column])
        pixel = (row if below else row - 1, column)
        if (x[other] > x[corner]) != below:
            corner = other
        walk: Ring = []
        while not seen[corner]:
            seen[corner] = 1
            walk.append((x[corner], y[corner]))
            corner = across[corner]
            seen[corner] = 1
            walk.append((x[corner], y[corner]))
            corner = along[corner]
        rings += [(ring, pixel) for ring in _split(walk)]
    return rings


def _split(walk: Ring) -> list[Ring]:
    """Cut a closed walk that touches itself into rings that do not."""
    if len(set(walk)) == len(walk):
        return [walk]
    rings: list[Ring] = []
    path: Ring = []
    place: dict[tuple[int, int], int] = {}
    for point in walk:
        if point in place:
            at = place[point]
            loop = path[at:]
            for old in loop:
                del place[old]
            del path[at:]
            rings.append(loop)
        place[point] = len(path)
        path.append(point)
    return [*rings, path]
