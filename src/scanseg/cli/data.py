"""``scanseg data``: prepare a benchmark from its archives, verify it, list what there is."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scanseg.cli import EXIT_MISTAKE, EXIT_OK

if TYPE_CHECKING:
    from scanseg.data import Progress, Verification


def prepare(
    name: str,
    *,
    source: str,
    output: str,
    split: str = "",
    workers: int = 2,
    checksums: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Bring a data set from its official archives into the folders that scanseg reads.

    Nothing is downloaded: get the archives first (scanseg data list says where) and leave them as
    they are, or unpacked. A run that was stopped goes on where it stopped. Archives are checked
    before anything is written; hostile ones are refused.

    Args:
        name: a data set of scanseg data list, or the class path of a layout of your own
        source: folder with the archives, or with what they unpack to
        output: folder to fill
        split: splits to prepare, separated by commas; default all that the source has
        workers: threads
        checksums: compare the archives with their published checksums first
        json: print a JSON object
        quiet: no progress bar
    """
    from scanseg.data import layout_of
    from scanseg.data import prepare as prepare_data

    with _progress(quiet) as progress:
        done = prepare_data(
            layout_of(name),
            Path(source),
            Path(output),
            splits=_words(split),
            workers=workers,
            checksums=checksums,
            progress=progress,
        )
    if json:
        record = {
            "dataset": done.dataset,
            "output": str(done.output),
            "splits": done.splits,
            "written": done.written,
            "kept": done.kept,
            "notes": done.notes,
        }
        print(json_format.dumps(record))
        return EXIT_OK
    for note in done.notes:
        print(note, file=sys.stderr)
    print(
        f"{done.dataset}: {done.written} files written, {done.kept} were there; "
        f"splits {', '.join(done.splits)} in {done.output}"
    )
    return EXIT_OK


def verify(
    name: str,
    *,
    root: str,
    split: str = "",
    workers: int = 2,
    quick: bool = False,
    photos: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Check a data set on disk: counts, pairs, sizes, label values, checksums.

    Says what is missing and where to get it, and where the paper's counts differ from the data's.
    Exit code 0 if a score on it can be trusted, 2 if not.

    Args:
        name: a data set of scanseg data list, or the class path of a layout of your own
        root: its folder
        split: splits that must be there, separated by commas; default the one for evaluation
        workers: threads
        quick: count and pair files only
        photos: decode every photo too, which finds truncated ones (slow)
        json: print a JSON object
        quiet: no progress bar
    """
    from scanseg.data import layout_of
    from scanseg.data import verify as verify_data

    with _progress(quiet) as progress:
        result = verify_data(
            layout_of(name),
            Path(root),
            splits=_words(split),
            workers=workers,
            quick=quick,
            decode_photos=photos,
            progress=progress,
        )
    if json:
        print(json_format.dumps(result.to_dict()))
    else:
        _print_findings(result)
    if result.ok:
        return EXIT_OK
    count = len(result.problems)
    print(
        f"scanseg: {result.dataset} under {result.root} has {count} problem{'s' * (count > 1)}",
        file=sys.stderr,
    )
    return EXIT_MISTAKE


def list_data(*, json: bool = False) -> int:
    """Show the data sets: splits, what to download from where, terms of use.

    Args:
        json: print a JSON list
    """
    from scanseg.data import dataset_names, layout_of

    layouts = [layout_of(name) for name in dataset_names()]
    if json:
        records = [
            {
                "name": layout.name,
                "title": layout.title,
                "classes": layout.classes,
                "label_set": layout.label_set,
                "splits": {split: facts.images for split, facts in layout.splits.items()},
                "evaluation_split": layout.default_split,
                "archives": [
                    {"file": a.file, "url": a.url, "holds": a.holds, "bytes": a.size}
                    for a in layout.archives
                    if not a.within
                ],
                "reads": layout.tree,
                "terms": layout.terms,
            }
            for layout in layouts
        ]
        print(json_format.dumps(records))
        return EXIT_OK
    for layout in layouts:
        print(f"{layout.name}  ({layout.title}, {layout.labelled})")
        if layout.splits:
            counts = (f"{split} {facts.images}" for split, facts in layout.splits.items())
            print(f"  splits  {', '.join(counts)}; evaluation: {layout.default_split}")
        print(f"  reads   {layout.tree}")
        for archive in layout.archives:
            if not archive.within:
                print(f"  get     {archive.file} ({archive.holds}): {archive.url}")
        print(f"  terms   {layout.terms}")
    return EXIT_OK


COMMANDS = {"prepare": prepare, "verify": verify, "list": list_data}

_MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


def _print_findings(result: Verification) -> None:
    for finding in result.findings:
        where = f"{finding.split}: " if finding.split else ""
        print(f"{_MARKS[finding.level]} {where}{finding.message}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress | None]:
    """A progress bar on standard error, a line per stage, where there is a terminal to show it."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        stages: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in stages:
                stages[what] = bar.add_task(what, total=total)
            bar.update(stages[what], completed=done)

        yield show
