"""Members of an archive or of an unpacked folder, checked before a single byte is written.

The list of an archive is read as a whole first. The archive is refused, and nothing is unpacked, if
the name of any member leads out of the folder, if one is encrypted, or if the number of members,
their bytes or their compression ratio are beyond the bounds. Links and devices are never unpacked
nor followed; one in the place of a wanted file is an error. While unpacking, a member yields
exactly the bytes that it announced. Of two members of one name the last one counts, as with tar.
"""

from __future__ import annotations

import gzip
import os
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol

from scanseg.contracts import InputError
from scanseg.data.pictures import MAX_FILE_BYTES

MAX_MEMBER_BYTES = 4 * 2**30
MAX_RATIO = 200
"""Unpacked size over packed size of a large zip member; photos and PNGs are near 1."""

_SMALL = 2**20  # the ratio of members below this size does not matter
_CHUNK = 2**20
_TAR_BLOCK = 512
_MAX_HEADER_READ = 2**24  # tarfile asks for a long name or a pax header in one piece
_DRIVE = re.compile(r"^[A-Za-z]:")


@dataclass(frozen=True)
class Bounds:
    """What an archive may unpack to.

    Args:
        members: number of members.
        total: bytes of all members together.
        member: bytes of one member.
    """

    members: int
    total: int
    member: int = MAX_MEMBER_BYTES


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        path: its path with forward slashes, relative and without ``..``.
        size: bytes.
        offset: where its bytes start in a tar file.
        regular: False for links and devices, which cannot be read.
    """

    path: str
    size: int
    offset: int = 0
    regular: bool = True


class Writer(Protocol):
    """Anything that takes bytes."""

    def write(self, data: bytes, /) -> object:
        """Take some bytes."""


class Bundle(ABC):
    """Members that can be read in any order and from several threads."""

    def __init__(self, path: Path, members: tuple[Member, ...]) -> None:
        self.path = path
        self.members = members

    def read(self, member: Member) -> bytes:
        """The bytes of a picture or label file.

        Raises:
            InputError: damaged, larger than any such file, or not as long as announced.
        """
        if member.size > MAX_FILE_BYTES:
            raise InputError(f"{self.path}: {member.path} has {member.size} bytes; too many")
        stream = BytesIO()
        self.copy(member, stream)
        return stream.getvalue()

    def copy(self, member: Member, target: Writer) -> None:
        """Write exactly ``member.size`` bytes to ``target``.

        Raises:
            InputError: damaged, or more or fewer bytes than announced.
        """
        if not member.regular:
            raise InputError(f"{self.path}: {member.path} is a link or device; refused")
        left = member.size
        for chunk in self._chunks(member):
            left -= len(chunk)
            if left < 0:
                break
            target.write(chunk)
        if left:
            raise InputError(f"{self.path}: {member.path} is not as long as announced; refused")

    def _damaged(self, member: Member, error: Exception) -> InputError:
        return InputError(f"{self.path}: {member.path} is damaged ({error})")

    @abstractmethod
    def close(self) -> None:
        """Release the file; reading is over."""

    @abstractmethod
    def _chunks(self, member: Member) -> Iterator[bytes]:
        """The member's bytes, piece by piece."""


class FolderBundle(Bundle):
    """The files below a folder, symbolic links left out.

    Args:
        path: the folder.
        without: a folder inside it to leave out, such as the one that is being written.
    """

    def __init__(self, path: Path, without: Path | None = None) -> None:
        skip = without.resolve() if without and without.resolve() != path.resolve() else None
        members = _walk(path.resolve(), path.resolve(), skip)
        super().__init__(path, tuple(sorted(members, key=lambda m: m.path)))

    def close(self) -> None:
        """Nothing is kept open."""

    def _chunks(self, member: Member) -> Iterator[bytes]:
        with (self.path / member.path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk


class ZipBundle(Bundle):
    """A zip archive."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(f"{path}: not a whole zip archive ({error}); get it again") from error
        entries = self._zip.infolist()
        check = _Checker(path, bounds)
        for entry in entries:
            mode = entry.external_attr >> 16
            regular = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
            if entry.flag_bits & 0x1:
                raise InputError(f"{path}: {entry.filename!r} is encrypted; refused")
            if entry.file_size > max(_SMALL, entry.compress_size * MAX_RATIO):
                raise InputError(
                    f"{path}: {entry.filename!r} unpacks to {entry.file_size} bytes from "
                    f"{entry.compress_size}; refused"
                )
            # orig_filename: ZipFile cuts names at a NUL and turns backslashes round on some systems
            member = Member(entry.orig_filename, entry.file_size, regular=regular)
            check.add(member, folder=entry.is_dir())
        self._entries = {entry.filename: entry for entry in entries}
        super().__init__(path, check.members)

    def close(self) -> None:
        """See :meth:`Bundle.close`."""
        self._zip.close()

    def _chunks(self, member: Member) -> Iterator[bytes]:
        try:
            with self._zip.open(self._entries[member.path]) as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except Exception as error:  # a false place, a broken name; each packing has its own errors
            raise self._damaged(member, error) from error


class TarBundle(Bundle):
    """An uncompressed tar archive; members are read by their place in the file."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        check = _Checker(path, bounds)
        try:
            with (
                path.open("rb") as raw,
                tarfile.open(fileobj=_Guarded(raw, path), mode="r:") as tar,
            ):
                for entry in tar:
                    regular = entry.isreg() and not entry.issparse()
                    member = Member(entry.name, entry.size, entry.offset_data, regular)
                    check.add(member, folder=entry.isdir())
                raw.seek(tar.offset)
                if raw.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):  # tarfile does not mind
                    raise InputError(f"{path}: ends too early; get it again")
        except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: not a whole tar archive ({error}); get it again") from error
        self._file = path.open("rb")
        self._lock = threading.Lock()
        super().__init__(path, check.members)

    def close(self) -> None:
        """See :meth:`Bundle.close`."""
        self._file.close()

    def _chunks(self, member: Member) -> Iterator[bytes]:
        for start in range(0, member.size, _CHUNK):
            with self._lock:
                self._file.seek(member.offset + start)
                chunk = self._file.read(min(_CHUNK, member.size - start))
            yield chunk


def is_compressed_tar(path: Path) -> bool:
    """Whether it must be inflated before :class:`TarBundle` can read it."""
    return path.name.endswith((".tgz", ".tar.gz"))


def inflate(
    path: Path, target: Writer, limit: int, progress: Callable[[int], None] | None = None
) -> None:
    """Write what a gzip file holds, at most ``limit`` bytes of it.

    Args:
        path: the gzip file.
        target: where to.
        limit: bytes; a larger content is refused.
        progress: called with the number of packed bytes read so far.

    Raises:
        InputError: damaged, or it holds more.
    """
    written = 0
    try:
        with path.open("rb") as packed, gzip.open(packed, "rb") as file:
            while chunk := file.read(_CHUNK):
                written += len(chunk)
                if written > limit:
                    raise InputError(f"{path}: unpacks to more than {limit} bytes; refused")
                target.write(chunk)
                if progress:
                    progress(packed.tell())
    except InputError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); get it again") from error


def open_archive(path: Path, bounds: Bounds) -> Bundle:
    """A zip or uncompressed tar archive, checked.

    Raises:
        InputError: of another kind, damaged, hostile or beyond the bounds.
    """
    if path.suffix == ".zip":
        return ZipBundle(path, bounds)
    if path.suffix == ".tar":
        return TarBundle(path, bounds)
    raise InputError(f"{path}: expected a .zip, .tar, .tar.gz or .tgz archive")


def safe_path(name: str) -> bool:
    """Whether a member's name stays below the folder it is unpacked into, on every system."""
    if not name or "\0" in name or "\\" in name or name.startswith("/") or _DRIVE.match(name):
        return False
    return ".." not in name.split("/")


class _Checker:
    """Adds members up and refuses what is beyond the bounds."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self.path = path
        self.bounds = bounds
        self._by_name: dict[str, Member] = {}
        self._count = 0
        self._total = 0

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(self._by_name.values())

    def add(self, member: Member, *, folder: bool) -> None:
        self._count += 1
        self._total += member.size
        if self._count > self.bounds.members:
            raise InputError(f"{self.path}: more than {self.bounds.members} members; refused")
        if not safe_path(member.path):
            raise InputError(f"{self.path}: {member.path!r} leads out of the folder; refused")
        if folder:
            return
        if member.size > self.bounds.member or self._total > self.bounds.total:
            raise InputError(
                f"{self.path}: unpacks to more than {self.bounds.total} bytes; refused"
            )
        self._by_name[member.path] = member


class _Guarded:
    """A file for ``tarfile`` that does not hand out giant headers."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_READ:
            raise InputError(f"{self._path}: a header of {size} bytes; refused")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _walk(folder: Path, root: Path, skip: Path | None) -> Iterator[Member]:
    if folder == skip:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), root, skip)
            elif entry.is_file(follow_symlinks=False):
                path = Path(entry.path).relative_to(root).as_posix()
                yield Member(path, entry.stat(follow_symlinks=False).st_size)
