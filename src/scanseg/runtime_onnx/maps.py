"""Canvas before the graph, label map after it: ``fusion.label_map`` without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

EPSILON = 1e-8


@dataclass(frozen=True)
class Canvas:
    """A photo as a graph of fixed size takes it.

    Attributes:
        pixels: (h, w, 3) uint8; the photo lies in the upper left corner.
        rows: that the photo takes; the rest is filled.
        columns: the same across.
    """

    pixels: np.ndarray
    rows: int
    columns: int


def fit(photo: np.ndarray, size: tuple[int, int], fill: tuple[int, int, int]) -> Canvas:
    """Scale a photo to fit, aspect kept (bilinear, as the recipes do), and fill the rest.

    Args:
        photo: (H, W, 3) uint8.
        size: (h, w) of the canvas.
        fill: (R, G, B); the mean colour of the encoder, which its normalisation makes zero.
    """
    H, W = photo.shape[:2]
    scale = min(size[0] / H, size[1] / W)
    rows = min(size[0], max(1, int(H * scale + 0.5)))
    columns = min(size[1], max(1, int(W * scale + 0.5)))
    if (rows, columns) != (H, W):
        image = Image.fromarray(photo).resize((columns, rows), Image.Resampling.BILINEAR)
        photo = np.asarray(image)
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = fill
    pixels[:rows, :columns] = photo
    return Canvas(pixels, rows, columns)


def label_map(
    scores: np.ndarray,
    masks: np.ndarray,
    size: tuple[int, int],
    *,
    keep_scores: bool = False,
    budget: int = 64 << 20,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """``map = sum_q scores[q, k] * masks[q]`` at the photo's size, arg max (step 13).

    Args:
        scores: (Q, K').
        masks: (Q, h, w) in [0, 1].
        size: (H, W) of the photo; bilinear, half-pixel centres.
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
        maps = (scores[:, start : start + chunk].T @ flat).reshape(-1, h, w)
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
