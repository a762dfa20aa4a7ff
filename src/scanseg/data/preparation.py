"""From official archives to a folder that can be opened: resumable, parallel, atomic.

Every file goes through the same steps: read a member of an archive (or of its unpacked folder),
convert it if the data set asks for it, write it under a temporary name, sync, rename. A file that
is there is therefore complete, and a second run goes on where the first one stopped. At the end
``SHA256SUMS`` has a line per file, in the format of ``sha256sum --check``.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scanseg.contracts import InputError
from scanseg.data.archives import Bundle, Member, Writer, safe_path
from scanseg.data.layout import Layout, Take
from scanseg.data.parallel import Progress, each
from scanseg.data.sources import Sources

SUMS = "SHA256SUMS"
SCRATCH = ".scanseg-prepare"
"""Folder below the output for archives within archives; removed at the end."""

_SPARE = 2**30  # bytes to leave free on the disk


@dataclass(frozen=True)
class Prepared:
    """What a preparation did.

    Attributes:
        dataset: name of the data set.
        output: the prepared folder.
        splits: splits that were prepared.
        written: files written now.
        kept: files that were there already.
        notes: remarks for the person.
    """

    dataset: str
    output: Path
    splits: tuple[str, ...]
    written: int
    kept: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Task:
    bundle: Bundle
    member: Member
    to: str
    convert: Callable[[bytes], bytes] | None = field(repr=False)


def prepare(
    layout: Layout,
    source: Path,
    output: Path,
    *,
    splits: Sequence[str] = (),
    workers: int = 2,
    checksums: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Bring a data set into the folders that its layout reads.

    Args:
        layout: the data set.
        source: folder with the official archives, or with what they unpack to.
        output: folder to fill; may hold an earlier, unfinished preparation.
        splits: splits to prepare; empty for all that ``source`` has.
        workers: threads.
        checksums: compare the archives with their published checksums first.
        progress: called from this thread.

    Raises:
        InputError: an archive is missing, damaged, hostile or too large, a label cannot be
            converted, or the disk is too small. Files written so far stay and are complete.
    """
    if not layout.archives:
        raise InputError(f"{layout.name} needs no preparation: {layout.remedy(output, '')}")
    if not source.is_dir():
        raise InputError(
            f"no folder {source}: give the one that has the archives of {layout.title}"
        )
    if workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    for split in splits:
        layout.pick(split)
    with Sources(
        layout,
        source,
        scratch=output / SCRATCH,
        without=output,
        checksums=checksums,
        progress=progress,
    ) as sources:
        chosen, missing = sources.choose(splits)
        output.mkdir(parents=True, exist_ok=True)
        tasks = _plan(layout, sources, chosen)
        _check_space(output, tasks)
        _remove_leftovers({(output / task.to).parent for task in tasks})
        sums = read_sums(output)
        written, kept = _run(tasks, output, sums, workers, progress)
        for path, data in layout.generated(output).items():
            sums[path] = _write(output / path, partial(_put, data))
        _write_sums(output, sums)
    notes = tuple(f"not prepared: {split} ({why})" for split, why in missing.items())
    return Prepared(layout.name, output, chosen, written, kept, notes)


def _plan(layout: Layout, sources: Sources, splits: Sequence[str]) -> list[_Task]:
    tasks: list[_Task] = []
    for archive in layout.archives:
        takes = archive.takes_for(splits)
        if not takes:
            continue
        bundle = sources.open(archive)
        found: dict[str | None, list[_Task]] = {take.split: [] for take in takes}
        for member in bundle.members:
            for split, task in _tasks(bundle, member, takes):
                found[split].append(task)
        for split, some in found.items():
            if not some:
                what = f"{archive.holds} of {layout.title}" + (f" {split}" if split else "")
                raise InputError(
                    f"{bundle.path}: no {what} inside; get it again from {archive.url}"
                )
            tasks += some
    places: dict[str, _Task] = {}
    for task in tasks:
        first = places.setdefault(task.to, task)
        if first.member.size != task.member.size:
            raise InputError(
                f"{sources.source}: {first.member.path} and {task.member.path} would both become "
                f"{task.to}; leave one there"
            )
    return list(places.values())


def _tasks(
    bundle: Bundle, member: Member, takes: Sequence[Take]
) -> Iterator[tuple[str | None, _Task]]:
    """The tasks that a member gives rise to, each with its split."""
    for take in takes:
        if match := take.match(member.path):
            to = match.expand(take.to)
            if not safe_path(to):
                raise InputError(f"{bundle.path}: {member.path!r} leads out of the folder; refused")
            if not member.regular:
                raise InputError(f"{bundle.path}: {member.path!r} is a link or device; refused")
            yield take.split, _Task(bundle, member, to, take.convert)


def _check_space(output: Path, tasks: Sequence[_Task]) -> None:
    needed = sum(t.member.size for t in tasks if not (output / t.to).is_file())
    free = shutil.disk_usage(output).free
    if needed + _SPARE > free:
        raise InputError(
            f"{output}: about {needed // 2**20} MiB are needed and {free // 2**20} MiB are free"
        )


def _remove_leftovers(folders: Iterable[Path]) -> None:
    """Delete the temporary files of a preparation that was killed."""
    for folder in folders:
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)


def _run(
    tasks: Sequence[_Task],
    output: Path,
    sums: dict[str, str],
    workers: int,
    progress: Progress | None,
) -> tuple[int, int]:
    """Do the tasks; adds to ``sums``. Returns (written, kept)."""
    known = dict(sums)

    def do(task: _Task) -> tuple[str, str, bool]:
        path = output / task.to
        if path.is_file() and (task.convert or path.stat().st_size == task.member.size):
            return task.to, known.get(task.to) or digest(path), False
        if task.convert is None:
            return task.to, _write(path, partial(task.bundle.copy, task.member)), True
        try:
            data = task.convert(task.bundle.read(task.member))
        except InputError as error:
            raise InputError(f"{task.bundle.path}, {task.member.path}: {error}") from error
        return task.to, _write(path, partial(_put, data)), True

    written = kept = 0
    for to, sum_of_file, new in each(do, tasks, workers):
        sums[to] = sum_of_file
        written, kept = written + new, kept + (not new)
        if progress:
            progress("files", written + kept, len(tasks))
    return written, kept


class _Hashing:
    """Passes bytes on to a file and adds them up to a SHA-256."""

    def __init__(self, file: Writer) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self.sha256.update(data)
        self._file.write(data)


def _write(path: Path, fill: Callable[[Writer], object]) -> str:
    """Write a file atomically; returns its SHA-256."""
    from scanseg.storage import atomic_write

    with atomic_write(path) as file:
        hashing = _Hashing(file)
        fill(hashing)
    return hashing.sha256.hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(output: Path) -> dict[str, str]:
    """``SHA256SUMS`` of a prepared folder: path -> digest; empty where there is none.

    Raises:
        InputError: a line that is not ``digest, two spaces, path``.
    """
    path = output / SUMS
    if not path.is_file():
        return {}
    sums = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a list of checksums; delete the file") from error
    for number, line in enumerate(lines, 1):
        digest, gap, name = line.partition("  ")
        if not gap or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise InputError(f"{path}: line {number} is not a checksum; delete the file")
        sums[name] = digest
    return sums


def _write_sums(output: Path, sums: dict[str, str]) -> None:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    _write(output / SUMS, partial(_put, lines.encode()))


def _put(data: bytes, file: Writer) -> None:
    file.write(data)
