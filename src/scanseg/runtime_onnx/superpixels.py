"""Superpixel proposals between two graphs, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from scanseg.proposals.region_merging import RegionMerging


class MergedRegions:
    """What the torch path does with superpixels and region features, on arrays.

    Args:
        described: the entry ``merging`` of export.json.
    """

    def __init__(self, described: Mapping[str, Any]) -> None:
        values = dict(described)
        self._stride, self._last_stride = values.pop("stride"), values.pop("last_stride")
        self._merging = RegionMerging(**{**values, "cuts": tuple(values["cuts"])})

    def propose(self, pixels: np.ndarray, dense: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(h, w, 3) uint8 and (D, g_y, g_x) -> masks (Q, h, w) bool, embeddings (Q, D)."""
        size = pixels.shape[0], pixels.shape[1]
        rows, columns = self._merging.work_size(*size)
        channels = [
            Image.fromarray(pixels[..., c].astype(np.float32)).resize(
                (columns, rows), Image.Resampling.BILINEAR
            )
            for c in range(3)
        ]
        rgb = np.clip(np.stack([np.asarray(c) for c in channels], -1), 0, 255) / np.float32(255)
        return self._merging(rgb, dense, size, self._stride)

    def pool(self, masks: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Mean of the last layer (V, rows, columns) under each mask (Q, h, w): (Q, V).

        A cell counts by the share of its pixels that the mask covers.
        """
        stride, (rows, columns) = self._last_stride, last.shape[1:]
        whole = np.zeros((len(masks), rows * stride, columns * stride), np.float32)
        whole[:, : masks.shape[1], : masks.shape[2]] = masks
        cells = whole.reshape(len(masks), rows, stride, columns, stride).mean((2, 4))
        weights = cells.reshape(len(masks), -1)
        weights /= np.maximum(weights.sum(1, keepdims=True), 1e-6)
        return weights @ last.reshape(len(last), -1).T
