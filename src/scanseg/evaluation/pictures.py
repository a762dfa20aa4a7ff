"""Examples for a report: photo, ground truth, prediction, and where they differ."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from scanseg.contracts import UNKNOWN
from scanseg.evaluation.report_html import Example, Panel
from scanseg.evaluation.scoring import Counted
from scanseg.formats.palette import UNKNOWN_COLOUR, label_colours
from scanseg.metrics.iou import iou_scores

_LONG_SIDE = 420
_OPACITY = 0.6
_RIGHT, _WRONG, _VOID = (70, 150, 90), (205, 70, 60), (150, 150, 150)
_LEGEND = 24  # names shown of one example


def choose_examples(counted: Counted, count: int) -> list[tuple[str, float]]:
    """Images from the worst to the best, evenly spread, with their mean IoU in percent.

    Args:
        counted: counts per image.
        count: how many to choose.

    Returns:
        Key and mean IoU over the classes of the image's ground truth; images without any ground
        truth are never chosen. Ties go by key, so the choice is reproducible.
    """
    ranked = sorted(
        (100 * score, key)
        for key, pairs in zip(counted.keys, counted.images, strict=True)
        if not np.isnan(score := _image_score(pairs.cells, pairs.counts, pairs.num_classes))
    )
    if count < 1 or not ranked:
        return []
    places = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return [(ranked[i][1], ranked[i][0]) for i in places]


def example(
    key: str,
    miou: float,
    photo: np.ndarray | None,
    truth: np.ndarray,
    prediction: np.ndarray,
    names: Sequence[str],
) -> Example:
    """The pictures of one image.

    Args:
        key: its name.
        miou: mean IoU over its classes, percent.
        photo: (H, W, 3) uint8, or ``None`` where it is not at hand.
        truth: (H, W) class indices, -1 void.
        prediction: (H, W) class indices, -1 unknown.
        names: class names.
    """
    height, width = truth.shape
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colours = np.vstack([label_colours(len(names)), UNKNOWN_COLOUR]).astype(np.uint8)  # -1 is last
    small = None
    if photo is not None:
        small = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
    true, said = _shrink(truth, size), _shrink(prediction, size)
    verdict = np.where((true == said)[..., None], _RIGHT, _WRONG)
    verdict[true == UNKNOWN] = _VOID
    panels = [] if small is None else [Panel("photo", _address(small))]
    panels += [
        Panel("ground truth (dark grey: void)", _address(_blend(colours[true], small))),
        Panel("prediction (dark grey: unknown)", _address(_blend(colours[said], small))),
        Panel("green: right, red: wrong, grey: void", _address(_blend(verdict, small))),
    ]
    values, areas = np.unique(
        np.concatenate([truth.ravel(), prediction.ravel()]), return_counts=True
    )
    shown = sorted((v for v in zip(areas, values, strict=True) if v[1] >= 0), reverse=True)
    legend = tuple(
        (names[label], "#{:02x}{:02x}{:02x}".format(*colours[label]))
        for _, label in shown[:_LEGEND]
    )
    return Example(f"{key}: mIoU {miou:.1f} % over its classes", tuple(panels), legend)


def _image_score(cells: np.ndarray, counts: np.ndarray, num_classes: int) -> float:
    """Mean IoU over the classes of one image's truth, on the classes that occur in it."""
    rows, columns = cells // num_classes, cells % num_classes
    found = np.unique(np.concatenate([rows[rows < num_classes], columns]))
    small = np.zeros((len(found) + 1, len(found)), np.int64)
    position = np.full(num_classes + 1, len(found))
    position[found] = np.arange(len(found))
    small[position[rows], position[columns]] = counts
    return iou_scores(small).miou_present if len(found) else float("nan")


def _shrink(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(labels.astype(np.int32))
    return np.asarray(image.resize(size, Image.Resampling.NEAREST))


def _blend(colours: np.ndarray, photo: np.ndarray | None) -> np.ndarray:
    if photo is None:
        return colours.astype(np.uint8)
    mixed = _OPACITY * colours + (1 - _OPACITY) * photo.astype(np.float64)
    return mixed.round().astype(np.uint8)


def _address(pixels: np.ndarray) -> str:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
