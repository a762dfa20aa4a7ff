"""What ``scanseg segment`` tells: people on standard error, machines on standard output."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.cli.photo_arguments import Outputs, PhotoFile
from scanseg.contracts import Segmentation

if TYPE_CHECKING:
    from scanseg.formats.photos import Photo

_MOST = 8  # names of each kind in a summary


@dataclass
class Report:
    """Collects what happened and tells it.

    Args:
        as_json: one JSON object per photo on standard output, no prose.
        quiet: nothing but failures.
        total: photos that were asked for.
        skipped: photos left out because their results exist.
        written: photos done.
        failures: why photos could not be done.
    """

    as_json: bool
    quiet: bool
    total: int
    skipped: int = 0
    written: int = 0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def progress(self, count: int) -> Iterator[Callable[[], None]]:
        """A progress bar where there is something to wait for and a terminal to show it on."""
        if count < 2 or self.quiet or not self._console.is_terminal:
            yield lambda: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("photos", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(
            *columns, console=self._console, transient=True, redirect_stdout=False
        ) as progress:
            task = progress.add_task("", total=count)
            yield lambda: progress.advance(task)

    def done(
        self, photo_file: PhotoFile, photo: Photo, result: Segmentation, outputs: Outputs | None
    ) -> None:
        """One photo is finished."""
        from scanseg.formats.records import to_record

        self.written += 1
        if self.as_json:
            files = {}
            if outputs is not None:
                files = {
                    "map": str(outputs.map),
                    "overlay": str(outputs.overlay),
                    "record": str(outputs.record),
                }
            record = to_record(result, name=photo.name)
            self._line({"photo": photo_file.shown, "files": files, **record})
        elif not self.quiet:
            height, width = result.labels.shape
            notes = f" ({'; '.join(photo.notes)})" if photo.notes else ""
            self._console.print(f"{photo_file.shown}, {width} x {height}{notes}")
            self._console.print(f"  {_summary(result)}")
            if outputs is not None:
                names = ", ".join(path.name for path in outputs.all())
                self._console.print(f"  -> {outputs.map.parent}{os.sep}: {names}")

    def failed(self, photo_file: PhotoFile, reason: str) -> None:
        """One photo could not be done."""
        self.failures.append(reason)
        if self.as_json:
            self._line({"photo": photo_file.shown, "error": reason})

    def data_sets(self, folders: Sequence[Path]) -> None:
        """Data sets were written."""
        if not self.quiet and not self.as_json:
            for folder in folders:
                self._console.print(f"data set -> {folder}{os.sep}")

    def finish(self, folder: Path) -> None:
        """After the last photo: how many, and which failed."""
        if self.total > 1 and not self.quiet and not self.as_json:
            parts = [f"{self.written} of {self.total} photos done"]
            if self.skipped:
                parts.append(f"{self.skipped} skipped, their results exist in {folder}{os.sep}")
            self._console.print("; ".join(parts))
        elif self.skipped and not self.quiet and not self.as_json:
            self._console.print(f"skipped: its results exist in {folder}{os.sep}")
        if self.failures:
            self._console.print(f"{len(self.failures)} could not be done:")
            for reason in self.failures:
                self._console.print(f"  {reason}")

    @staticmethod
    def _line(value: Mapping[str, Any]) -> None:
        print(json.dumps(value), flush=True)


def _summary(result: Segmentation) -> str:
    """``cat 41 %, sofa 30 %, unknown 29 %; not found: window``, at most ``_MOST`` of each."""
    areas = np.bincount((result.labels + 1).ravel(), minlength=len(result.names) + 1)
    shares = 100 * areas / result.labels.size
    found = [int(i) for i in np.argsort(-areas[1:], kind="stable") if areas[i + 1]]
    parts = [f"{result.names[i]} {_percent(shares[i + 1])}" for i in found[:_MOST]]
    if len(found) > _MOST:
        rest = shares[[i + 1 for i in found[_MOST:]]].sum()
        parts.append(f"{len(found) - _MOST} more {_percent(rest)}")
    if areas[0]:
        parts.append(f"unknown {_percent(shares[0])}")
    absent = [name for i, name in enumerate(result.names) if not areas[i + 1]]
    text = ", ".join(parts)
    if absent:
        text += "; not found: " + ", ".join(absent[:_MOST])
        text += f" and {len(absent) - _MOST} more" if len(absent) > _MOST else ""
    return text


def _percent(share: float) -> str:
    return f"{share:.0f} %" if share >= 1 else "<1 %"
