"""Proposals between two graphs, in NumPy: superpixels, and a decoder's masks beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from scanseg.proposals.region_merging import RegionMerging
from scanseg.runtime_onnx.maps import bilinear


@dataclass(frozen=True)
class DescribedRegions:
    """Proposals of a photo.

    Attributes:
        masks: (Q, h, w) float32 in [0, 1].
        picked: (Q, h, w) bool, over the threshold.
        embeddings: (Q, D) float32.
        pooled: (Q, V) float32, mean of the encoder's last layer under each picked mask.
        objectness: (Q,) float32.
    """

    masks: np.ndarray
    picked: np.ndarray
    embeddings: np.ndarray
    pooled: np.ndarray
    objectness: np.ndarray


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-values.clip(-80, 80))))


class MergedRegions:
    """What the torch path does with superpixels and region features, on arrays.

    Args:
        described: the entry ``merging`` of export.json.

    Attributes:
        stride: of the dense map, in pixels of the photo.
        dense_weight: what its cells count in the map; 0: masks alone speak.
    """

    def __init__(self, described: Mapping[str, Any]) -> None:
        values = dict(described)
        self.stride, self._last_stride = values.pop("stride"), values.pop("last_stride")
        self.dense_weight = values.pop("dense_weight", 0.0)
        self._mask_stride = values.pop("mask_stride", 0)
        self._objectness = values.pop("objectness", 1.0)
        self._threshold = values.pop("mask_threshold", 0.0)
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
        return self._merging(rgb, dense, size, self.stride)

    def __call__(
        self,
        pixels: np.ndarray,
        dense: np.ndarray,
        last: np.ndarray,
        mask_logits: np.ndarray | None = None,
        objectness: np.ndarray | None = None,
    ) -> DescribedRegions:
        """Proposals of a photo, (h, w, 3) uint8, from the first graph's answers.

        Args:
            pixels: the photo.
            dense: (D, g_y, g_x).
            last: (V, rows, columns).
            mask_logits: (Q, y, x) of a mask decoder, which come first; ``None`` without one.
            objectness: (Q,) of its queries.
        """
        inside, embeddings = self.propose(pixels, dense)
        masks = inside.astype(np.float32)
        sure = np.full(len(masks), self._objectness, np.float32)
        if mask_logits is not None and objectness is not None:
            decoded = self._full_size(mask_logits, (pixels.shape[0], pixels.shape[1]))
            masks = np.concatenate([decoded, masks])
            embeddings = np.concatenate([self._described(mask_logits, dense), embeddings])
            sure = np.concatenate([objectness, sure])
        picked = masks > self._threshold
        return DescribedRegions(masks, picked, embeddings, self.pool(picked, last), sure)

    def _full_size(self, logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(Q, y, x) logits of the canvas -> (Q, h, w) probabilities of the photo."""
        rows, columns = (n * self._mask_stride for n in logits.shape[1:])
        full = bilinear(bilinear(logits, rows, axis=1), columns, axis=2)
        return _sigmoid(full[:, : size[0], : size[1]])

    def _described(self, logits: np.ndarray, dense: np.ndarray) -> np.ndarray:
        """Mean dense embedding under each mask, (Q, D), unit norm: ``pooled_embeddings``."""
        step = self.stride // self._mask_stride
        rows, columns = dense.shape[1:]
        cells = _sigmoid(logits).reshape(len(logits), rows, step, columns, step).mean((2, 4))
        weights = cells.reshape(len(logits), -1)
        weights /= np.maximum(weights.sum(1, keepdims=True), 1e-6)
        means = weights @ dense.reshape(len(dense), -1).T
        return np.asarray(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12))

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
