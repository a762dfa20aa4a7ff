"""Files that appear complete or not at all, and the user's cache folder.

Files are written next to their final place, synced and renamed, so a reader sees the old file or
the new one and nothing else. Nothing here needs a deep-learning library.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from scanseg.contracts import InputError

_UMASK = threading.Lock()
_KEPT = 20  # characters of a name in temporary names, so that these fit where it fits


def cache_folder() -> Path:
    """The user's cache folder of scanseg (``SCANSEG_CACHE`` overrides it); it may not exist yet."""
    chosen = os.environ.get("SCANSEG_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("scanseg", appauthor=False)


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that appears under ``path`` complete, or not at all.

    What is written goes to a temporary file in the same folder (which is made if needed). On
    leaving the block it is synced and renamed; after an exception it is removed and ``path`` is as
    it was.
    """
    with _temporary_beside(Path(path)) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[BinaryIO]:
    """As :func:`atomic_write`, but whoever comes first wins.

    Raises:
        FileExistsError: ``path`` exists at the end of the block; it stays as it is.
    """
    path = Path(path)
    with _temporary_beside(path, replace=False) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: str | Path, most_bytes: int) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: unreadable, larger than ``most_bytes``, or not JSON.
    """
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # reading reserves what it is asked for
            data = file.read(min(size, most_bytes) + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from error
    if len(data) > most_bytes:
        raise InputError(f"{path}: larger than {most_bytes // 2**20} MiB, too large for what it is")
    try:
        return parse_json(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_json(
    data: bytes | str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """The value of a JSON text in UTF-8; ``pairs`` makes objects, as ``json.loads`` has it.

    Raises:
        InputError: not JSON, nested too deeply, or with a number of thousands of digits.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise InputError("not JSON of a sensible depth") from error
    except ValueError as error:
        raise InputError(f"not JSON ({error})") from error


def first_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """The first name, alphabetically, under which two runs were given different values."""
    names = sorted({*theirs, *ours})
    return next((name for name in names if theirs.get(name) != ours.get(name)), None)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _temporary_beside(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """A temporary name in the folder of ``path`` that becomes it at the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:_KEPT]}."
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~umask())  # mkstemp makes files that only the owner may read
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # fails if it exists, also on network file systems
            temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def umask() -> int:
    """The process's file mode creation mask."""
    with _UMASK:  # it can only be read by setting it, for the whole process
        current = os.umask(0)
        os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
