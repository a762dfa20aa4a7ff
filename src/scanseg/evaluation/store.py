"""Counts per image on disk, so that a killed run goes on where it stopped.

A folder holds one text file per shard, ``counts-0.jsonl`` and so on. The first line says which run
it belongs to, every further line is one image. A line starts with the CRC-32 of its JSON and is
synced to disk before the next image begins: a kill can only tear the last line, which is then
dropped. Any process may read all files; each writes only its own. The same images counted by one
process or by many, in one go or in ten, give the same numbers (``docs/decisions/0034``).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from scanseg.contracts import InputError
from scanseg.evaluation.scoring import Counted
from scanseg.metrics.average_recall import ProposalRecall
from scanseg.metrics.boundary import BoundaryF
from scanseg.metrics.confusion import PairCounts, pair_counts_from
from scanseg.metrics.panoptic import PanopticQuality
from scanseg.storage import first_difference, parse_json

_PREFIX = "counts-"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Record:
    """What was counted on one image.

    Attributes:
        key: name of the image.
        pairs: its confusion matrix.
        panoptic: its segments, if the data set has them.
        boundary: its contours, if asked for.
        proposals: what its proposals found, if asked for.
    """

    key: str
    pairs: PairCounts
    panoptic: PanopticQuality | None = None
    boundary: BoundaryF | None = None
    proposals: ProposalRecall | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers survive exactly."""
        content: dict[str, Any] = {
            "key": self.key,
            "cells": self.pairs.cells.tolist(),
            "counts": self.pairs.counts.tolist(),
        }
        if self.panoptic is not None:
            content["panoptic"] = {
                "matches": {i: found for i, found in enumerate(self.panoptic.matches) if found},
                "false": _sparse(self.panoptic.false_positives),
                "missed": _sparse(self.panoptic.false_negatives),
            }
        if self.boundary is not None:
            scores = self.boundary.scores
            content["boundary"] = {i: found for i, found in enumerate(scores) if found}
        if self.proposals is not None:
            content["proposals"] = {
                "limits": list(self.proposals.limits),
                "found": self.proposals.found.tolist(),
                "masks": self.proposals.masks,
            }
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any], num_classes: int) -> Record:
        """Read plain values back.

        Raises:
            InputError: they are not those of a record.
        """
        try:
            pairs = pair_counts_from(content["cells"], content["counts"], num_classes)
            quality = contours = recall = None
            if "panoptic" in content:
                quality = PanopticQuality(num_classes)
                for label, found in content["panoptic"]["matches"].items():
                    quality.matches[int(label)].extend(found)
                _fill(quality.false_positives, content["panoptic"]["false"])
                _fill(quality.false_negatives, content["panoptic"]["missed"])
            if "boundary" in content:
                contours = BoundaryF(num_classes)
                for label, found in content["boundary"].items():
                    contours.scores[int(label)].extend(found)
            if "proposals" in content:
                recall = ProposalRecall(tuple(content["proposals"]["limits"]))
                recall.found[:] = content["proposals"]["found"]
                recall.masks = int(content["proposals"]["masks"])
            return cls(str(content["key"]), pairs, quality, contours, recall)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"not a record of counts ({error})") from error


class CountStore:
    """The count files of one run in a folder. Use as a context: leaving it closes the own file.

    Args:
        folder: where the files are; made if needed.
        run: what decides the numbers (model, settings, data set ...), plain values.
        num_classes: K.
        shard: number of this process's file.

    Raises:
        InputError: files of another run are there, one is damaged, or another process writes to
            this shard.
    """

    def __init__(
        self, folder: str | Path, run: Mapping[str, Any], num_classes: int, shard: int = 0
    ) -> None:
        self._folder, self._num_classes = Path(folder), num_classes
        self._run = json.loads(json.dumps(run))
        self._path = self._folder / f"{_PREFIX}{shard}.jsonl"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self._path.open("ab")
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror})") from error
        try:
            _lock(self._file, self._path)
            _, whole = _read(self._path, self._run, num_classes)
            self._file.truncate(whole)
            if not whole:
                self._append({"scanseg_counts": _VERSION, "classes": num_classes, "run": self._run})
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> CountStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Append an image; it is on disk when this returns."""
        self._append(record.to_json())

    def records(self) -> dict[str, Record]:
        """Everything that any shard has counted, key -> record.

        Raises:
            InputError: a file is damaged or belongs to another run.
        """
        found: dict[str, Record] = {}
        for path in sorted(self._folder.glob(f"{_PREFIX}*.jsonl")):
            for record in _read(path, self._run, self._num_classes)[0]:
                found.setdefault(record.key, record)
        return found

    def _append(self, content: Mapping[str, Any]) -> None:
        text = json.dumps(
            content, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(text), text))
        self._file.flush()
        os.fsync(self._file.fileno())


def combine(records: Iterable[Record], num_classes: int) -> tuple[Counted, ProposalRecall | None]:
    """Totals of images, in the order given."""
    found = list(records)
    quality = PanopticQuality(num_classes) if any(r.panoptic for r in found) else None
    contours = BoundaryF(num_classes) if any(r.boundary for r in found) else None
    recall: ProposalRecall | None = None
    for record in found:
        if quality is not None and record.panoptic is not None:
            quality.merge(record.panoptic)
        if contours is not None and record.boundary is not None:
            contours.merge(record.boundary)
        if record.proposals is not None:
            recall = recall or ProposalRecall(record.proposals.limits)
            recall.merge(record.proposals)
    keys, images = tuple(r.key for r in found), tuple(r.pairs for r in found)
    return Counted(keys, images, quality, panoptic_objects=False, boundary=contours), recall


def _read(path: Path, run: Mapping[str, Any], num_classes: int) -> tuple[list[Record], int]:
    """The records of a file, and how many of its bytes are whole lines."""
    data = path.read_bytes()
    whole = 0
    records: list[Record] = []
    while (end := data.find(b"\n", whole)) >= 0:
        line = data[whole:end]
        number = len(records) + 1 if whole else 0
        if not _is_whole(line):
            if data.find(b"\n", end + 1) >= 0:
                raise InputError(
                    f"{path}: line {number + 1} is damaged; delete the file to count again"
                )
            break
        content = parse_json(line[9:])
        if whole:
            records.append(Record.from_json(content, num_classes))
        else:
            _check_run(path, content, run, num_classes)
        whole = end + 1
    return records, whole


def _is_whole(line: bytes) -> bool:
    checksum, _, text = line.partition(b" ")
    return len(checksum) == 8 and checksum == b"%08x" % zlib.crc32(text)


def _check_run(path: Path, content: Any, run: Mapping[str, Any], num_classes: int) -> None:
    known = isinstance(content, dict) and isinstance(content.get("run"), dict)
    if not known or content.get("scanseg_counts") != _VERSION:
        raise InputError(f"{path}: not a file of counts of this version; use another --output")
    if content.get("classes") != num_classes or content.get("run") != run:
        theirs = content["run"]
        differs = first_difference(theirs, run) or "classes"
        was, now = theirs.get(differs), run.get(differs)
        raise InputError(
            f"{path}: these counts are of another run ({differs}: {was} there, {now} here); use "
            "another --output, or --restart to count again"
        )


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep a second process off this file, where the system can (not on Windows)."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"{path}: another process is counting into this file") from error


def _sparse(values: np.ndarray) -> dict[int, int]:
    return {int(i): int(values[i]) for i in np.flatnonzero(values)}


def _fill(values: np.ndarray, content: Mapping[str, int]) -> None:
    for label, count in content.items():
        values[int(label)] = count
