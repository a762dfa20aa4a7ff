"""What ``scanseg segment`` tells: people on standard error, machines on standard output."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.cli.photo_arguments import Outputs, PhotoFile
from scanseg.contracts import Segmentation

if TYPE_CHECKING:
    from rich.console import Console

    from scanseg.formats.photos import Photo

_MOST = 8  # names of each kind in a summary
_BETWEEN_LINES = 30.0  # seconds between lines of progress where there is no terminal


@dataclass
class Report:
    """Collects what happened and tells it.

    Args:
        as_json: one JSON object per photo on standard output, no prose.
        quiet: nothing but failures.
        total: photos that were asked for.
        unit: what they are called.
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
    unit: str = "photos"

    def __post_init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def progress(self, count: int, unit: str = "photos") -> Iterator[Callable[[], None]]:
        """A progress bar where there is something to wait for; without a terminal, now and then a
        line."""
        if count < 2 or self.quiet:
            yield lambda: None
            return
        if not self._console.is_terminal:
            yield _Lines(self._console, count, unit).advance
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (unit, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
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

    def remark(self, text: str) -> None:
        """Something to know about a photo that is done."""
        if not self.quiet:
            self._console.print(text)

    def video_done(self, video: Path, frames: int, journal: Path, overlay: Path) -> None:
        """One video is finished."""
        self.written += 1
        if self.as_json:
            files = {"journal": str(journal), "overlay": str(overlay)}
            self._line({"video": str(video), "frames": frames, "files": files})
        elif not self.quiet:
            self._console.print(f"{video}, {frames} frames")
            self._console.print(f"  -> {journal.parent}{os.sep}: {overlay.name}, {journal.name}")

    def video_failed(self, video: Path, reason: str) -> None:
        """One video could not be done, or not to its end."""
        self.failures.append(reason)
        if self.as_json:
            self._line({"video": str(video), "error": reason})

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
            parts = [f"{self.written} of {self.total} {self.unit} done"]
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


class _Lines:
    """Progress where no bar can be drawn: a line every half minute, with the time that is left."""

    def __init__(self, console: Console, count: int, unit: str) -> None:
        self._console, self._count, self._unit = console, count, unit
        self._start = self._told = time.monotonic()
        self._done = 0

    def advance(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._told < _BETWEEN_LINES:
            return
        self._told = now
        left = (now - self._start) / self._done * max(0, self._count - self._done)
        minutes, seconds = divmod(round(left), 60)
        self._console.print(
            f"{self._done} of {self._count} {self._unit}, about {minutes}:{seconds:02d} left"
        )


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
