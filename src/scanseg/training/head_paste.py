"""Copy-paste (Ghiasi et al., 2021, arXiv:2012.07177): single objects on other photos' windows.

Rare things occur on a handful of photos only; pasted elsewhere, at other sizes, they teach what
they look like rather than where they were seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from scanseg.training.head_dataset import StoredPhoto, TrainingView
from scanseg.training.head_labels import Layer, SoftLabels
from scanseg.training.head_segments import THINGS

LEAST_PIXELS = 1600
"""Smaller objects are not copied: too little is left of them."""
SIZES = (0.15, 0.55)
"""Square root of a pasted object's area, in units of the window."""
MOST_ENLARGED = 1.6


class Clippings:
    """The things that can be pasted, drawn by the rarity of their class.

    Args:
        photos: whose segments are taken.
    """

    def __init__(self, photos: Sequence[StoredPhoto]) -> None:
        self.of_class: dict[int, list[tuple[StoredPhoto, int]]] = {}
        for stored in photos:
            if stored.segments is None:
                continue
            areas = np.bincount(stored.segments.ids.ravel(), minlength=1)
            for segment, label in enumerate(stored.segments.labels):
                area = areas[segment + 1] if segment + 1 < len(areas) else 0
                if label < THINGS and area >= LEAST_PIXELS:
                    self.of_class.setdefault(label, []).append((stored, segment))
        self._cut: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        self.classes = sorted(self.of_class)
        self.frequencies = [len(self.of_class[label]) ** 0.3 for label in self.classes]

    def paste(self, view: TrainingView, rng: random.Random) -> TrainingView:
        """The view with one object more, unless there is none to paste."""
        if not self.classes:
            return view
        label = rng.choices(self.classes, self.frequencies)[0]
        stored, segment = rng.choice(self.of_class[label])
        key = (stored.photo.key, segment)
        if key not in self._cut:
            assert stored.segments is not None
            rows, columns, mask = stored.segments.boxed(segment)
            self._cut[key] = (stored.pixels[rows, columns], mask)
        return pasted(view, *self._cut[key], label, rng)


def pasted(
    view: TrainingView, pixels: np.ndarray, mask: np.ndarray, label: int, rng: random.Random
) -> TrainingView:
    """A view with an object on it, at a random size and place, mirrored or not.

    Args:
        view: is not changed.
        pixels: (h, w, 3) uint8 RGB, the object's box.
        mask: (h, w) bool, the object.
        label: its class in ``coco133``; in the cells that it covers all else that was said is void.
        rng: of all draws.
    """
    side = view.pixels.shape[-1]
    wanted = rng.uniform(*SIZES) * side / max(1.0, float(mask.sum()) ** 0.5)
    scale = min(wanted, MOST_ENLARGED, 0.95 * side / max(mask.shape))
    height, width = (max(8, round(scale * n)) for n in mask.shape)
    top = rng.randint(-height // 4, side - height + height // 4)
    left = rng.randint(-width // 4, side - width + width // 4)
    size = (width, height)
    thing = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    cover = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    alpha = np.asarray(cover, np.float32) / 255
    if rng.random() < 0.5:
        thing, alpha = thing[:, ::-1], alpha[:, ::-1]
    y0, x0, y1, x1 = max(0, top), max(0, left), min(side, top + height), min(side, left + width)
    inner = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    part = torch.from_numpy(np.ascontiguousarray(thing[inner]).astype(np.float32)).permute(2, 0, 1)
    share = torch.from_numpy(np.ascontiguousarray(alpha[inner]))
    photo = view.pixels.clone()
    below = photo[:, y0:y1, x0:x1].float()
    photo[:, y0:y1, x0:x1] = (share * part + (1 - share) * below).round().to(torch.uint8)
    covered = np.zeros((side, side), bool)
    covered[y0:y1, x0:x1] = alpha[inner] >= 0.5
    cells = covered[4::8, 4::8]
    layers = [_covered(layer, cells, label) for layer in view.layers]
    if all(layer.vocabulary != "coco133" for layer in layers):
        said = SoftLabels(np.where(cells, label, 0)[None].astype(np.uint8), cells[None] * 1.0)
        layers.append(Layer("coco133", said, 1.0))
    segments, names = view.segments, view.segment_labels
    if segments is not None:
        names = (*names, label)
        segments = np.where(covered[2::4, 2::4], len(names), segments).astype(np.uint16)
    return replace(
        view,
        pixels=photo,
        layers=layers,
        rest=view.rest & ~cells,
        own=view.shows_itself & ~cells,
        hints={
            name: replace(hint, place=np.where(cells, -1, hint.place))
            for name, hint in view.hints.items()
        },
        segments=segments,
        segment_labels=names,
    )


def _covered(layer: Layer, cells: np.ndarray, label: int) -> Layer:
    """A layer of the view below, with nothing, or the object, in the cells that it covers."""
    ids, shares = layer.labels.ids.copy(), np.where(cells, 0, layer.labels.shares)
    if layer.vocabulary == "coco133":
        ids[0][cells], shares[0][cells] = label, 1.0
    return Layer(layer.vocabulary, SoftLabels(ids, shares.astype(np.float32)), layer.weight)
