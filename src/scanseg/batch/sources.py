"""Where photos come from: a folder, a manifest, or tar files in the WebDataset layout.

Listing gives :class:`Item` after item, in an order that depends only on the names, and never holds
more than one folder or one archive in memory. Reading gives the bytes of one photo.
"""

from __future__ import annotations

import csv
import glob
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from scanseg.contracts import InputError
from scanseg.data.archives import Bounds, Member, TarBundle
from scanseg.formats.photos import EXTENSIONS, UNREADABLE_EXTENSIONS, PhotoLimits

MANIFESTS = (".csv", ".parquet")
TAR_BOUNDS = Bounds(members=2_000_000, total=4 * 2**40)
_PHOTO_ENDINGS = EXTENSIONS | UNREADABLE_EXTENSIONS


@dataclass(frozen=True)
class Item:
    """One photo of a source.

    Attributes:
        key: how tables call it: its path below the source, with forward slashes. Bytes of a file
            name that are not UTF-8 are written as ``\\xff``; such a photo cannot be read.
        archive: path of the tar file that holds it, below the source; empty for a file.
        labels: words of its own, in place of the job's; ``None``: the job's.
    """

    key: str
    archive: str = ""
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A place with photos.

    Attributes:
        kind: ``folder``, ``manifest`` or ``tar``.
        root: folder that keys are relative to.
        path: what the user named, absolute.
    """

    kind: str
    root: Path
    path: Path

    def items(self, output: Path) -> Iterator[Item]:
        """All photos, in a fixed order.

        Args:
            output: a folder to pass over, where results go.

        Raises:
            InputError: no photo, a damaged archive, or a manifest without a column ``path``.
        """
        if self.kind == "folder":
            yield from _walk(self.root, "", Path(os.path.abspath(output)))
        elif self.kind == "manifest":
            yield from _manifest(self.path)
        else:
            for archive in _tar_files(self.path):
                yield from _members(self.root, archive.relative_to(self.root).as_posix())


def open_source(text: str) -> Source:
    """A folder of photos, ``list.csv``, ``list.parquet``, ``a.tar``, a folder or pattern of tars.

    A folder that has ``.tar`` files and no photo at its top counts as WebDataset shards. Paths in
    a manifest are relative to the manifest.

    Raises:
        InputError: it does not exist, is of no such kind, or its path is not UTF-8.
    """
    path = Path(os.path.abspath(text))
    _check_text(str(path))
    if path.suffix.lower() in MANIFESTS and path.is_file():
        return Source("manifest", path.parent, path)
    if path.is_dir():
        kind = "tar" if _only_tars(path) else "folder"
        return Source(kind, path, path)
    if path.suffix == ".tar" and path.is_file():
        return Source("tar", path.parent, path)
    if glob.has_magic(text):
        found = [Path(f) for f in glob.glob(str(path)) if f.endswith(".tar")]
        if found:
            return Source("tar", path.parent, path)
        raise InputError(f"the pattern {text!r} matches no .tar files")
    if not path.exists():
        raise InputError(f"{text} does not exist")
    raise InputError(
        f"{text} is no source of photos: give a folder, a .csv or .parquet list, or .tar shards"
    )


class Reader:
    """Reads photos of a source; safe to use from several threads.

    Args:
        source: where they are.
        limits: bounds for untrusted files.
    """

    def __init__(self, source: Source, limits: PhotoLimits) -> None:
        self._source, self._limits = source, limits
        self._lock = threading.Lock()
        self._open: tuple[str, TarBundle, dict[str, Member]] | None = None

    def close(self) -> None:
        """Release an open archive."""
        with self._lock:
            if self._open is not None:
                self._open[1].close()
            self._open = None

    def read(self, item: Item) -> bytes:
        """The bytes of a photo's file, at most one more than the limit.

        Raises:
            InputError: it cannot be read; the line names its key, never a folder of this machine.
        """
        if item.archive:
            try:
                return self._from_tar(item)
            except InputError as error:
                raise InputError(str(error).replace(f"{self._source.root}{os.sep}", "")) from error
        try:
            with open(self._source.root / item.key, "rb") as file:
                return file.read(self._limits.max_bytes + 1)
        except FileNotFoundError:
            if "\\x" in item.key and os.path.lexists(_named_in_bytes(self._source.root, item.key)):
                raise _not_text(item.key) from None
            raise InputError(f"{item.key} does not exist") from None
        except IsADirectoryError:
            raise InputError(f"{item.key} is a folder, not a photo") from None
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{item.key} cannot be read: {reason}") from None

    def _from_tar(self, item: Item) -> bytes:
        with self._lock:
            if self._open is None or self._open[0] != item.archive:
                if self._open is not None:
                    self._open[1].close()
                    self._open = None
                bundle = TarBundle(self._source.root / item.archive, TAR_BOUNDS)
                self._open = (item.archive, bundle, {m.path: m for m in bundle.members})
            _, bundle, members = self._open
        name = item.key.removeprefix(item.archive + "/")
        if name not in members:
            if any(_as_text(path) == name for path in members):
                raise _not_text(item.key)
            raise InputError(f"{item.key} is no longer in the archive")
        if members[name].size > self._limits.max_bytes:
            limit = self._limits.max_bytes / 2**20
            raise InputError(f"{item.key} is larger than {limit:.0f} MB: shrink it first")
        return bundle.read(members[name])


def _walk(root: Path, below: str, output: Path) -> Iterator[Item]:
    """Photos below a folder, names sorted, folders after files; hidden ones are passed over."""
    here = root / below
    if here == output:
        return
    try:
        with os.scandir(here) as scanned:
            entries = sorted((e.name, e.is_dir()) for e in scanned if not e.name.startswith("."))
    except OSError as error:
        raise InputError(f"the folder {here} cannot be read: {error.strerror}") from error
    for name, is_folder in entries:
        if not is_folder and _is_photo(name):
            yield Item(_as_text(below + name))
    for name, is_folder in entries:
        if is_folder and not (here / name).is_symlink():  # a link may lead round in a circle
            yield from _walk(root, f"{below}{name}/", output)


def _manifest(path: Path) -> Iterator[Item]:
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _parquet_rows(path)
    for number, (name, labels) in enumerate(rows, start=1):
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path}, row {number}: the path is empty")
        yield Item(PurePosixPath(name).as_posix(), labels=_own_labels(labels, path, number))


def _own_labels(value: Any, path: Path, number: int) -> tuple[str, ...] | None:
    """Words of one row: ``"cat, sofa"`` or a list; empty means the job's own."""
    if value is None or value == "" or value == []:
        return None
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError(f"{path}, row {number}: labels are text with commas or a list of text")
    return tuple(word.strip() for word in words if word.strip()) or None


def _csv_rows(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            _check_columns(path, rows.fieldnames or ())
            for number, row in enumerate(rows, start=1):
                if any(field.strip() for field in row.get(None, ())):
                    raise InputError(
                        f"{path}, row {number} has more fields than columns: put labels in quotes, "
                        'as "cat, dog", and paths with commas too'
                    )
                yield row["path"], row.get("labels")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    except (csv.Error, OSError) as error:
        raise InputError(f"{path} cannot be read as CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[Any, Any]]:
    from scanseg.batch.tables import arrow

    pa, pq = arrow()
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns(path, names)
            columns = [name for name in ("path", "labels") if name in names]
            for batch in file.iter_batches(columns=columns, batch_size=4096):
                for row in batch.to_pylist():
                    yield row["path"], row.get("labels")
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise InputError(f"{path} cannot be read as Parquet ({error})") from error


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if "path" not in names:
        there = ", ".join(map(str, names)) or "no column"
        raise InputError(f"{path} has no column 'path' (it has {there}): name the photos there")


def _only_tars(folder: Path) -> bool:
    tars = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_photo(entry.name):
                return False
            tars = tars or entry.name.endswith(".tar")
    return tars


def _tar_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = path.glob("*.tar") if path.is_dir() else map(Path, glob.glob(str(path)))
    return sorted(f for f in found if f.name.endswith(".tar") and f.is_file())


def _members(root: Path, archive: str) -> Iterator[Item]:
    _check_text(archive)
    bundle = TarBundle(root / archive, TAR_BOUNDS)
    try:
        names = [m.path for m in bundle.members if m.regular and _is_sample_photo(m.path)]
    finally:
        bundle.close()
    for name in names:
        yield Item(f"{archive}/{_as_text(name)}", archive)


def _is_photo(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _PHOTO_ENDINGS


def _is_sample_photo(path: str) -> bool:
    """In WebDataset the ending starts at the first dot: ``7.seg.png`` is no photo, but a mask."""
    return "." + path.rpartition("/")[2].partition(".")[2].lower() in _PHOTO_ENDINGS


def _as_text(name: str) -> str:
    """A file name that a table can hold: bytes that are not UTF-8 become ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _named_in_bytes(root: Path, key: str) -> bytes:
    """The path that ``_as_text`` made ``key`` of."""
    below = re.sub(
        rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(key)
    )
    return os.path.join(os.fsencode(root), below)


def _check_text(path: str) -> None:
    if _as_text(path) != path:
        raise InputError(f"the path {_as_text(path)} is not UTF-8 text: rename the file or folder")


def _not_text(key: str) -> InputError:
    return InputError(f"{key}: the file name is not UTF-8 text: rename the file")
