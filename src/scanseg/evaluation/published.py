"""Numbers of the SCAN paper that a report puts beside ours (tables 1 and 2, percent).

The mIoU of these tables is in the ``union`` convention as far as the released evaluators of OVSeg
and SCAN tell; other rows are quoted by the paper from their own papers.
"""

from __future__ import annotations

from dataclasses import dataclass

BENCHMARKS = {"ade150": 0, "ade847": 1, "pc59": 2, "pc459": 3, "voc20": 4}
"""Label set -> column of table 1."""

_SG_COLUMNS = {"ade150": 0, "ade847": 1, "pc459": 2}


@dataclass(frozen=True)
class PublishedRow:
    """One method in the paper's tables.

    Attributes:
        method: its name there.
        model: its vision-language model.
        training: what it was trained on.
        miou: percent on ADE-150, ADE-847, PC-59, PC-459 and VOC (table 1); ``None`` for a dash.
        sg_iou: percent on ADE-150, ADE-847 and PC-459 (table 2); empty if it is not there.
    """

    method: str
    model: str
    training: str
    miou: tuple[float | None, ...]
    sg_iou: tuple[float, ...] = ()


@dataclass(frozen=True)
class PublishedScore:
    """A method's numbers on one benchmark, percent; ``None`` where the paper has none."""

    method: str
    model: str
    training: str
    miou: float | None
    sg_iou: float | None


_B, _L = "CLIP ViT-B/16", "CLIP ViT-L/14"
ROWS = (
    PublishedRow("Group-VIT", "rand. init.", "CC12M+YFCC", (None, None, 22.4, None, 52.3)),
    PublishedRow("LSeg+", "ALIGN RN101", "COCO", (13.0, 2.5, 36.0, 5.2, 59.0)),
    PublishedRow("OpenSeg", "ALIGN RN101", "COCO", (15.3, 4.0, 36.9, 6.5, 60.0)),
    PublishedRow("LSeg+", "ALIGN EN-B7", "COCO", (18.0, 3.8, 46.5, 7.8, None)),
    PublishedRow("OpenSeg", "ALIGN EN-B7", "COCO", (21.1, 6.3, 42.1, 9.0, None)),
    PublishedRow("OpenSeg", "ALIGN EN-B7", "COCO+Loc. Narr.", (28.6, 8.8, 48.2, 12.2, 72.2)),
    PublishedRow("SimSeg", _B, "COCO", (20.5, 7.0, 47.7, 8.7, 88.4), (22.6, 8.1, 9.3)),
    PublishedRow("SimSeg (reproduced)", _B, "COCO", (21.1, 6.9, 51.9, 9.7, 91.8)),
    PublishedRow("OVSeg", _B, "COCO", (24.8, 7.1, 53.3, 11.0, 92.6)),
    PublishedRow("MAFT", _B, "COCO", (29.1, 10.1, 53.5, 12.8, 90.0), (30.3, 11.5, 13.4)),
    PublishedRow("SAN", _B, "COCO", (27.5, 10.1, 53.8, 12.6, 94.0)),
    PublishedRow("SCAN", _B, "COCO", (30.8, 10.8, 58.4, 13.2, 97.0)),
    PublishedRow("MaskCLIP", _L, "COCO", (23.7, 8.2, 45.9, 10.0, None)),
    PublishedRow("SimSeg (reproduced)", _L, "COCO", (21.7, 7.1, 52.2, 10.2, 92.3)),
    PublishedRow("OVSeg", _L, "COCO", (29.6, 9.0, 55.7, 12.4, 94.5), (30.5, 9.5, 12.7)),
    PublishedRow("ODISE", _L, "COCO", (29.9, 11.1, 57.3, 14.5, None)),
    PublishedRow("SAN", _L, "COCO", (32.1, 12.4, 57.7, 15.7, 94.6), (33.7, 13.2, 16.2)),
    PublishedRow("SCAN", _L, "COCO", (33.5, 14.0, 59.3, 16.7, 97.2), (34.2, 14.6, 17.2)),
)


def published(label_set: str) -> tuple[PublishedScore, ...]:
    """The paper's rows for a benchmark; empty for label sets that are not in its tables."""
    if label_set not in BENCHMARKS:
        return ()
    column, sg_column = BENCHMARKS[label_set], _SG_COLUMNS.get(label_set)
    scores = (
        PublishedScore(
            row.method,
            row.model,
            row.training,
            row.miou[column],
            row.sg_iou[sg_column] if row.sg_iou and sg_column is not None else None,
        )
        for row in ROWS
    )
    return tuple(s for s in scores if s.miou is not None or s.sg_iou is not None)
