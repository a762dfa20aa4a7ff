"""Canvas before the graph, label map after it: ``fusion.label_map`` without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

EPSILON = 1e-8


@dataclass(frozen=True)
class DenseEvidence:
    """What the cells of a grid over a photo add to its map; ``fusion.DenseEvidence`` on arrays.

    Attributes:
        scores: (K', g_y, g_x).
        stride: side of a cell, pixels of the masks.
    """

    scores: np.ndarray
    stride: int

    def maps(self, chosen: slice, size: tuple[int, int]) -> np.ndarray:
        """(k, h, w) of some labels: each cell is a bilinear tent around its centre."""
        some = self.scores[chosen]
        rows, columns = some.shape[1] * self.stride, some.shape[2] * self.stride
        full = bilinear(bilinear(some, rows, axis=1), columns, axis=2)
        return full[:, : size[0], : size[1]]


@dataclass(frozen=True)
class Canvas:
    """A photo as a graph takes it.

    Attributes:
        photo: (rows, columns, 3) uint8, the resized photo.
        pixels: (1, 3, h, w) float32, RGB in 0..255: the photo in the upper left corner, the rest
            filled.
    """

    photo: np.ndarray
    pixels: np.ndarray

    @property
    def part(self) -> tuple[slice, slice]:
        """Where the photo lies in maps of the canvas."""
        return slice(self.photo.shape[0]), slice(self.photo.shape[1])


def place(photo: np.ndarray, size: tuple[int, int], fill: tuple[float, float, float]) -> Canvas:
    """Put a resized photo on a canvas.

    Args:
        photo: (rows, columns, 3) uint8, no larger than the canvas.
        size: (h, w) of the canvas.
        fill: (R, G, B); the mean colour of the encoder, which its normalisation makes zero.
    """
    pixels = np.empty((1, 3, *size), np.float32)
    pixels[:] = np.array(fill, np.float32)[:, None, None]
    pixels[0, :, : photo.shape[0], : photo.shape[1]] = photo.transpose(2, 0, 1)
    return Canvas(photo, pixels)


def scaled_to_fit(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a photo to touch the borders of (h, w), aspect kept (bilinear, as the recipes do)."""
    H, W = photo.shape[:2]
    scale = min(size[0] / H, size[1] / W)
    rows = min(size[0], max(1, int(H * scale + 0.5)))
    columns = min(size[1], max(1, int(W * scale + 0.5)))
    if (rows, columns) == (H, W):
        return photo
    image = Image.fromarray(photo).resize((columns, rows), Image.Resampling.BILINEAR)
    return np.asarray(image)


def label_map(
    scores: np.ndarray,
    masks: np.ndarray,
    size: tuple[int, int],
    *,
    dense: DenseEvidence | None = None,
    keep_scores: bool = False,
    budget: int = 64 << 20,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """``map = sum_q scores[q, k] * masks[q]`` at the photo's size, arg max (step 13).

    Args:
        scores: (Q, K').
        masks: (Q, h, w) in [0, 1].
        size: (H, W) of the photo; bilinear, half-pixel centres.
        dense: scores of the cells of a dense map, or ``None``.
        keep_scores: return the maps too.
        budget: bytes that one chunk of maps may take; does not change results.

    Returns:
        labels (H, W) int64; confidence (H, W) float32 in [0, 1], the winner's share of the
        evidence; the evidence (K', H, W), or ``None``.
    """
    rows, columns = size
    _, h, w = masks.shape
    flat = masks.reshape(len(masks), -1)
    chunk = max(1, budget // (4 * max(h * w, rows * columns)))
    best = np.full(size, -np.inf, np.float32)
    winner = np.zeros(size, np.int64)
    total = np.zeros(size, np.float32)
    kept = []
    for start in range(0, scores.shape[1], chunk):
        part = slice(start, start + chunk)
        maps = (scores[:, part].T @ flat).reshape(-1, h, w)
        if dense is not None:
            maps += dense.maps(part, (h, w))
        if (h, w) != size:
            maps = bilinear(bilinear(maps, rows, axis=1), columns, axis=2)
        index = maps.argmax(0)
        value = np.take_along_axis(maps, index[None], 0)[0]
        better = value > best
        winner = np.where(better, index + start, winner)
        best = np.where(better, value, best)
        total += maps.sum(0)
        if keep_scores:
            kept.append(maps)
    confidence = np.clip(best / np.maximum(total, EPSILON), 0, 1)
    return winner, confidence, np.concatenate(kept) if keep_scores else None


def bilinear(values: np.ndarray, length: int, *, axis: int) -> np.ndarray:
    """Resize one axis by linear interpolation, half-pixel centres, borders repeated."""
    old = values.shape[axis]
    if old == length:
        return values
    place = (np.arange(length, dtype=np.float32) + np.float32(0.5)) * np.float32(old / length)
    place = np.maximum(place - np.float32(0.5), 0)
    low = np.minimum(place.astype(np.int64), old - 1)
    share = (place - low).astype(np.float32)
    share = share.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    near = np.take(values, low, axis)
    far = np.take(values, np.minimum(low + 1, old - 1), axis)
    return near * (1 - share) + far * share
