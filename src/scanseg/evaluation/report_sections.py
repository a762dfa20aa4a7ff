"""What a report says, section by section; ``report_markdown`` and ``report_html`` only draw it."""

from __future__ import annotations

from dataclasses import dataclass

from scanseg.evaluation.comparison import Comparison
from scanseg.evaluation.report import CONVENTIONS, HEADLINE, TITLES, Report

_KINDS = {
    "exact": "the right class",
    "synonym": "a synonym of it",
    "parent": "a parent of it (less specific)",
    "child": "a child of it (more specific)",
    "other": "something else",
    "unknown": "nothing (unknown)",
}
_LEAST_SHOWN = 0.5  # percent of a class's pixels
_RULES = {"released": "as released", "eq6": "by eq. 6"}


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        head: column titles.
        rows: cells as printed.
        text: columns that hold text; the first always does, the others hold numbers.
        ours: row to stress.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: tuple[int, ...] = ()
    ours: int | None = None


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs and tables, in order."""

    title: str
    parts: tuple[str | Table, ...]


def facts(report: Report) -> dict[str, str]:
    """What was measured on what."""
    return {
        **report.about,
        "images": f"{report.images}",
        "pixels": f"{report.pixels:,} with ground truth, {number(report.unknown)} % left unknown",
    }


def sections(report: Report) -> list[Section]:
    """All sections but the table of classes, which the two forms draw in their own ways."""
    found = (
        _scores(report),
        _published(report),
        _split(report),
        _panoptic(report),
        _worst(report),
        _specificity(report),
        _baselines(report),
    )
    return [section for section in found if section is not None]


def comparison_section(comparison: Comparison) -> Section:
    """The paired test of two systems."""
    first, second = comparison.names
    rows = tuple(
        (
            TITLES[name],
            number(d.first),
            number(d.second),
            signed(d.difference),
            f"{signed(d.low)} to {signed(d.high)}",
            f"{d.p_value:.3g}",
            number(d.first_wins, 1),
        )
        for name, d in comparison.differences.items()
    )
    interval = f"{comparison.level:g} % interval"
    return Section(
        f"{first} against {second}",
        (
            f"Paired bootstrap over {comparison.reports[0].images} images, "
            f"{comparison.replicates} replicates. Ahead: percent of the replicates in which "
            f"{first} is better, so how stable the order is.",
            Table(("", first, second, "difference", interval, "p", "ahead"), rows),
            CONVENTIONS,
        ),
    )


def number(value: float | None, digits: int = 2) -> str:
    """A percentage for people; a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference in points, with its sign."""
    return "–" if value is None else f"{value:+.2f}"


def interval(report: Report, name: str, digits: int = 2) -> str:
    """A confidence interval for people; a dash where there is none."""
    if name not in report.intervals:
        return "–"
    low, high = report.intervals[name]
    return f"{number(low, digits)} to {number(high, digits)}"


def _scores(report: Report) -> Section:
    rows = [
        (TITLES[name], number(report.headline[name]), interval(report, name)) for name in HEADLINE
    ]
    rows += [(f"Open-mIoU, {kind}", number(v), "–") for kind, v in report.open_miou.items()]
    if report.boundary_f is not None:
        rows.append(("boundary F", number(report.boundary_f), "–"))
    rows += [
        (f"class-agnostic proposals, {name}", number(v), "–")
        for name, v in report.proposals.items()
    ]
    parts: list[str | Table] = [
        Table(("", "percent", f"{report.interval_level:g} % interval"), tuple(rows)),
        CONVENTIONS,
    ]
    if report.intervals:
        parts.append(f"Intervals: bootstrap over images, {report.replicates} replicates.")
    return Section("Scores", tuple(parts))


def _published(report: Report) -> Section | None:
    if not report.published:
        return None
    rows = [
        (p.method, p.model, p.training, number(p.miou, 1), number(p.sg_iou, 1))
        for p in report.published
    ]
    miou, guided = (number(report.headline[k], 1) for k in ("miou_union", "sg_iou_released"))
    rows.append(("this report", "", "", miou, guided))
    head = ("method", "vision-language model", "training", "mIoU", "SG-IoU")
    return Section(
        "Beside the paper",
        (
            Table(head, tuple(rows), text=(1, 2), ours=len(rows) - 1),
            "Tables 1 and 2 of SCAN (CVPR 2024); ours in the union convention and as released. The "
            "paper's class relations are its own, so SG-IoU compares only loosely.",
        ),
    )


def _split(report: Report) -> Section | None:
    if not report.split:
        return None
    rows = tuple(
        (c, *(number(report.split[f"{part}_{c}"]) for part in ("seen", "unseen", "harmonic")))
        for c in ("present", "union")
    )
    table = Table(("mIoU", "seen", "unseen", "harmonic"), rows)
    return Section("Seen and unseen classes", (table,))


def _panoptic(report: Report) -> Section | None:
    if not report.panoptic:
        return None
    rows = []
    for group in ("all", "things", "stuff"):
        values = report.panoptic[group]
        quality = (number(values[key]) for key in ("pq", "sq", "rq"))
        rows.append((group, *quality, str(values["classes"])))
    parts: list[str | Table] = [Table(("", "PQ", "SQ", "RQ", "classes"), tuple(rows))]
    if not report.panoptic["objects"]:
        parts.append(
            "The system says classes, not objects: each class of an image is one segment, so "
            "things match only where an image has one of them."
        )
    return Section("Panoptic quality", tuple(parts))


def _specificity(report: Report) -> Section | None:
    if not report.related:
        return None
    shares = tuple((_KINDS[kind], number(v)) for kind, v in report.specificity["shares"].items())
    gains = []
    for rule, title in _RULES.items():
        by = (report.specificity[f"gain_from_{part}"] for part in ("parents", "synonyms"))
        gains.append((title, *(signed(gain[f"{rule}_union"]) for gain in by)))
    return Section(
        "How specific the answers are",
        (
            Table(("pixels were called", "percent"), shares),
            "What SG-IoU adds to mIoU (union convention), in points:",
            Table(("SG-IoU", "for saying a parent", "for saying a synonym"), tuple(gains)),
        ),
    )


def _baselines(report: Report) -> Section:
    columns = {
        "present": "miou_present",
        "union": "miou_union",
        "SG released": "sg_iou_released",
        "SG eq. 6": "sg_iou_eq6",
        "pixels right": "pacc",
    }
    rows = tuple(
        (name, *(number(values[key]) for key in columns.values()))
        for name, values in report.baselines.items()
    )
    text = "Most frequent class: every pixel is called the same."
    if report.related:
        text += (
            " Always the parent: every outline is right, and the parent is said wherever a class "
            "has one."
        )
    return Section("What degenerate answers would score", (Table(("answer", *columns), rows), text))


def _worst(report: Report) -> Section | None:
    if not report.worst:
        return None
    rows = []
    for confusion in report.worst:
        said = ", ".join(
            f"{m.name or 'unknown'} {number(m.share, 0)} %"
            + (f" ({m.relation})" if m.relation else "")
            for m in confusion.said
            if m.share >= _LEAST_SHOWN
        )
        rows.append((confusion.name, number(confusion.iou), said or "–"))
    return Section(
        "Classes with the lowest IoU",
        (
            "Of those with at least 0.1 % of the pixels; what their pixels were called instead.",
            Table(("class", "IoU", "called"), tuple(rows), text=(2,)),
        ),
    )
