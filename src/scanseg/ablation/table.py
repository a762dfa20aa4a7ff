"""The table of a suite: means and spreads over seeds, paired tests, the paper's numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.ablation.plan import Plan
from scanseg.ablation.run import counts
from scanseg.ablation.suite import Suite
from scanseg.contracts import MissingExtra
from scanseg.evaluation.published_ablations import (
    ABLATIONS,
    NOTES,
    published_ablation,
)
from scanseg.evaluation.report import percent
from scanseg.evaluation.report_sections import Section, Table, number, signed
from scanseg.evaluation.scoring import Counted
from scanseg.metrics.bootstrap import ImageCounts, paired_bootstrap
from scanseg.metrics.iou import iou_scores, split_scores
from scanseg.storage import atomic_write

METRICS = ("miou_union", "miou_present")
SPLIT = ("seen_union", "unseen_union", "harmonic_union")
"""Metrics of suites with unseen words."""


@dataclass(frozen=True)
class Score:
    """A metric of a row over seeds, percent.

    Attributes:
        seeds: value of each finished seed.
        mean: of them; ``None`` without any.
        spread: standard deviation over seeds (n - 1); ``None`` with fewer than two.
    """

    seeds: tuple[float | None, ...]
    mean: float | None
    spread: float | None


@dataclass(frozen=True)
class Test:
    """A row against the baseline, points of percent, by the paired bootstrap over images.

    The counts of all seeds are added up image by image, so this is about images, not about seeds.
    """

    difference: float | None
    low: float | None
    high: float | None
    p_value: float
    images: int
    seeds: int


@dataclass(frozen=True)
class Cell:
    """A row on a data set.

    Attributes:
        scores: by metric; those of ``SPLIT`` only where the suite has unseen words.
        test: of ``miou_union`` against the baseline.
        paper: the paper's number.
        split_tests: tests of the metrics of ``SPLIT``.
    """

    scores: dict[str, Score]
    test: Test | None
    paper: float | None
    split_tests: dict[str, Test]


@dataclass(frozen=True)
class AblationTable:
    """All rows on all data sets: ``cells[data][row]``."""

    suite: Suite
    cells: tuple[dict[str, Cell], ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the numbers."""
        note = None if self.suite.table is None else NOTES.get(self.suite.table)
        return () if note is None else (note,)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        suite = self.suite
        return {
            "suite": asdict(suite),
            "baseline": suite.base.name,
            "data": [
                {"data": data.title, "rows": {name: asdict(cell) for name, cell in rows.items()}}
                for data, rows in zip(suite.data, self.cells, strict=True)
            ],
            "notes": list(self.notes),
        }

    def _all_of_paper(self, name: str) -> str:
        """The paper's three numbers of a row, for data that is none of its columns."""
        suite = self.suite
        if suite.table is None or not suite.row(name).paper:
            return number(None)
        row = ABLATIONS[suite.table][suite.row(name).paper]
        return " / ".join(number(value, 1) for value in row)

    def section(self) -> Section:
        """For terminal and Markdown."""
        suite = self.suite
        parts: list[str | Table] = []
        head = ("row", "union", "present", "difference", "p", "paper")
        for data, cells in zip(suite.data, self.cells, strict=True):
            rows = tuple(
                (
                    name,
                    _score(cell.scores["miou_union"]),
                    number(cell.scores["miou_present"].mean),
                    _test(cell.test),
                    "" if cell.test is None else f"{cell.test.p_value:.3f}",
                    number(cell.paper, 1) if data.paper else self._all_of_paper(name),
                )
                for name, cell in cells.items()
            )
            images = max((c.test.images for c in cells.values() if c.test), default=0)
            parts += [
                f"{data.title}" + (f", {images} images" if images else ""),
                Table(head, rows, text=(5,)),
            ]
            if suite.unseen:
                parts.append(_split_table(cells))
        parts.append(
            f"mIoU in percent, mean over {len(suite.seeds)} seed(s), after ± the standard "
            "deviation over seeds; union: classes in truth or prediction, present: in the truth. "
            f"Difference: points of union against {suite.base.name} with a 95 % interval and p, "
            f"by a paired bootstrap over images ({suite.replicates} replicates), the counts of "
            "all seeds added up, so it is not quite that of the means, and it says nothing about "
            "other seeds. Paper: SCAN ViT-L as "
            "printed, trained on COCO-Stuff; three numbers are ADE-150 / ADE-847 / PC-59. Only "
            "comparable with a run of that size on that data."
        )
        if suite.unseen:
            parts.append(
                f"Unseen: the {len(suite.unseen)} words that no row is taught, seen: the others, "
                "all of them asked for at once; mIoU over classes in truth or prediction."
            )
        return Section(suite.title or suite.name, (*parts, *self.notes))


def _split_table(cells: Mapping[str, Cell]) -> Table:
    head = ("row", "seen", "difference", "unseen", "difference", "harmonic")
    rows = []
    for name, cell in cells.items():
        seen, unseen, harmonic = (cell.scores[metric] for metric in SPLIT)
        tests = [_test(cell.split_tests.get(metric)) for metric in SPLIT]
        rows.append((name, _score(seen), tests[0], _score(unseen), tests[1], _score(harmonic)))
    return Table(head, tuple(rows))


def make_table(plan: Plan, output: Path) -> AblationTable:
    """The table of what is finished; rows that are not have dashes."""
    suite = plan.suite
    columns = []
    for number_, data in enumerate(suite.data):
        counted = {
            row.name: [
                counts(plan, plan.evaluations[row.name, seed, number_], output)
                for seed in suite.seeds
            ]
            for row in suite.rows
        }
        base = counted[suite.base.name]
        seen = _seen(plan, number_, output)
        cells = {}
        for row in suite.rows:
            mine = counted[row.name]
            paper = None
            if suite.table is not None:
                paper = published_ablation(suite.table, row.paper, data.paper)
            tests: dict[str, Test] = {}
            if row is not suite.base:
                tests = compare(mine, base, suite.replicates, seen)
            test = tests.pop("miou_union", None)
            cells[row.name] = Cell(_scores(mine, seen), test, paper, tests)
        columns.append(cells)
    return AblationTable(suite, tuple(columns))


def _seen(plan: Plan, data: int, output: Path) -> tuple[int, ...] | None:
    """Which classes are seen, as a finished evaluation says; ``None`` without unseen words."""
    if not plan.suite.unseen:
        return None
    found = [p.done(output) for (_, _, n), p in plan.evaluations.items() if n == data]
    return next((tuple(done["seen"]) for done in found if done is not None), ())


def _metrics(confusion: np.ndarray, seen: Sequence[int] | None) -> dict[str, float]:
    """Fractions; the keys are ``METRICS`` and, with seen classes, ``SPLIT``."""
    whole = iou_scores(confusion)
    found = {metric: getattr(whole, metric) for metric in METRICS}
    if seen is not None:
        split = split_scores(confusion, seen)
        found |= {metric: getattr(split, metric) for metric in SPLIT}
    return found


def _scores(
    counted: Sequence[Counted | None], seen: Sequence[int] | None = None
) -> dict[str, Score]:
    found = [_metrics(c.stacked().total(), seen) for c in counted if c is not None]
    scores = {}
    for metric in METRICS if seen is None else (*METRICS, *SPLIT):
        values = [percent(score[metric]) for score in found]
        known = [value for value in values if value is not None]
        scores[metric] = Score(
            tuple(values),
            statistics.fmean(known) if known else None,
            statistics.stdev(known) if len(known) > 1 else None,
        )
    return scores


def compare(
    first: Sequence[Counted | None],
    second: Sequence[Counted | None],
    replicates: int,
    seen: Sequence[int] | None = None,
) -> dict[str, Test]:
    """First minus second on the seeds that both have, by metric; empty if there is no such seed.

    Args:
        first: one entry per seed, ``None`` where it is not finished.
        second: the same.
        replicates: of the bootstrap.
        seen: indices of the seen classes; ``None``: no split.
    """
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not both:
        return {}
    ours, base = (_pooled([pair[i] for pair in both]) for i in (0, 1))

    def metrics(confusion: np.ndarray) -> dict[str, float]:
        found = _metrics(confusion, seen)
        del found["miou_present"]  # not tested
        return found

    tests = paired_bootstrap(ours, base, metrics, replicates=replicates)
    return {
        metric: Test(
            percent(found.difference),
            percent(found.low),
            percent(found.high),
            found.p_value,
            ours.images,
            len(both),
        )
        for metric, found in tests.items()
    }


def _pooled(counted: Sequence[Counted]) -> ImageCounts:
    """The counts of all seeds of each image together."""
    stacked = [c.stacked() for c in counted]
    image = np.concatenate([s.image for s in stacked])
    order = np.argsort(image, kind="stable")
    return ImageCounts(
        stacked[0].num_classes,
        image[order],
        np.concatenate([s.cells for s in stacked])[order],
        np.concatenate([s.counts for s in stacked])[order],
        stacked[0].images,
    )


def _score(score: Score) -> str:
    spread = "" if score.spread is None else f" ± {score.spread:.2f}"
    return number(score.mean) + spread


def _test(test: Test | None) -> str:
    if test is None or test.difference is None:
        return ""
    return f"{signed(test.difference)} [{signed(test.low)}, {signed(test.high)}]"


def plot(table: AblationTable, output: Path) -> None:
    """A small PNG: each row's mean and spread over seeds, the paper's number as a cross.

    Raises:
        MissingExtra: matplotlib is not there.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("eval", "plotting a table") from error
    names = [row.name for row in table.suite.rows]
    places = range(len(names))
    figure = Figure(
        figsize=(1.5 + 3.6 * len(table.cells), 0.9 + 0.36 * len(names)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    for column, (data, cells) in enumerate(zip(table.suite.data, table.cells, strict=True)):
        axes = figure.add_subplot(1, len(table.cells), column + 1)
        scores = [cells[name].scores["miou_union"] for name in names]
        means = [math.nan if s.mean is None else s.mean for s in scores]
        axes.errorbar(means, places, xerr=[s.spread or 0.0 for s in scores], fmt="o", label="ours")
        papers = [cells[name].paper for name in names]
        if any(paper is not None for paper in papers):
            crosses = [math.nan if paper is None else paper for paper in papers]
            axes.plot(crosses, places, "x", color="tab:orange", label="paper")
            axes.legend(fontsize=8)
        axes.set_yticks(list(places), names if column == 0 else [""] * len(names))
        axes.invert_yaxis()
        axes.set_title(data.title, fontsize=10)
        axes.set_xlabel("mIoU (union), %")
        axes.grid(alpha=0.3)
    with atomic_write(output) as file:
        figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
