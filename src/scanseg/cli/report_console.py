"""Reports on a terminal, as JSON on standard output and as files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from scanseg.cli import EXIT_OK
from scanseg.evaluation.comparison import Comparison
from scanseg.evaluation.outputs import json_text, write_all
from scanseg.evaluation.report import Report
from scanseg.evaluation.report_html import Example, comparison_to_html, to_html
from scanseg.evaluation.report_markdown import comparison_to_markdown, to_markdown
from scanseg.evaluation.report_sections import (
    Section,
    Table,
    comparison_section,
    facts,
    number,
    sections,
)

_LEAST_WIDTH = 12  # of a column of names
_MOST_CLASSES = 60  # a terminal shows no more; the files hold all


def deliver_report(
    report: Report, examples: Sequence[Example], output: str | None, *, as_json: bool
) -> int:
    """Write the files of a report, then show it; returns the exit code."""
    content = json_text(report.to_json())
    if output is not None:
        files = {
            "report.json": content + "\n",
            "report.md": to_markdown(report),
            "report.html": to_html(report, examples),
        }
        _tell_written(write_all(output, files))
    if as_json:
        print(content)
    else:
        _print_report(report)
    return EXIT_OK


def deliver_comparison(comparison: Comparison, output: str | None, *, as_json: bool) -> int:
    """Write the files of a comparison, then show it; returns the exit code."""
    content = json_text(comparison.to_json())
    if output is not None:
        files = {
            "comparison.json": content + "\n",
            "comparison.md": comparison_to_markdown(comparison),
            "comparison.html": comparison_to_html(comparison),
        }
        _tell_written(write_all(output, files))
    if as_json:
        print(content)
    else:
        print_section(comparison_section(comparison))
    return EXIT_OK


@contextmanager
def progress_bar(what: str, count: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error where there is a terminal to show it on."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or count < 2 or not console.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("", total=count)
        yield lambda: progress.advance(task)


def _tell_written(paths: Sequence[object]) -> None:
    print("written: " + ", ".join(map(str, paths)), file=sys.stderr)


def _print_report(report: Report) -> None:
    """The scores come last, where the reader's eye is."""
    print(report.title)
    for name, text in facts(report).items():
        print(f"  {name}: {text}")
    scores, *others = sections(report)
    for section in [_classes(report), *others, scores]:
        print_section(section)
    for note in report.notes:
        print(f"Note: {note}")


def _classes(report: Report) -> Section:
    shown = [row for row in report.per_class if row.truth_pixels or row.predicted_pixels]
    shown.sort(key=lambda row: (-(row.iou or 0), row.index))
    rows = tuple(
        (
            row.name,
            *(number(v, 1) for v in (row.iou, row.sg_iou_released, row.sg_iou_eq6, row.accuracy)),
            str(row.truth_images),
        )
        for row in shown[:_MOST_CLASSES]
    )
    head = ("class", "IoU", "SG released", "SG eq. 6", "accuracy", "images")
    parts: list[str | Table] = [Table(head, rows)]
    if len(shown) > _MOST_CLASSES:
        parts.append(f"{len(shown) - _MOST_CLASSES} more classes are in the files of --output.")
    return Section("Classes", tuple(parts))


def print_section(section: Section) -> None:
    """A heading, its paragraphs and tables on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    console.print(f"\n{section.title}", style="bold")
    for part in section.parts:
        if isinstance(part, str):
            console.print(part)
            continue
        drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for column, title in enumerate(part.head):
            text = column == 0 or column in part.text
            words = [word for row in (part.head, *part.rows) for word in row[column].split()]
            drawn.add_column(
                Text(title),
                justify="left" if text else "right",
                overflow="fold",  # in narrow terminals, between words: numbers stay whole
                min_width=_LEAST_WIDTH if text else max(map(len, words), default=0),
            )
        for row in part.rows:
            drawn.add_row(*map(Text, row))
        console.print(drawn)
