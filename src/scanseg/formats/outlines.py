"""Masks as single closed lines, for formats whose polygons cannot have holes.

``polygons`` gives rings along the edges of pixels, holes apart. COCO, YOLO, CVAT and Label Studio
know one line per polygon, so here each hole is joined to the line around it by a cut: two sides
that run straight up through the mask, one on top of the other, and enclose nothing
(``docs/decisions/0096``).
"""

from __future__ import annotations

import numpy as np

from scanseg.formats.polygons import Ring, mask_polygons

Line = list[tuple[float, float]]
"""Corners (x, y) of a closed line; the first is not repeated at the end."""


def mask_outlines(mask: np.ndarray, *, inset: tuple[float, float] = (0.0, 0.0)) -> list[Line]:
    """One closed line for each 4-connected part of an (H, W) bool mask, its holes cut open.

    Args:
        mask: the mask.
        inset: how far a side moves into the mask, in pixels, (left and top sides, right and bottom
            sides). With (0, 0) lines run along the edges of pixels; with (0.25, 0.75) a corner,
            rounded or cut to an integer, is the *pixel* at that corner, which programs that draw
            polygons with OpenCV (``cv2.fillPoly``) need in order to fill the mask exactly.

    Returns:
        Lines of points (x, y), x to the right and y down, (0, 0) the outer corner of the top left
        pixel. Filled by the even-odd or the non-zero rule each gives its part back.
    """
    return [_one_line(polygon, mask, inset) for polygon in mask_polygons(mask)]


def _one_line(polygon: list[Ring], mask: np.ndarray, inset: tuple[float, float]) -> Line:
    """A polygon's outer ring with a detour through each of its holes.

    A cut runs up from the upper left corner of a hole to the first side above it. That side belongs
    to the outer ring or to a hole that begins higher up, so the lowest hole is joined first.
    """
    near, far = inset
    outer, *holes = polygon
    holes = sorted((_from_upper_left(hole) for hole in holes), key=lambda h: (h[0][1], h[0][0]))
    rings = [outer, *holes]
    sides = _upper_sides(rings)
    detours: dict[tuple[int, int], list[tuple[int, Line]]] = {}  # side -> (x, points)
    for number in range(len(rings) - 1, -1, -1):
        line: Line = []
        for corner, corner_points in enumerate(_moved(rings[number], mask, inset)):
            line += corner_points
            for _, points in sorted(detours.get((number, corner), [])):
                line += points
        if number:
            x, y = rings[number][0]
            top = y - 1
            while top and mask[top - 1, x]:
                top -= 1
            above, below = (x + near, top + near), (x + near, y - far)
            cut = [above, below, *line, below, above]
            detours.setdefault(sides[x, top], []).append((x, cut))
    return line


def _from_upper_left(hole: Ring) -> Ring:
    """The ring from its upper left corner on; the side that leads there has the mask above it."""
    at = min(range(len(hole)), key=lambda i: (hole[i][1], hole[i][0]))
    return [*hole[at:], *hole[:at]]


def _upper_sides(rings: list[Ring]) -> dict[tuple[int, int], tuple[int, int]]:
    """Pixel (x, y) of the mask at whose upper edge it ends -> (ring, corner before that side)."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for number, ring in enumerate(rings):
        for corner, ((ax, ay), (bx, by)) in enumerate(zip(ring, ring[1:] + ring[:1], strict=True)):
            if ay == by and bx > ax:  # eastwards: the mask lies below
                found.update(((x, ay), (number, corner)) for x in range(ax, bx))
    return found


def _moved(ring: Ring, mask: np.ndarray, inset: tuple[float, float]) -> list[Line]:
    """The points of each corner after the sides moved into the mask, on their right hand (y down).

    One point, or two where the moved sides would meet outside: where two pixels of the mask touch
    only diagonally, the line goes straight from one to the other.
    """
    near, far = inset
    if not near and not far:
        return [[(float(x), float(y))] for x, y in ring]
    corners = []
    for i, (x, y) in enumerate(ring):
        (px, py), (nx, ny) = ring[i - 1], ring[(i + 1) % len(ring)]
        east, south = x - px or nx - x, y - py or ny - y  # of the two sides that meet here
        moved = (x - far if south > 0 else x + near, y + near if east > 0 else y - far)
        if mask[int(moved[1]), int(moved[0])]:
            corners.append([moved])
            continue
        beside = (x - far if (east > 0) == (y == py) else x + near, moved[1])
        under = (moved[0], y - far if (south > 0) == (x == px) else y + near)
        corners.append([beside, under] if y == py else [under, beside])
    return corners
