"""Two systems on the same images: how large is the difference, and would it stay?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from scanseg.contracts import InputError
from scanseg.evaluation.report import Report, Task, headline, percent
from scanseg.evaluation.scoring import Counted
from scanseg.metrics.bootstrap import paired_bootstrap


@dataclass(frozen=True)
class Difference:
    """First system minus second, in points of percent.

    Attributes:
        first: percent of the first system; ``None`` where undefined.
        second: percent of the second.
        difference: points.
        low: lower end of the interval of the difference.
        high: upper end.
        p_value: two-sided, of the paired bootstrap.
        first_wins: percent of the replicates in which the first system is better.
    """

    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float
    first_wins: float | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Reports of two systems and their differences.

    Attributes:
        names: of the systems.
        reports: one each.
        differences: headline number -> difference.
        level: of the intervals, percent.
        replicates: of the bootstrap.
    """

    names: tuple[str, str]
    reports: tuple[Report, Report]
    differences: dict[str, Difference]
    level: float
    replicates: int

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``a``, ``b`` (a report each) and ``differences``."""
        return {
            "names": list(self.names),
            "differences": {name: asdict(d) for name, d in self.differences.items()},
            "interval_level": self.level,
            "replicates": self.replicates,
            "a": self.reports[0].to_json(),
            "b": self.reports[1].to_json(),
        }


def compare(
    names: tuple[str, str],
    reports: tuple[Report, Report],
    counted: tuple[Counted, Counted],
    task: Task,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """The paired bootstrap of two systems.

    Raises:
        InputError: they were not counted on the same images.
    """
    first, second = counted
    if first.keys != second.keys:
        raise InputError("the two systems were not scored on the same images")
    relations = task.relations
    found = paired_bootstrap(
        first.stacked(),
        second.stacked(),
        lambda matrix: headline(matrix, relations),
        replicates=replicates,
        level=level,
        seed=seed,
    )
    a, b = reports
    return Comparison(
        names,
        reports,
        {
            name: Difference(
                a.headline[name],
                b.headline[name],
                percent(d.difference),
                percent(d.low),
                percent(d.high),
                d.p_value,
                percent(d.first_wins),
            )
            for name, d in found.items()
        },
        100 * level,
        replicates,
    )
