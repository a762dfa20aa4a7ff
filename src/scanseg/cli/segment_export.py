"""``scanseg segment --export``: data sets for other tools, from the records of a run.

The record of each photo (``NAME.json``) also holds the photo's parts, so a data set is put together
at the end from records alone: of this run, and of earlier ones with ``--skip-existing``. A run that
was killed goes on where it stopped, and no photo is held in memory for the data set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scanseg.cli.labels_file import separated
from scanseg.cli.photo_arguments import Outputs, PhotoFile
from scanseg.contracts import InputError, Segmentation, Things

FOLDER = "exports"
"""Folder of the data sets below the output folder."""


@dataclass
class Exports:
    """The data sets that a run writes.

    Args:
        formats: their names; none: nothing is written.
        things: words with one segment per connected region.
        min_area: regions of fewer pixels are left out.
        names: the vocabulary.
        left_out: photos that failed.
    """

    formats: Sequence[str]
    things: Things
    min_area: int
    names: tuple[str, ...]
    left_out: set[Path] = field(default_factory=set)

    @classmethod
    def of(
        cls, export: str | None, things: str | None, min_area: int | None, names: Sequence[str]
    ) -> Exports:
        """From the command line's ``--export``, ``--things`` and ``--min-area``.

        Raises:
            InputError: no such format, a thing that is not among the words, or options that need
                ``--export``.
        """
        if export is None:
            for option, value in (("--things", things), ("--min-area", min_area)):
                if value is not None:
                    raise InputError(f"{option} is about data sets: name a format with --export")
            return cls((), (), 1, tuple(names))
        from scanseg.formats.datasets import check_format
        from scanseg.formats.parts import thing_labels

        formats = list(dict.fromkeys(separated(export)))
        if not formats:
            raise InputError("--export names no format: --export coco, for example")
        for name in formats:
            check_format(name)
        if min_area is not None and min_area < 1:
            raise InputError(f"--min-area counts pixels, 1 or more, not {min_area}")
        chosen: Things = "all" if things == "all" else separated(things or "")
        thing_labels(chosen, names)
        return cls(formats, chosen, min_area or 1, tuple(names))

    def check(self, photos: Sequence[PhotoFile], folder: Path, *, may_replace: bool) -> None:
        """Complain before the model is loaded.

        Raises:
            InputError: a data set exists, or standard input for a format that carries photos along.
        """
        if "yolo" in self.formats and any(photo.path is None for photo in photos):
            raise InputError("--export yolo copies the photos, and standard input is no file")
        for name in self.formats:
            if not may_replace and (folder / FOLDER / name).exists():
                raise InputError(
                    f"{folder / FOLDER / name} exists: use --overwrite, --skip-existing or another "
                    "--output"
                )

    def extend(self, record: dict[str, Any], result: Segmentation) -> None:
        """Add the photo's parts to its record."""
        if self.formats:
            from scanseg.formats.datasets import parts_record

            parts = result.panoptic(self.things, min_area=self.min_area)
            record["parts"] = {**parts_record(parts), "min_area": self.min_area}

    def complete(self, path: Path) -> bool:
        """Whether a record of an earlier run has the parts that this run would write."""
        if not self.formats:
            return True
        from scanseg.formats.parts import thing_labels

        try:
            record = _read(path)
            return (
                record["labels"] == list(self.names)
                and record["parts"]["things"] == thing_labels(self.things, self.names)
                and record["parts"]["min_area"] == self.min_area
            )
        except (InputError, KeyError, TypeError):
            return False

    def write(self, plan: Sequence[tuple[PhotoFile, Outputs]], folder: Path) -> list[Path]:
        """Write the data sets of all photos that did not fail; returns their folders."""
        from scanseg.formats.datasets import Item, read_parts, write_items

        def items() -> Iterator[Item]:
            for number, (photo, outputs) in enumerate(plan, start=1):
                if photo.target in self.left_out:
                    continue
                record = _read(outputs.record)
                try:
                    size = (record["image"]["height"], record["image"]["width"])
                    parts = read_parts(record["parts"], self.names, size)
                except (KeyError, TypeError, ValueError, IndexError):
                    raise _damaged(outputs.record) from None
                name = photo.path.name if photo.path is not None else "stdin"
                file_name = (photo.target.parent / name).as_posix()
                yield Item(number, file_name, photo.target.as_posix(), parts, photo.path)

        if len(self.left_out) == len(plan):
            return []
        folders = [folder / FOLDER / name for name in self.formats]
        for name, place in zip(self.formats, folders, strict=True):
            write_items(name, place, self.names, items())
        return folders


def _read(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise _damaged(path) from None
    if not isinstance(record, dict):
        raise _damaged(path)
    return record


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged or not a record of scanseg: use --overwrite")
