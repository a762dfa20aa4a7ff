"""The numbers of a report. Percent everywhere; ``None`` where a number is undefined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from scanseg import __version__
from scanseg.contracts import InputError
from scanseg.evaluation.published import PublishedScore, published
from scanseg.evaluation.scoring import Counted
from scanseg.metrics.baselines import always_parent, most_frequent_class
from scanseg.metrics.bootstrap import bootstrap
from scanseg.metrics.iou import class_pixels, iou_scores, ratio, split_scores
from scanseg.metrics.open_miou import open_miou
from scanseg.metrics.sg_iou import Relations, sg_iou, specificity
from scanseg.vocabulary.hierarchy import Hierarchy, hierarchy_names, load_hierarchy
from scanseg.vocabulary.label_sets import LabelSet

HEADLINE = (
    "miou_present",
    "miou_union",
    "sg_iou_released",
    "sg_iou_released_present",
    "sg_iou_eq6",
    "sg_iou_eq6_present",
    "fwiou",
    "macc",
    "pacc",
)
"""Keys of the headline numbers; SG-IoU without suffix is in the union convention."""

TITLES = {
    "miou_present": "mIoU, present",
    "miou_union": "mIoU, union",
    "sg_iou_released": "SG-IoU released, union",
    "sg_iou_released_present": "SG-IoU released, present",
    "sg_iou_eq6": "SG-IoU eq. 6, union",
    "sg_iou_eq6_present": "SG-IoU eq. 6, present",
    "fwiou": "frequency-weighted IoU",
    "macc": "mean accuracy",
    "pacc": "pixel accuracy",
}
CONVENTIONS = (
    "present: mean over the classes in the ground truth. union: mean over the classes in ground "
    "truth or prediction, which is what OVSeg and SCAN print."
)

WORST_SHOWN = 12
WORST_SHARE = 0.001  # of the truth's pixels that a class needs to be among the worst
SAID_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Task:
    """What is being measured against.

    Attributes:
        labels: the classes.
        hierarchy: their relations; ``None`` makes SG-IoU equal to mIoU.
        seen: indices of the classes seen in training, for seen / unseen / harmonic IoU.
        similarity: (K, K) similarities ``[prediction][truth]`` in [0, 1], for Open-mIoU.
        similarity_source: how they were made.
    """

    labels: LabelSet
    hierarchy: Hierarchy | None = None
    seen: tuple[int, ...] | None = None
    similarity: np.ndarray | None = None
    similarity_source: str = ""

    @property
    def relations(self) -> Relations:
        """Parents and synonyms as indices.

        Raises:
            InputError: the hierarchy does not know a label.
        """
        return Relations.build(len(self.labels), *self._index_maps())

    @property
    def parents(self) -> dict[int, list[int]]:
        """Class -> its parents."""
        return self._index_maps()[0]

    def _index_maps(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        if self.hierarchy is None:
            return {}, {}
        return self.hierarchy.index_maps(self.labels.names)


@dataclass(frozen=True)
class ClassRow:
    """One class; percent except pixels and images.

    Attributes:
        index: of the class.
        name: official name.
        iou: 0 for a class that is only predicted, ``None`` for one that occurs nowhere.
        sg_iou_released: IoU with the released credit.
        sg_iou_eq6: IoU with the credit of equation 6.
        accuracy: share of its pixels that were found.
        precision: share of the pixels called so that are right.
        open_iou: soft IoU, if similarities were given.
        boundary_f: boundary F-score, if asked for.
        truth_pixels: pixels in the ground truth.
        predicted_pixels: pixels called so.
        truth_images: images whose ground truth has the class.
        seen: seen in training, if a split was given.
    """

    index: int
    name: str
    iou: float | None
    sg_iou_released: float | None
    sg_iou_eq6: float | None
    accuracy: float | None
    precision: float | None
    open_iou: float | None
    boundary_f: float | None
    truth_pixels: int
    predicted_pixels: int
    truth_images: int
    seen: bool | None


@dataclass(frozen=True)
class Mistake:
    """What pixels of a class were called.

    Attributes:
        name: the class that was said; ``None`` for unknown.
        share: percent of the true class's pixels.
        relation: of what was said to the truth: ``parent``, ``synonym``, ``child`` or empty.
    """

    name: str | None
    share: float
    relation: str


@dataclass(frozen=True)
class Confusion:
    """A class with a low IoU and what it was taken for."""

    name: str
    iou: float
    said: tuple[Mistake, ...]


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that is printed; see ``docs/metrics.md`` for what each number means.

    Attributes:
        title: of the report.
        about: facts about the run, name -> text.
        headline: :data:`HEADLINE` -> percent.
        intervals: the same -> (low, high) of the bootstrap, empty without one.
        interval_level: percent.
        replicates: of the bootstrap.
        per_class: one row per class in the label set's order.
        worst: classes of at least 0.1 % of the truth with the lowest IoU.
        related: whether there are any parents or synonyms.
        specificity: where the truth's pixels went, and what SG-IoU's gain was for.
        baselines: name -> headline numbers of degenerate answers; "always the parent" only where
            there are relations.
        split: seen / unseen / harmonic, or empty.
        open_miou: both conventions, or empty.
        panoptic: PQ, SQ, RQ, or empty.
        boundary_f: mean boundary F, or ``None``.
        proposals: AR@Q, or empty.
        published: rows of the paper for this benchmark.
        images: how many.
        pixels: counted, those whose truth is not void.
        unknown: percent of them that the system left unknown.
        notes: remarks for the reader.
    """

    title: str
    about: Mapping[str, str]
    headline: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float | None, float | None]]
    interval_level: float
    replicates: int
    per_class: tuple[ClassRow, ...]
    worst: tuple[Confusion, ...]
    related: bool
    specificity: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, float | None]]
    split: Mapping[str, float | None]
    open_miou: Mapping[str, float | None]
    panoptic: Mapping[str, Any]
    boundary_f: float | None
    proposals: Mapping[str, float | None]
    published: tuple[PublishedScore, ...]
    images: int
    pixels: int
    unknown: float | None
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """One flat object: headline numbers first, plain values throughout."""
        return {
            **self.headline,
            "images": self.images,
            "pixels": self.pixels,
            "unknown": self.unknown,
            "title": self.title,
            "about": dict(self.about),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "interval_level": self.interval_level,
            "replicates": self.replicates,
            "split": dict(self.split),
            "open_miou": dict(self.open_miou),
            "panoptic": dict(self.panoptic),
            "boundary_f": self.boundary_f,
            "proposals": dict(self.proposals),
            "related": self.related,
            "specificity": dict(self.specificity),
            "baselines": {name: dict(values) for name, values in self.baselines.items()},
            "worst": [asdict(confusion) for confusion in self.worst],
            "published": [asdict(row) for row in self.published],
            "notes": list(self.notes),
            "scanseg": __version__,
            "per_class": [asdict(row) for row in self.per_class],
        }


def find_hierarchy(given: str | None, labels: LabelSet) -> Hierarchy | None:
    """The hierarchy to use: the given file or name, else the one shipped for the label set.

    Args:
        given: a file, a name, ``"none"``, or ``None`` for the default.
        labels: the label set.

    Raises:
        InputError: the file cannot be used, or is of other labels.
    """
    if given == "none":
        return None
    if given is None:
        return load_hierarchy(labels.name) if labels.name in hierarchy_names() else None
    hierarchy = load_hierarchy(given)
    hierarchy.index_maps(labels.names)
    return hierarchy


def headline(confusion: np.ndarray, relations: Relations) -> dict[str, float]:
    """The headline numbers of a confusion matrix, as fractions; NaN where undefined."""
    plain, guided = iou_scores(confusion), sg_iou(confusion, relations)
    return {
        "miou_present": plain.miou_present,
        "miou_union": plain.miou_union,
        "sg_iou_released": guided.released.miou_union,
        "sg_iou_released_present": guided.released.miou_present,
        "sg_iou_eq6": guided.eq6.miou_union,
        "sg_iou_eq6_present": guided.eq6.miou_present,
        "fwiou": plain.fwiou,
        "macc": plain.macc,
        "pacc": plain.pacc,
    }


def build_report(
    counted: Counted,
    task: Task,
    *,
    title: str,
    about: Mapping[str, str],
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    proposals: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Every number of a report from the counts of its images.

    Args:
        counted: counts per image.
        task: label set, hierarchy and the rest.
        title: of the report.
        about: facts about the run.
        replicates: of the bootstrap; 0 leaves intervals out.
        level: of the intervals.
        seed: of the bootstrap.
        proposals: AR@Q as fractions, if it was measured.
        notes: remarks to print.

    Raises:
        InputError: the hierarchy is of other labels, or nothing was counted.
    """
    stacked, relations = counted.stacked(), task.relations
    matrix = stacked.total()
    if not matrix.any():
        raise InputError("no pixel has a ground truth: every one is void")
    pixels = class_pixels(matrix)
    intervals = {}
    if replicates:
        found = bootstrap(
            stacked, lambda m: headline(m, relations), replicates=replicates, level=level, seed=seed
        )
        intervals = {name: (_bounded(i.low), _bounded(i.high)) for name, i in found.items()}
    related = bool(len(relations.child))
    remarks = list(notes)
    if not related:
        remarks.append("No parents or synonyms among these classes: SG-IoU equals mIoU.")
    if 1 < len(counted.keys) < 30 and replicates:
        remarks.append(f"Only {len(counted.keys)} images: the intervals are rough.")
    return Report(
        title=title,
        about={**about, **_about_task(task)},
        headline=_percents(headline(matrix, relations)),
        intervals=intervals,
        interval_level=100 * level,
        replicates=replicates,
        per_class=_per_class(counted, matrix, task, relations),
        worst=_worst(matrix, task, relations),
        related=related,
        specificity=_specificity(matrix, relations),
        baselines={
            name: _percents(headline(degenerate, relations))
            for name, degenerate in _degenerate(pixels.truth, task, related).items()
        },
        split={} if task.seen is None else _percents(asdict(split_scores(matrix, task.seen))),
        open_miou=_open_miou(matrix, task),
        panoptic=_panoptic(counted, task),
        boundary_f=None if counted.boundary is None else percent(counted.boundary.mean()),
        proposals=_percents(proposals or {}),
        published=published(task.labels.name),
        images=len(counted.keys),
        pixels=int(matrix.sum()),
        unknown=percent(float(matrix[-1].sum() / matrix.sum())),
        notes=tuple(remarks),
    )


def _degenerate(truth: np.ndarray, task: Task, related: bool) -> dict[str, np.ndarray]:
    found = {"most frequent class": most_frequent_class(truth)}
    if related:
        found["always the parent"] = always_parent(truth, task.parents)
    return found


def percent(fraction: float) -> float | None:
    """A fraction as percent, ``None`` for NaN."""
    return None if math.isnan(fraction) else 100 * float(fraction)


def _bounded(fraction: float) -> float | None:
    """An end of an interval as percent; shares cannot leave 0..100."""
    return percent(min(1.0, max(0.0, fraction)))


def _percents(fractions: Mapping[str, float]) -> dict[str, float | None]:
    return {name: percent(value) for name, value in fractions.items()}


def _about_task(task: Task) -> dict[str, str]:
    labels, hierarchy = task.labels, task.hierarchy
    facts = {"label set": f"{labels.title} ({len(labels)} classes, {labels.digest[:12]})"}
    facts["hierarchy"] = "none"
    if hierarchy is not None:
        parents, synonyms = len(hierarchy.parent_pairs), len(hierarchy.synonym_pairs)
        facts["hierarchy"] = (
            f"{hierarchy.name} {hierarchy.version} ({parents} parents, {synonyms} synonyms, "
            f"{hierarchy.sha256[:12]})"
        )
    if task.similarity is not None:
        facts["similarity"] = task.similarity_source
    return facts


def _per_class(
    counted: Counted, matrix: np.ndarray, task: Task, relations: Relations
) -> tuple[ClassRow, ...]:
    pixels, plain, guided = class_pixels(matrix), iou_scores(matrix), sg_iou(matrix, relations)
    precision = ratio(pixels.hits, pixels.predicted)
    num_classes = len(task.labels)
    images = np.zeros(num_classes, np.int64)
    for pairs in counted.images:
        images[np.unique(pairs.cells % num_classes)] += 1
    soft = None if task.similarity is None else open_miou(matrix, task.similarity).iou
    contours = None if counted.boundary is None else counted.boundary.per_class()
    seen = None if task.seen is None else set(task.seen)
    return tuple(
        ClassRow(
            index=i,
            name=name,
            iou=percent(plain.iou[i]),
            sg_iou_released=percent(guided.released.iou[i]),
            sg_iou_eq6=percent(guided.eq6.iou[i]),
            accuracy=percent(plain.accuracy[i]),
            precision=percent(precision[i]),
            open_iou=None if soft is None else percent(soft[i]),
            boundary_f=None if contours is None else percent(contours[i]),
            truth_pixels=int(pixels.truth[i]),
            predicted_pixels=int(pixels.predicted[i]),
            truth_images=int(images[i]),
            seen=None if seen is None else i in seen,
        )
        for i, name in enumerate(task.labels.names)
    )


def _worst(matrix: np.ndarray, task: Task, relations: Relations) -> tuple[Confusion, ...]:
    truth, iou = matrix.sum(0), iou_scores(matrix).iou
    present = np.flatnonzero(truth > 0)
    common = present[truth[present] >= WORST_SHARE * truth.sum()]
    chosen = sorted(common if len(common) else present, key=lambda i: (iou[i], -truth[i]))
    related = {
        (int(f), int(q)): "synonym" if synonym else "parent"
        for q, f, synonym in zip(relations.child, relations.parent, relations.synonym, strict=True)
    }
    names = (*task.labels.names, None)

    def said(label: int) -> tuple[Mistake, ...]:
        column = matrix[:, label].copy()
        column[label] = 0
        order = sorted(np.flatnonzero(column), key=lambda p: -column[p])[:SAID_SHOWN]
        return tuple(
            Mistake(
                names[p],
                float(100 * column[p] / truth[label]),
                related.get((int(p), label))
                or ("child" if related.get((label, int(p))) == "parent" else ""),
            )
            for p in order
        )

    return tuple(
        Confusion(task.labels.names[i], 100 * float(iou[i]), said(int(i)))
        for i in chosen[:WORST_SHOWN]
    )


def _specificity(matrix: np.ndarray, relations: Relations) -> dict[str, Any]:
    view = specificity(matrix, relations)
    return {
        "shares": _percents(view.shares),
        "gain_from_parents": _percents(view.gain_from_parents),
        "gain_from_synonyms": _percents(view.gain_from_synonyms),
    }


def _open_miou(matrix: np.ndarray, task: Task) -> dict[str, float | None]:
    if task.similarity is None:
        return {}
    found = open_miou(matrix, task.similarity)
    return _percents({"present": found.present, "union": found.union})


def _panoptic(counted: Counted, task: Task) -> dict[str, Any]:
    if counted.panoptic is None:
        return {}
    scores = counted.panoptic.scores(task.labels.things)
    groups = {
        name: {
            **_percents({key: values[key] for key in ("pq", "sq", "rq")}),
            "classes": int(values["classes"]),
        }
        for name, values in scores.mean.items()
    }
    return {"objects": counted.panoptic_objects, **groups}
