"""A segmentation as plain values: a JSON record with COCO run-length masks.

COCO's compressed run-length encoding is computed here in NumPy, so that results can be written
without ``pycocotools``; the strings are equal to those of ``pycocotools.mask.encode``.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scanseg.contracts import UNKNOWN, InputError, Segmentation

MAX_MASK_PIXELS = 120_000_000
"""Largest mask that is decoded; as large as the largest photo."""

_GROUPS = 12  # of 5 bits, the most that a run length has
_DIGITS = 6  # of confidences and shares, so that records do not differ in the last bit


@dataclass(frozen=True)
class _Part:
    label: int
    name: str
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    counts: np.ndarray


def to_record(segmentation: Segmentation, *, name: str = "") -> dict[str, Any]:
    """Plain values for JSON.

    Args:
        segmentation: the map.
        name: of the photo, kept under ``image``.

    Returns:
        ``image`` (width, height, name), ``labels`` (the vocabulary in the caller's order),
        ``settings``, ``notes``, ``unknown_share`` in [0, 1] and ``segments``, the largest first:
        label (index into ``labels``), name, score (mean confidence), area in pixels, share of the
        photo, bbox (x, y, width, height) and ``segmentation`` (COCO RLE, compressed).
    """
    height, width = segmentation.labels.shape
    total = height * width
    parts = _parts(segmentation)
    return {
        "image": {"width": width, "height": height, "name": name},
        "labels": list(segmentation.names),
        "settings": dict(segmentation.settings),
        "notes": list(segmentation.notes),
        "unknown_share": round(1 - sum(p.area for p in parts) / total, _DIGITS),
        "segments": [
            {
                "label": p.label,
                "name": p.name,
                "score": round(p.score, _DIGITS),
                "area": p.area,
                "share": round(p.area / total, _DIGITS),
                "bbox": list(p.bbox),
                "segmentation": {"size": [height, width], "counts": _compress(p.counts)},
            }
            for p in parts
        ],
    }


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length encoding of an (H, W) bool mask, ``counts`` as a string."""
    height, width = mask.shape
    values, starts, lengths = _column_runs(np.asarray(mask, dtype=bool))
    inside = values.astype(bool)
    counts = _counts(starts[inside], lengths[inside], height * width)
    return {"size": [height, width], "counts": _compress(counts)}


def encode_crop_rle(
    crop: np.ndarray, origin: tuple[int, int], size: tuple[int, int]
) -> dict[str, Any]:
    """As ``encode_rle`` for a mask that is all within a box, without the rest of the photo.

    Args:
        crop: (h, w) bool mask within the box.
        origin: (x, y) of the box.
        size: (H, W) of the photo.
    """
    (x, y), (height, width) = origin, size
    values, starts, lengths = _column_runs(np.pad(crop, ((0, 1), (0, 0))))
    inside = values.astype(bool)  # with a row of False below, no run goes round a corner
    column, row = np.divmod(starts[inside], crop.shape[0] + 1)
    start = (x + column) * height + y + row
    end = start + lengths[inside]
    joined = start[1:] == end[:-1]  # columns that are full from top to bottom
    start, end = start[np.append(True, ~joined)], end[np.append(~joined, True)]
    counts = _counts(start, end - start, height * width)
    return {"size": [height, width], "counts": _compress(counts)}


def rle_runs(rle: dict[str, Any]) -> list[tuple[int, int]]:
    """(start, end) of each run inside a mask, counting down the columns."""
    _, _, counts = _checked_counts(rle)
    edges = np.cumsum(counts)
    ends = edges[1::2].tolist()
    return list(zip(edges[: 2 * len(ends) : 2].tolist(), ends, strict=True))


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """The (H, W) bool mask of a COCO run-length encoding (string, bytes or a list of counts).

    Raises:
        InputError: not an encoding, more than 120 million pixels, or the counts do not fill the
            size.
    """
    height, width, counts = _checked_counts(rle)
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(width, height).T


def _checked_counts(rle: dict[str, Any]) -> tuple[int, int, np.ndarray]:
    """Height, width and run lengths, which fill them."""
    try:
        height, width = map(operator.index, rle["size"])
        counts = rle["counts"]
        if isinstance(counts, str | bytes):
            counts = _decompress(counts.encode("ascii") if isinstance(counts, str) else counts)
        counts = np.array(list(map(operator.index, counts)), dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"not a run-length encoding with size and counts ({error})") from error
    total = height * width
    if height < 0 or width < 0 or total > MAX_MASK_PIXELS:
        raise InputError(f"a mask of {height} x {width} pixels; at most {MAX_MASK_PIXELS} are read")
    if ((counts < 0) | (counts > total)).any() or int(counts.sum()) != total:
        raise InputError(f"run lengths of a mask must add up to {height} x {width} pixels")
    return height, width, counts


def _parts(segmentation: Segmentation) -> list[_Part]:
    """What ``Segmentation.segments`` holds, with run lengths instead of masks.

    One pass over the map for all labels, so that large photos with many labels need little memory.
    """
    labels = segmentation.labels
    height, width = labels.shape
    values, starts, lengths = _column_runs(labels)
    sums = np.bincount(  # index 0 is unknown
        labels.ravel() + 1,
        weights=segmentation.confidence.ravel(),
        minlength=len(segmentation.names) + 1,
    )
    order = np.argsort(values, kind="stable")
    found, first = np.unique(values[order], return_index=True)
    parts = []
    for label, runs in zip(found, np.split(order, first[1:]), strict=True):
        if label == UNKNOWN:
            continue
        start, length = starts[runs], lengths[runs]
        end = start + length - 1
        area = int(length.sum())
        left, right = int(start[0] // height), int(end[-1] // height)
        whole = bool((start // height != end // height).any())  # a run that goes round the corner
        top = 0 if whole else int((start % height).min())
        bottom = height - 1 if whole else int((end % height).max())
        parts.append(
            _Part(
                label=int(label),
                name=segmentation.names[label],
                score=min(1.0, float(sums[label + 1] / area)),
                area=area,
                bbox=(left, top, right - left + 1, bottom - top + 1),
                counts=_counts(start, length, height * width),
            )
        )
    return sorted(parts, key=lambda p: (-p.area, p.label))


def _column_runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of equal values of an (H, W) array read column by column: values, starts, lengths."""
    flat = values.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    return flat[starts], starts, lengths


def _counts(starts: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
    """Run lengths of outside and inside by turns, beginning outside, as COCO has them."""
    edges = np.stack([starts, starts + lengths], axis=1).ravel()
    counts = np.diff(edges, prepend=0)
    rest = size - (int(edges[-1]) if edges.size else 0)
    return np.append(counts, rest) if rest or not edges.size else counts


def _compress(counts: np.ndarray) -> str:
    """COCO's text form of run lengths.

    From the fourth on a count is written as its difference from the count two before. A number is
    cut into groups of 5 bits, low ones first; bit 6 says that more follow, the highest group
    carries the sign, and 48 is added to stay within printable ASCII.
    """
    rest = counts.astype(np.int64).copy()
    rest[3:] -= counts[1:-2]
    characters, used = [], []
    open_ = np.ones(len(rest), dtype=bool)
    while open_.any():
        group = rest & 31
        rest = rest >> 5
        more = np.where(group & 16, rest != -1, rest != 0)
        characters.append(group + 32 * more + 48)
        used.append(open_)
        open_ = open_ & more
    return np.stack(characters, 1)[np.stack(used, 1)].astype(np.uint8).tobytes().decode("ascii")


def _decompress(text: bytes) -> list[int]:
    counts: list[int] = []
    number, shift = 0, 0
    for character in text:
        group = character - 48
        number |= (group & 31) << shift
        shift += 5
        if shift > 5 * _GROUPS:
            raise ValueError("a run length of more than 60 bits")
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        if len(counts) > 2:
            number += counts[-2]
        counts.append(number)
        number, shift = 0, 0
    return counts
