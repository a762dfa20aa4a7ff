"""A report as Markdown, for people and for repositories."""

from __future__ import annotations

from collections.abc import Sequence

from scanseg.evaluation.comparison import Comparison
from scanseg.evaluation.report import Report
from scanseg.evaluation.report_sections import (
    Section,
    Table,
    comparison_section,
    facts,
    number,
    sections,
)


def to_markdown(report: Report) -> str:
    """The whole report; numbers are percent with two decimals."""
    parts = [f"# {report.title}", "\n".join(f"- {k}: {v}" for k, v in facts(report).items())]
    parts += [f"Note: {note}" for note in report.notes]
    for section in [*sections(report), _classes(report)]:
        parts += _section(section, "##")
    return "\n\n".join(parts) + "\n"


def comparison_to_markdown(comparison: Comparison) -> str:
    """The paired test, then the reports of both systems."""
    parts = _section(comparison_section(comparison), "#")
    return "\n\n".join([*parts, *map(to_markdown, comparison.reports)])


def section_to_markdown(section: Section) -> str:
    """A section as a page of its own."""
    return "\n\n".join(_section(section, "#")) + "\n"


def _section(section: Section, level: str) -> list[str]:
    drawn = [p if isinstance(p, str) else _table(p) for p in section.parts]
    return [f"{level} {section.title}", *drawn]


def _table(table: Table) -> str:
    text = {0, *table.text}
    rule = "".join("---|" if c in text else "---:|" for c in range(len(table.head)))
    rows = [
        [f"**{cell}**" if cell and i == table.ours else cell for cell in row]
        for i, row in enumerate(table.rows)
    ]
    return "\n".join([_row(table.head), f"|{rule}", *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _classes(report: Report) -> Section:
    columns = {
        "IoU": "iou",
        "SG released": "sg_iou_released",
        "SG eq. 6": "sg_iou_eq6",
        "accuracy": "accuracy",
        "precision": "precision",
        "open IoU": "open_iou",
        "boundary F": "boundary_f",
    }
    for title in ("open IoU", "boundary F"):
        if all(getattr(row, columns[title]) is None for row in report.per_class):
            del columns[title]
    shown = [row for row in report.per_class if row.truth_pixels or row.predicted_pixels]
    rows = tuple(
        (
            row.name,
            *(number(getattr(row, key)) for key in columns.values()),
            str(row.truth_images),
            f"{row.truth_pixels:,}",
        )
        for row in shown
    )
    parts: list[str | Table] = [Table(("class", *columns, "images", "pixels"), rows)]
    absent = len(report.per_class) - len(shown)
    if absent:
        parts.append(f"{absent} classes are neither in the ground truth nor in the predictions.")
    return Section("Classes", tuple(parts))
