"""``scanseg cache``: what scanseg keeps on disk between runs, and how to get rid of it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scanseg.cli import EXIT_OK
from scanseg.contracts import InputError

KINDS = {"text": "text embeddings"}
"""Folders of the cache that these commands measure and empty; anything else is left alone."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class _Entry:
    path: Path
    kind: str
    bytes: int
    changed: float


def where() -> int:
    """Print the cache folder.

    SCANSEG_CACHE in the environment chooses another one.
    """
    from scanseg.storage import cache_folder

    print(cache_folder())
    return EXIT_OK


def size(*, json_: bool = False) -> int:
    """Print how much the cache holds.

    Args:
        json_: print a JSON object, sizes in bytes
    """
    entries = _entries()
    sums = {
        kind: (
            sum(1 for e in entries if e.kind == kind),
            sum(e.bytes for e in entries if e.kind == kind),
        )
        for kind in KINDS
    }
    if json_:
        found = {kind: {"files": files, "bytes": held} for kind, (files, held) in sums.items()}
        print(json.dumps(found))
        return EXIT_OK
    for kind, (files, held) in sums.items():
        print(f"{KINDS[kind]}: {_readable(held)} in {files} file{'s' * (files != 1)}")
    return EXIT_OK


def prune(
    *, older_than: float | None = None, max_size: str | None = None, dry_run: bool = False
) -> int:
    """Remove old files from the cache.

    Removed are files to which nothing was added for a number of days, then, the oldest first, as
    many as it takes to get below a size. What is removed is made again when it is needed.

    Args:
        older_than: days
        max_size: such as 500MB or 2GB
        dry_run: only print what would be removed
    """
    if older_than is None and max_size is None:
        raise InputError("say what to remove: --older-than DAYS, --max-size SIZE, or both")
    if older_than is not None and not older_than >= 0:
        raise InputError(f"--older-than must be a number of days, not {older_than:g}")
    limit = None if max_size is None else _bytes(max_size)
    entries = sorted(_entries(), key=lambda e: (e.changed, str(e.path)))
    going = []
    if older_than is not None:
        before = time.time() - older_than * 86_400
        going = [e for e in entries if e.changed < before]
    if limit is not None:
        staying = [e for e in entries if e not in going]
        held = sum(e.bytes for e in staying)
        for entry in staying:
            if held <= limit:
                break
            going.append(entry)
            held -= entry.bytes
    _remove(going, dry_run)
    return EXIT_OK


def clear(*, dry_run: bool = False) -> int:
    """Empty the cache.

    What is removed is made again when it is needed.

    Args:
        dry_run: only print what would be removed
    """
    _remove(_entries(), dry_run)
    return EXIT_OK


COMMANDS = {"where": where, "size": size, "prune": prune, "clear": clear}


def _entries() -> list[_Entry]:
    """The files of the cache; links are not followed."""
    from scanseg.storage import cache_folder

    entries = []
    for kind in KINDS:
        top = cache_folder() / kind
        if top.is_symlink():
            continue
        for here, _, files in os.walk(top):
            for name in files:
                path = Path(here, name)
                try:
                    found = path.lstat()
                except FileNotFoundError:  # another process was faster
                    continue
                entries.append(_Entry(path, kind, found.st_size, found.st_mtime))
    return sorted(entries, key=lambda e: str(e.path))


def _remove(entries: Iterable[_Entry], dry_run: bool) -> None:
    removed, freed = 0, 0
    try:
        for entry in entries:
            if not dry_run:
                entry.path.unlink(missing_ok=True)
            verb = "would remove" if dry_run else "removed"
            print(f"{verb} {entry.path} ({_readable(entry.bytes)})")
            removed, freed = removed + 1, freed + entry.bytes
    except OSError as error:
        raise InputError(f"{entry.path} cannot be removed: {error.strerror or error}") from error
    if not dry_run:
        _drop_empty_folders()
    what = "would free" if dry_run else "freed"
    print(f"{what} {_readable(freed)} ({removed} file{'s' * (removed != 1)})")


def _drop_empty_folders() -> None:
    from scanseg.storage import cache_folder

    for kind in KINDS:
        top = cache_folder() / kind
        if top.is_symlink():
            continue
        for here, _, _ in os.walk(top, topdown=False):
            if not any(os.scandir(here)):
                os.rmdir(here)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise InputError(f"--max-size {text!r} is no size: write 500MB or 2GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _readable(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
