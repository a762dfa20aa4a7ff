"""A segmentation as ``supervision.Detections``, for its drawing, tracking and counting tools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from scanseg.contracts import MissingExtra, Segment, Segmentation


def to_detections(segmentation: Segmentation, segments: Iterable[Segment] | None = None) -> Any:
    """A ``supervision.Detections`` with one row per label found, the largest first.

    ``xyxy`` holds boxes in pixels (end exclusive), ``mask`` (n, H, W) bool, ``confidence`` mean
    confidences, ``class_id`` labels and ``data["class_name"]`` names.

    Args:
        segmentation: the map.
        segments: what becomes a row each, such as ``segmentation.instances()``.

    Raises:
        MissingExtra: supervision is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise MissingExtra("formats", "to_detections()") from None
    segments = list(segmentation.segments if segments is None else segments)
    if not segments:
        return supervision.Detections.empty()
    boxes = np.array([s.bbox for s in segments], dtype=np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return supervision.Detections(
        xyxy=boxes,
        mask=np.stack([s.mask for s in segments]),
        confidence=np.array([s.score for s in segments], dtype=np.float32),
        class_id=np.array([s.label for s in segments], dtype=int),
        data={"class_name": np.array([s.name for s in segments])},
    )
