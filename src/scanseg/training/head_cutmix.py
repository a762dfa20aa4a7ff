"""CutMix for dense labels (French et al., 2020, arXiv:1906.01916): a rectangle of one window shows
another photo, with all that is said about it.

Where photos are few, a network learns what surrounds a thing by heart; here the surroundings end.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from scanseg.training.head_dataset import Hint, TrainingView
from scanseg.training.head_labels import Layer, SoftLabels

CELL = 8
AREA = (0.2, 0.5)
"""Share of the window that the other photo gets."""
ASPECT = (0.5, 2.0)


def cutmix(view: TrainingView, other: TrainingView, rng: random.Random) -> TrainingView:
    """A view with a rectangle of another view of the same size in it.

    Args:
        view: is not changed.
        other: what the rectangle shows, at the same place.
        rng: draws the rectangle, which ends at cell borders.

    Returns:
        a new view; image-level labels stay with the cells of ``view``.
    """
    inside = rectangle(view.grid, rng)  # (rows, columns) bool
    shown = np.repeat(np.repeat(inside, CELL, 0), CELL, 1)
    pixels = view.pixels.clone()
    pixels[:, shown] = other.pixels[:, shown]
    layers = [_where(layer, ~inside) for layer in view.layers]
    layers += [_where(layer, inside) for layer in other.layers]
    alike = (view.vocabulary, view.exhaustive) == (other.vocabulary, other.exhaustive)
    return replace(
        view,
        pixels=pixels,
        layers=[layer for layer in layers if layer.labels.mass.any()],
        rest=np.where(inside, other.rest if alike else False, view.rest),
        segments=None,
        segment_labels=(),
        everything=False,
        own=view.shows_itself & ~inside,
        hints=_hints(view.hints, other.hints, inside),
    )


def rectangle(grid: tuple[int, int], rng: random.Random) -> np.ndarray:
    """A random rectangle of cells: (rows, columns) bool."""
    area, aspect = rng.uniform(*AREA), ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** rng.random()
    sides = ((area * aspect) ** 0.5, (area / aspect) ** 0.5)
    inside = np.zeros(grid, bool)
    starts, ends = [], []
    for length, share in zip(grid, sides, strict=True):
        wanted = min(length, max(1, round(share * length)))
        starts.append(rng.randint(0, length - wanted))
        ends.append(starts[-1] + wanted)
    inside[starts[0] : ends[0], starts[1] : ends[1]] = True
    return inside


def _where(layer: Layer, cells: np.ndarray) -> Layer:
    shares = np.where(cells, layer.labels.shares, 0).astype(np.float32)
    return Layer(layer.vocabulary, SoftLabels(layer.labels.ids, shares), layer.weight)


def _hints(
    own: Mapping[str, Hint], others: Mapping[str, Hint], inside: np.ndarray
) -> dict[str, Hint]:
    found = {}
    for name in sorted({*own, *others}):
        features: list[np.ndarray] = []
        place = np.full(inside.shape, -1)
        for hints, cells in ((own, ~inside), (others, inside)):
            if name in hints:
                before = sum(len(part) for part in features)
                there = cells & (hints[name].place >= 0)
                place = np.where(there, hints[name].place + before, place)
                features.append(hints[name].features)
        found[name] = Hint(np.concatenate(features), place)
    return found
