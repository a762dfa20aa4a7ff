"""Panoptic quality (Kirillov et al., CVPR 2019) of segment maps.

A predicted and a true segment match if their classes agree and their IoU is over 0.5, which makes
the match unique. Per class::

    SQ = sum of matched IoU / TP      RQ = TP / (TP + FP / 2 + FN / 2)      PQ = SQ * RQ

As in the definition's reference evaluation, pixels whose truth is void are taken out of a predicted
segment's union, and an unmatched prediction that lies by more than half on void or on a crowd of
its class is not counted as false.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from scanseg.contracts import InputError
from scanseg.metrics.iou import mean_over, ratio

VOID = 0
"""Id in a segment map of a pixel that belongs to no segment."""


@dataclass(frozen=True, eq=False)
class PanopticScores:
    """Panoptic quality, fractions in [0, 1].

    Attributes:
        pq: (K,) NaN for classes without segments in truth and prediction.
        sq: (K,) mean IoU of the matches; 0 if segments exist but none match.
        rq: (K,) F1 of the matches.
        mean: group ("all", "things", "stuff") -> {"pq", "sq", "rq", "classes"}: means over the
            group's classes that occur.
    """

    pq: np.ndarray
    sq: np.ndarray
    rq: np.ndarray
    mean: Mapping[str, Mapping[str, float]]


@dataclass(eq=False)
class PanopticQuality:
    """Running totals over images.

    The IoU of every match is kept and added up exactly at the end, so shards merge bit for bit in
    any order.

    Attributes:
        num_classes: K.
        matches: per class, the IoU of its matches.
        false_positives: (K,) int64.
        false_negatives: (K,) int64.
    """

    num_classes: int
    matches: list[list[float]] = field(init=False)
    false_positives: np.ndarray = field(init=False)
    false_negatives: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.matches = [[] for _ in range(self.num_classes)]
        self.false_positives = np.zeros(self.num_classes, np.int64)
        self.false_negatives = np.zeros(self.num_classes, np.int64)

    def update(
        self,
        prediction: np.ndarray,
        predicted_class: Mapping[int, int],
        truth: np.ndarray,
        true_class: Mapping[int, int],
        crowds: Sequence[int] = (),
    ) -> None:
        """Match the segments of one image.

        Args:
            prediction: (H, W) segment ids, 0 is void.
            predicted_class: segment id -> class in [0, K), one entry per id in ``prediction``.
            truth: (H, W) true segment ids, 0 is void.
            true_class: segment id -> class in [0, K).
            crowds: true segments that stand for several objects: never matched, never missed.

        Raises:
            InputError: shapes differ, a segment has no class or no pixels, or a class is out of
                range.
        """
        if prediction.shape != truth.shape:
            raise InputError(
                f"prediction has shape {prediction.shape}, truth {truth.shape}: they must agree"
            )
        predicted_ids, predicted_index, predicted_area = _segments(
            prediction, predicted_class, self.num_classes, "prediction"
        )
        true_ids, true_index, true_area = _segments(truth, true_class, self.num_classes, "truth")
        # both[t][p]: pixels of true segment t and predicted segment p; position 0 is void.
        both = np.bincount(
            true_index * len(predicted_ids) + predicted_index,
            minlength=len(true_ids) * len(predicted_ids),
        ).reshape(len(true_ids), len(predicted_ids))
        crowd = {segment for segment in crowds if segment in true_class}
        matched_true, matched_predicted = {0}, {0}
        for t, p in zip(*np.nonzero(both), strict=True):
            if t == 0 or p == 0 or true_ids[t] in crowd:
                continue
            label = true_class[true_ids[t]]
            if label != predicted_class[predicted_ids[p]]:
                continue
            union = true_area[t] + predicted_area[p] - both[t, p] - both[0, p]
            iou = both[t, p] / union
            if iou > 0.5:
                self.matches[label].append(float(iou))
                matched_true.add(t)
                matched_predicted.add(p)
        for t, segment in enumerate(true_ids):
            if t not in matched_true and segment not in crowd:
                self.false_negatives[true_class[segment]] += 1
        for p, segment in enumerate(predicted_ids):
            if p in matched_predicted:
                continue
            label = predicted_class[segment]
            excused = both[0, p] + sum(
                both[t, p]
                for t, true in enumerate(true_ids)
                if true in crowd and true_class[true] == label
            )
            if excused / predicted_area[p] <= 0.5:
                self.false_positives[label] += 1

    def merge(self, other: PanopticQuality) -> None:
        """Add the totals of another shard; exact.

        Raises:
            InputError: the shards have different numbers of classes.
        """
        if other.num_classes != self.num_classes:
            raise InputError(
                f"cannot merge totals of {self.num_classes} and {other.num_classes} classes"
            )
        for mine, theirs in zip(self.matches, other.matches, strict=True):
            mine.extend(theirs)
        self.false_positives += other.false_positives
        self.false_negatives += other.false_negatives

    def scores(self, things: Sequence[int] = ()) -> PanopticScores:
        """PQ, SQ and RQ.

        Args:
            things: classes whose segments are countable objects; the others are stuff.
        """
        hits = np.array([len(found) for found in self.matches], np.int64)
        iou_sum = np.array([math.fsum(found) for found in self.matches])
        total = hits + self.false_positives / 2 + self.false_negatives / 2
        pq, rq = ratio(iou_sum, total), ratio(hits, total)
        sq = np.where(total > 0, np.nan_to_num(ratio(iou_sum, hits)), np.nan)
        is_thing = np.zeros(self.num_classes, bool)
        is_thing[list(things)] = True
        groups = {"all": np.ones_like(is_thing), "things": is_thing, "stuff": ~is_thing}
        mean = {}
        for name, group in groups.items():
            chosen = group & (total > 0)
            mean[name] = {
                key: mean_over(v, chosen) for key, v in (("pq", pq), ("sq", sq), ("rq", rq))
            }
            mean[name]["classes"] = int(chosen.sum())
        return PanopticScores(pq, sq, rq, mean)


def _segments(
    ids: np.ndarray, classes: Mapping[int, int], num_classes: int, what: str
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Segment ids with void first, each pixel's position in that list, and areas."""
    found, index, area = np.unique(ids, return_inverse=True, return_counts=True)
    if found.size and found[0] < 0:
        raise InputError(f"segment ids of the {what} map must not be negative")
    for segment in found:
        if segment != VOID and int(segment) not in classes:
            raise InputError(
                f"segment {segment} of the {what} map has no entry in its list of segments"
            )
    missing = set(classes) - set(found.tolist())
    if missing:
        raise InputError(f"segment {min(missing)} of the {what}'s list has no pixels in its map")
    wrong = next((c for c in classes.values() if not 0 <= c < num_classes), None)
    if wrong is not None:
        raise InputError(f"class {wrong} of a {what} segment is not one of 0..{num_classes - 1}")
    if VOID not in found:
        found, area = np.insert(found, 0, VOID), np.insert(area, 0, 0)
        index = index + 1
    return found.tolist(), index.reshape(-1), area
