"""What a data set's file must say: where things lie, how labels are coded, where to get them.

To add a data set, derive from :class:`Layout` in a file of its own. Anyone can do so outside this
package too: commands take a class path (``my_package.my_file.MyLayout``) in place of a name.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from scanseg.contracts import InputError
from scanseg.data.pictures import LabelTable, read_label_png
from scanseg.data.samples import Dataset, Sample
from scanseg.data.splits import parse_split, part_of

GIB = 2**30


@dataclass(frozen=True)
class SplitFacts:
    """What is known about a split of the official data.

    Args:
        images: its number of labelled photos; ``None`` if nobody fixed one.
        paper: the number that SCAN gives in section 4.1, if it gives one.
        note: what is known where the paper and the data disagree, or what else to mind.
        also: other numbers in use -> where they come from.
    """

    images: int | None
    paper: int | None = None
    note: str = ""
    also: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Take:
    """Members of an archive that belong into the prepared folder.

    Args:
        pattern: regular expression that must match the end of the member's path, from a path
            component on (``VOC2012/JPEGImages/(\\w+\\.jpg)`` matches below any folder).
        to: path below the prepared folder; ``\\1`` is the first group of the pattern.
        convert: bytes of the member -> bytes of the file; ``None`` copies.
        split: the split that needs these files; ``None`` where all do.
    """

    pattern: str
    to: str
    convert: Callable[[bytes], bytes] | None = None
    split: str | None = None

    def match(self, path: str) -> re.Match[str] | None:
        """The pattern against the path of a member."""
        return re.fullmatch(rf"(?:.*/)?{self.pattern}", path)


@dataclass(frozen=True)
class Archive:
    """An official archive, or the same files already unpacked.

    Args:
        file: its file name.
        url: public page or file to get it from.
        holds: what is in it, in words.
        takes: which of its members are used.
        size: bytes of the official file, if known.
        digest: ``"sha256:..."`` or ``"md5:..."`` of the official file, if known.
        within: the archive that contains this one.
        max_bytes: bound on what it may unpack to.
        max_members: bound on the number of its members.
    """

    file: str
    url: str
    holds: str
    takes: tuple[Take, ...]
    size: int | None = None
    digest: str = ""
    within: str = ""
    max_bytes: int = 8 * GIB
    max_members: int = 200_000

    def takes_for(self, splits: Sequence[str]) -> tuple[Take, ...]:
        """The takes that one of these splits needs."""
        return tuple(t for t in self.takes if t.split is None or t.split in splits)


@dataclass(frozen=True)
class Folder:
    """The files of one folder by key.

    Attributes:
        path: the folder.
        files: key -> file name.
    """

    path: Path
    files: Mapping[str, str] = field(repr=False)

    @classmethod
    def scan(cls, path: Path, *suffixes: str) -> Folder:
        """The folder's files with one of these endings (lower case); the stem is the key.

        Raises:
            InputError: two files of one stem.
        """
        files: dict[str, str] = {}
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() not in suffixes or stem.startswith("."):
                    continue
                if stem in files:
                    raise InputError(f"{path}: both {files[stem]} and {entry.name}; keep one")
                files[stem] = entry.name
        return cls(path, files)

    def __contains__(self, key: str) -> bool:
        return key in self.files

    def __getitem__(self, key: str) -> Path:
        return self.path / self.files[key]


@dataclass(frozen=True)
class Files:
    """The files of a split on disk.

    Attributes:
        keys: the split's samples in order; they need not all be there.
        images: the photos; may hold those of other splits.
        labels: the label files; may hold those of other splits.
        listed: the keys come from a list, so that further files in the folders are no mistake.
    """

    keys: tuple[str, ...] = field(repr=False)
    images: Folder
    labels: Folder
    listed: bool

    @property
    def without_image(self) -> list[str]:
        """Samples of the split whose photo is not there."""
        return [key for key in self.keys if key not in self.images]

    @property
    def without_label(self) -> list[str]:
        """Samples of the split whose label file is not there; photos without one included."""
        missing = [key for key in self.keys if key not in self.labels]
        if not self.listed:
            missing += sorted(set(self.images.files) - set(self.labels.files))
        return missing


class Layout(ABC):
    """How one data set lies on disk. Derived classes fill in the attributes and ``files``."""

    name: ClassVar[str]
    """What commands call it."""
    title: ClassVar[str]
    """How people write it."""
    label_set: ClassVar[str | None]
    """Name of the label set in ``scanseg.vocabulary`` that the class indices follow."""
    table: LabelTable
    """Values of the files that are read -> class indices; its order is the label set's."""
    names: tuple[str, ...] = ()
    """The folder's own class names; empty where there is a label set."""
    prompts: tuple[str, ...] = ()
    """The folder's own plain names for a text encoder, in the order of ``names``."""
    splits: ClassVar[Mapping[str, SplitFacts]]
    """Official splits."""
    default_split: ClassVar[str]
    """The split that evaluation uses."""
    archives: ClassVar[tuple[Archive, ...]] = ()
    """Where the data comes from."""
    tree: ClassVar[str]
    """The folders that are read, for people."""
    terms: ClassVar[str]
    """Terms of use in a line."""

    @property
    def classes(self) -> int:
        """K, 0 for class-agnostic data."""
        return len(self.table.values)

    @property
    def official_table(self) -> LabelTable:
        """The values of the official files, where preparation changes them; else ``table``."""
        return self.table

    @property
    def labelled(self) -> str:
        """What the labels are, in words."""
        return f"{self.classes} classes"

    @abstractmethod
    def files(self, root: Path, split: str) -> Files:
        """The split's files below ``root``.

        Raises:
            InputError: no such split, or its folders are not there; says where to get them.
        """

    def sample(self, files: Files, key: str) -> Sample:
        """One sample of the split."""
        label = files.labels[key]
        return Sample(key, files.images[key], label, partial(self.read_label, label))

    def read_label(self, path: Path) -> np.ndarray:
        """A label file -> (H, W) int32 class indices, -1 for void."""
        return read_label_png(path, self.table)

    def at(self, root: Path) -> Layout:
        """This layout for a certain folder; most do not depend on it."""
        return self

    def available(self, root: Path) -> tuple[str, ...]:
        """Splits that ``root`` may have."""
        return tuple(self.splits)

    def generated(self, output: Path) -> Mapping[str, bytes]:
        """Files made from what has been unpacked: path below ``output`` -> bytes."""
        return {}

    def open(self, root: Path, split: str = "") -> Dataset:
        """A split of the data set.

        Args:
            root: its folder.
            split: name of a split, with ``@held_out`` or ``@rest`` for a fixed part of it; empty
                for the one that evaluation uses.

        Raises:
            InputError: no such split, or files are missing; one line says which and where to get
                them.
        """
        name, part = parse_split(split or self.default_split)
        layout = self.bind(root)
        files = layout.files(root, name)
        for absent, what in ((files.without_label, "label"), (files.without_image, "photo")):
            if absent:
                raise InputError(
                    f"{self.name} {name}: {len(absent)} samples under {root} have no {what}, the "
                    f"first is {absent[0]}; scanseg data verify {self.name} tells more"
                )
        if not files.keys:
            raise InputError(f"{self.name} {name}: no samples under {root}")
        keys = part_of(files.keys, part)
        facts = self.splits.get(name)
        return Dataset(
            name=self.name,
            split=split or self.default_split,
            root=root,
            keys=keys,
            classes=layout.classes,
            label_set=layout.label_set,
            names=layout.names,
            prompts=layout.prompts,
            expected=facts.images if facts and not part else None,
            make=partial(layout.sample, files),
        )

    def bind(self, root: Path) -> Layout:
        """:meth:`at`, after a look whether ``root`` is a folder.

        Raises:
            InputError: it is not; the message says where to get the data.
        """
        if not root.is_dir():
            raise InputError(
                f"{self.name}: no folder {root}; {self.remedy(root, self.default_split)}"
            )
        return self.at(root)

    def need(self, root: Path, split: str, what: str, *candidates: str) -> Path:
        """The first of these paths below ``root`` that exists.

        Raises:
            InputError: none does; the message says where to get the data of the split.
        """
        for candidate in candidates:
            if (root / candidate).exists():
                return root / candidate
        looked = " or ".join(c or "." for c in candidates)
        raise InputError(
            f"{self.name}: no {what} under {root} ({looked}); {self.remedy(root, split)}"
        )

    def pick(self, split: str) -> SplitFacts:
        """The facts of an official split.

        Raises:
            InputError: no such split.
        """
        if split not in self.splits:
            raise InputError(f"{self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def needs(self, split: str) -> tuple[Archive, ...]:
        """The official archives that a split comes from."""
        return tuple(
            a for a in self.archives if not a.within and (a.takes_for((split,)) or not split)
        )

    def remedy(self, root: Path, split: str) -> str:
        """Where to get the data of a split and what to run then."""
        sources = ", ".join(f"{a.file} from {a.url}" for a in self.needs(split))
        return (
            f"get {sources}, then run: scanseg data prepare {self.name} --source FOLDER "
            f"--output {root}"
        )
