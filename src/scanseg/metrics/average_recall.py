"""Class-agnostic average recall of mask proposals, AR@Q (COCO's definition, without categories).

Proposals are taken in the order of their scores, at most Q an image. At an IoU threshold t, each
takes the best true mask that is still free and overlaps it by at least t. Recall is the share of
true masks taken; AR@Q is its mean over the thresholds 0.50, 0.55 ... 0.95.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scanseg.contracts import InputError
from scanseg.metrics.iou import ratio

COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


@dataclass(eq=False)
class ProposalRecall:
    """Running totals over images.

    Attributes:
        limits: the numbers Q of proposals to allow, increasing.
        thresholds: IoU thresholds in (0, 1].
        found: (len(limits), len(thresholds)) int64, true masks that were found.
        masks: true masks seen.
    """

    limits: Sequence[int] = (1, 10, 100)
    thresholds: Sequence[float] = COCO_THRESHOLDS
    found: np.ndarray = field(init=False)
    masks: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not self.limits or min(self.limits) < 1 or list(self.limits) != sorted(set(self.limits)):
            raise InputError(
                f"limits must be increasing numbers of proposals, not {list(self.limits)}"
            )
        if not self.thresholds or not all(0 < t <= 1 for t in self.thresholds):
            raise InputError("IoU thresholds must lie in (0, 1]")
        self.found = np.zeros((len(self.limits), len(self.thresholds)), np.int64)

    def update(
        self, proposals: np.ndarray, truth: np.ndarray, scores: np.ndarray | None = None
    ) -> None:
        """Count one image.

        Args:
            proposals: (Q, H, W) bool.
            truth: (G, H, W) bool, true masks; empty masks are not allowed.
            scores: (Q,), higher first; ``None`` if the proposals are in order already.

        Raises:
            InputError: shapes disagree or a true mask is empty.
        """
        order = slice(None) if scores is None else np.argsort(-np.asarray(scores), kind="stable")
        overlap = mask_iou(np.asarray(proposals)[order][: self.limits[-1]], truth)
        for row, limit in enumerate(self.limits):
            for column, threshold in enumerate(self.thresholds):
                self.found[row, column] += _taken(overlap[:limit], threshold)
        self.masks += overlap.shape[1]

    def merge(self, other: ProposalRecall) -> None:
        """Add the totals of another shard; exact.

        Raises:
            InputError: limits or thresholds differ.
        """
        if tuple(self.limits) != tuple(other.limits) or tuple(self.thresholds) != tuple(
            other.thresholds
        ):
            raise InputError("shards of proposal recall must have the same limits and thresholds")
        self.found += other.found
        self.masks += other.masks

    def recall(self) -> np.ndarray:
        """(len(limits), len(thresholds)) recall in [0, 1]; NaN before any true mask was seen."""
        return ratio(self.found, np.full(self.found.shape, self.masks))

    def average_recall(self) -> dict[int, float]:
        """Q -> AR@Q in [0, 1]."""
        return {
            limit: float(row.mean()) for limit, row in zip(self.limits, self.recall(), strict=True)
        }


def mask_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(Q, G) IoU of (Q, H, W) with (G, H, W) masks.

    Raises:
        InputError: not stacks of masks of one size, or a mask of ``second`` is empty.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:]:
        raise InputError(
            f"masks must be (Q, H, W) and (G, H, W) of one size, not {a.shape} and {b.shape}"
        )
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    areas_a, areas_b = flat_a.sum(1), flat_b.sum(1)
    if not areas_b.all():
        raise InputError("a true mask is empty: leave it out")
    # float32 sums of 0 and 1 are exact up to 2**24 pixels; larger masks are multiplied in float64.
    kind = np.float32 if flat_a.shape[1] < 1 << 24 else np.float64
    both = np.matmul(flat_a.astype(kind), flat_b.astype(kind).T).astype(np.float64)
    return both / (areas_a[:, None] + areas_b[None, :] - both)


def _taken(overlap: np.ndarray, threshold: float) -> int:
    """Greedy matching: how many columns (true masks) are taken by rows (proposals) in order."""
    free = np.ones(overlap.shape[1], bool)
    for row in overlap:
        if not free.any():
            break
        best = int(np.argmax(np.where(free, row, -1.0)))
        if row[best] >= threshold:
            free[best] = False
    return int((~free).sum())
