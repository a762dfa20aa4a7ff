"""Where the official archives are: packed, unpacked, or inside one another."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from scanseg.contracts import InputError
from scanseg.data.archives import (
    Bounds,
    Bundle,
    FolderBundle,
    inflate,
    is_compressed_tar,
    open_archive,
)
from scanseg.data.layout import Archive, Layout
from scanseg.data.parallel import Progress

_TAR_OVERHEAD = 1536  # bytes of headers and padding per member, about


class Sources:
    """The archives of a layout in a source folder; closed and cleaned up at the end of a ``with``.

    Args:
        layout: the data set.
        source: folder with the archives, or with what they unpack to.
        scratch: folder for what must be unpacked before it can be read; removed at the end.
        without: folder inside ``source`` to leave out of the search.
        checksums: compare archives with their published checksums when they are opened.
        progress: called as long work goes on.
    """

    def __init__(
        self,
        layout: Layout,
        source: Path,
        *,
        scratch: Path,
        without: Path | None = None,
        checksums: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.layout = layout
        self.source = source
        self._scratch = scratch
        self._without = without
        self._checksums = checksums
        self._progress = progress
        self._unpacked: FolderBundle | None = None
        self._opened: dict[str, Bundle] = {}

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        for bundle in self._opened.values():
            bundle.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def choose(self, splits: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
        """The splits to prepare, and for each other one what is missing.

        Args:
            splits: splits that must be there; empty for all that are.

        Raises:
            InputError: one of ``splits`` or, without any, every split lacks an archive.
        """
        missing: dict[str, str] = {}
        wanted = tuple(splits) or tuple(self.layout.splits)
        for split in wanted:
            absent = [a for a in self.layout.archives if not self._has(a, split)]
            if absent:
                outer = [a for a in absent if self._named(a.within) not in absent]
                missing[split] = ", ".join(f"{a.file} ({a.holds}) from {a.url}" for a in outer)
        ready = tuple(split for split in wanted if split not in missing)
        if not ready or (splits and missing):
            split = next(iter(splits), self.layout.default_split)
            split = split if split in missing else next(iter(missing))
            raise InputError(
                f"{self.layout.name} {split}: {self.source} lacks {missing[split]}; "
                "put the archive, or what it unpacks to, there"
            )
        return ready, missing

    def open(self, archive: Archive) -> Bundle:
        """The archive's members, from the file or from what it was unpacked to.

        Raises:
            InputError: damaged, hostile, too large, or of another checksum.
        """
        if archive.file not in self._opened:
            self._opened[archive.file] = self._open(archive)
        return self._opened[archive.file]

    def _open(self, archive: Archive) -> Bundle:
        path = self._path(archive) or self._extract_inner(archive)
        if path is None:
            return self._folder()
        if not archive.within:
            self._check_digest(archive, path)
        bounds = Bounds(archive.max_members, archive.max_bytes)
        if is_compressed_tar(path):
            path = self._inflate(path, archive)
        return open_archive(path, bounds)

    def _has(self, archive: Archive, split: str) -> bool:
        takes = [t for t in archive.takes_for((split,)) if t.split == split]
        takes = takes or list(archive.takes_for((split,)))
        if not takes or self._path(archive):
            return True
        if self._outer(archive):
            return True
        return any(take.match(m.path) for m in self._folder().members for take in takes)

    def _path(self, archive: Archive) -> Path | None:
        """The archive's file in the source folder or in one right below it."""
        for path in (self.source / archive.file, *sorted(self.source.glob(f"*/{archive.file}"))):
            if path.is_file():
                return path
        return None

    def _named(self, file: str) -> Archive | None:
        return next((a for a in self.layout.archives if a.file == file), None)

    def _outer(self, archive: Archive) -> tuple[Archive, Path] | None:
        """The archive that holds this one, if it is in the source folder."""
        outer = self._named(archive.within)
        path = self._path(outer) if outer else None
        return (outer, path) if outer and path else None

    def _folder(self) -> FolderBundle:
        if self._unpacked is None:
            self._unpacked = FolderBundle(self.source, without=self._without)
        return self._unpacked

    def _extract_inner(self, archive: Archive) -> Path | None:
        found = self._outer(archive)
        if found is None:
            return None
        outer, outer_path = found
        bundle = self.open(outer)
        member = next((m for m in bundle.members if m.path.endswith(archive.file)), None)
        if member is None:
            raise InputError(f"{outer_path}: no {archive.file} inside; get it from {outer.url}")
        path = self._scratch / archive.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            bundle.copy(member, file)
        return path

    def _inflate(self, path: Path, archive: Archive) -> Path:
        """The tar file inside a gzip file, in the scratch folder."""
        inflated = self._scratch / f"{path.name}.tar"
        inflated.parent.mkdir(parents=True, exist_ok=True)
        limit = archive.max_bytes + archive.max_members * _TAR_OVERHEAD
        size = path.stat().st_size
        with inflated.open("wb") as file:
            inflate(path, file, limit, lambda done: self._report(f"unpack {path.name}", done, size))
        return inflated

    def _report(self, what: str, done: int, total: int) -> None:
        if self._progress:
            self._progress(what, done, total)

    def _check_digest(self, archive: Archive, path: Path) -> None:
        if not self._checksums or not archive.digest:
            return
        algorithm, _, official = archive.digest.partition(":")
        digest = hashlib.new(algorithm, usedforsecurity=False)
        size = path.stat().st_size
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
                self._report(f"checksum of {path.name}", file.tell(), size)
        if digest.hexdigest() != official:
            raise InputError(
                f"{path}: its {algorithm} is {digest.hexdigest()}, the official file has "
                f"{official}; get it again from {archive.url}"
            )
