"""Proof that a data set on disk is what evaluation expects; says exactly what is not.

Three levels of finding: a *problem* makes a score wrong or impossible, a *note* is worth knowing
(the paper's counts against the data's, a split that is not there), *ok* is what was checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scanseg.contracts import InputError
from scanseg.data.layout import Files, Layout
from scanseg.data.parallel import Progress, each
from scanseg.data.pictures import picture_size
from scanseg.data.preparation import SUMS, digest, read_sums
from scanseg.data.samples import Sample

Level = Literal["ok", "note", "problem"]
_SHOWN = 5  # files named in a finding


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: how bad it is.
        split: the split it is about; empty for the whole data set.
        check: short name of the check, ``"count"``.
        message: what was found, and what to do if it is a problem.
    """

    level: Level
    split: str
    check: str
    message: str


@dataclass(frozen=True)
class Verification:
    """The result of :func:`verify`.

    Attributes:
        dataset: name of the data set.
        root: the folder.
        findings: in the order of the checks.
        counts: split -> number of samples.
        class_pixels: split -> (K,) pixels of each class; empty after a quick look.
    """

    dataset: str
    root: Path
    findings: tuple[Finding, ...]
    counts: dict[str, int] = field(default_factory=dict)
    class_pixels: dict[str, list[int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No problem was found."""
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that make a score wrong or impossible."""
        return tuple(f for f in self.findings if f.level == "problem")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "root": str(self.root), "ok": self.ok}


@dataclass(frozen=True)
class _Look:
    """What was seen of one sample."""

    key: str
    error: str = ""
    turned: bool = False
    pixels: np.ndarray | None = None


def verify(
    layout: Layout,
    root: Path,
    *,
    splits: Sequence[str] = (),
    workers: int = 2,
    quick: bool = False,
    decode_photos: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Check a data set on disk.

    For each split: the list, the number of samples against the official number and the paper's,
    photos without labels and labels without photos, the size of each label map against its photo,
    each label value, and which classes occur. For a prepared folder also ``SHA256SUMS``.

    Args:
        layout: the data set.
        root: its folder.
        splits: splits that must be there; empty for the one that evaluation uses (it must) and
            all others (those that are absent get a note).
        workers: threads.
        quick: count and pair files only; read no label map and no checksum.
        decode_photos: decode every photo too (slow), which finds truncated ones.
        progress: called from this thread.

    Raises:
        InputError: ``root`` is not a folder or has no such split at all. What is wrong inside is
            reported, not raised.
    """
    bound = layout.bind(root)
    available = bound.available(root)
    for split in splits:
        if split not in available:
            raise InputError(f"{layout.name} has no split {split!r}; it has {', '.join(available)}")
    required = tuple(splits) or ((layout.default_split,) if layout.splits else available)
    report = _Report(bound, root)
    for split in splits or available:
        try:
            files = bound.files(root, split)
        except InputError as error:
            if split in required:
                report.add("problem", split, "files", str(error))
            else:
                needs = " and ".join(a.file for a in bound.needs(split)) or "files"
                report.add("note", split, "files", f"not here; it comes from {needs}")
            continue
        report.count(split, files, split in required)
        if report.pairs(split, files) and not quick:
            report.samples(split, files, workers, decode_photos, progress)
    if not quick:
        report.checksums(workers, progress)
    return Verification(
        layout.name, root, tuple(report.findings), report.counts, report.class_pixels
    )


class _Report:
    def __init__(self, layout: Layout, root: Path) -> None:
        self.layout = layout
        self.root = root
        self.findings: list[Finding] = []
        self.counts: dict[str, int] = {}
        self.class_pixels: dict[str, list[int]] = {}

    def add(self, level: Level, split: str, check: str, message: str) -> None:
        self.findings.append(Finding(level, split, check, " ".join(message.split())))

    def count(self, split: str, files: Files, required: bool) -> None:
        """The number of samples against the official one and the paper's."""
        found = self.counts[split] = len(files.keys)
        facts = self.layout.splits.get(split)
        if facts is None or facts.images is None:
            self.add("ok" if found else "note", split, "count", f"{found} samples")
            return
        if found == facts.images:
            self.add("ok", split, "count", f"{found} samples, the official number")
        elif found in facts.also:
            self.add("note", split, "count", f"{found} samples, {facts.also[found]}")
        else:
            level: Level = "problem" if required else "note"
            self.add(level, split, "count", f"{found} samples, officially {facts.images}")
        if facts.paper is not None and facts.paper != facts.images:
            message = f"SCAN section 4.1 gives {facts.paper}, the official data {facts.images}"
            self.add("note", split, "paper", f"{message}: {facts.note}" if facts.note else message)
        elif facts.note:
            self.add("note", split, "paper", facts.note)

    def pairs(self, split: str, files: Files) -> bool:
        """Photos without labels and the reverse; False if there are such."""
        for absent, what in ((files.without_label, "label map"), (files.without_image, "photo")):
            if absent:
                self.add(
                    "problem",
                    split,
                    "pairs",
                    f"{len(absent)} samples have no {what}: {_some(absent)}",
                )
        whole = not files.without_label and not files.without_image
        if whole and files.keys:
            self.add("ok", split, "pairs", "each sample has a photo and a label map")
        return whole and bool(files.keys)

    def samples(
        self,
        split: str,
        files: Files,
        workers: int,
        decode_photos: bool,
        progress: Progress | None,
    ) -> None:
        """Sizes and label values of every sample."""
        look = partial(
            _look, partial(self.layout.sample, files), self.layout.classes, decode_photos
        )
        total = np.zeros(self.layout.classes, dtype=np.int64)
        errors: list[str] = []
        turned: list[str] = []
        for done, seen in enumerate(each(look, files.keys, workers), 1):
            if seen.error:
                errors.append(seen.error)
            if seen.turned:
                turned.append(seen.key)
            if seen.pixels is not None:
                total += seen.pixels
            if progress:
                progress(f"{self.layout.name} {split}", done, len(files.keys))
        if errors:
            self.add(
                "problem",
                split,
                "labels",
                f"{len(errors)} samples are wrong: {_some(sorted(errors))}",
            )
        else:
            self.add("ok", split, "labels", "sizes agree, every label value is defined")
        if turned:
            self.add(
                "note",
                split,
                "orientation",
                f"{len(turned)} photos have an EXIF orientation, the labels fit the stored pixels; "
                f"read them with Sample.pixels(): {_some(sorted(turned))}",
            )
        if self.layout.classes:
            occurring = int(np.count_nonzero(total))
            self.class_pixels[split] = total.tolist()
            self.add("ok", split, "classes", f"{occurring} of {self.layout.classes} classes occur")

    def checksums(self, workers: int, progress: Progress | None) -> None:
        """``SHA256SUMS`` of a prepared folder."""
        try:
            sums = read_sums(self.root)
        except InputError as error:
            self.add("problem", "", "checksums", str(error))
            return
        if not sums:
            return
        names = sorted(sums)
        wrong: list[str] = []
        same = partial(_same, self.root)
        for done, (name, matches) in enumerate(
            each(same, [(n, sums[n]) for n in names], workers), 1
        ):
            if not matches:
                wrong.append(name)
            if progress:
                progress("checksums", done, len(names))
        if wrong:
            self.add(
                "problem",
                "",
                "checksums",
                f"{len(wrong)} of {len(names)} files in {SUMS} are missing or changed: "
                f"{_some(sorted(wrong))}; delete them and prepare again",
            )
        else:
            self.add("ok", "", "checksums", f"{len(names)} files agree with {SUMS}")


def _look(make: Callable[[str], Sample], classes: int, decode_photos: bool, key: str) -> _Look:
    try:
        sample = make(key)
        height, width, orientation = picture_size(sample.image)
        turned = orientation != 1 and not sample.upright
        if sample.upright and orientation >= 5:  # a quarter turn
            height, width = width, height
        if decode_photos:
            sample.pixels()
        maps = sample.regions() if sample.read_truth is None else (sample.truth(),)
        for values in maps:
            if values.shape != (height, width):
                raise InputError(
                    f"{sample.label}: {values.shape[1]} x {values.shape[0]} pixels, its photo has "
                    f"{width} x {height}"
                )
        if sample.read_panoptic is not None:
            sample.panoptic()
    except InputError as error:
        return _Look(key, error=str(error))
    if sample.read_truth is None:
        return _Look(key, turned=turned)
    pixels = np.bincount(maps[0].ravel() + 1, minlength=classes + 1)[1:]
    return _Look(key, turned=turned, pixels=pixels)


def _same(root: Path, entry: tuple[str, str]) -> tuple[str, bool]:
    name, official = entry
    path = root / name
    return name, path.is_file() and digest(path) == official


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
