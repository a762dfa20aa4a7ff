"""Who works on which shard: small files that only the creation of is atomic, and nothing else.

A claim on shard 7 is the file ``claims/000007.0``. Creating a file that must not exist succeeds for
one process only, on network file systems too. If its holder died, others create ``000007.1``, which
again only one of them can, and so on: the claim with the highest number counts, and none is ever
renamed or written by anybody but its holder. When the shard is done its claims are removed.

A holder is dead if it ran on this machine and its lock on the file is gone (the system drops locks
when a process ends, however it ends), or if it has not renewed the claim for the length of a lease,
wherever it runs. Renewal comes from the work itself, photo by photo, so a process that hangs loses
its shard too. If a holder was declared dead in error, two processes do the same shard, and the
first one to finish writes it: work is lost, nothing else (``docs/decisions/0105``).
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from scanseg.contracts import InputError

LEASE = 900.0
"""Seconds; far more than photos that are labelled at once take, or the clocks of a shared file
system differ by."""

_FOLDER = "claims"
_RENEWAL = 1.0  # seconds between two writes to a claim


@dataclass
class Claim:
    """A shard that this process works on."""

    shard: int
    path: Path
    file: int
    renewed: float = 0.0

    def renew(self, done: int) -> None:
        """Say that the holder is alive and how many photos of the shard it has done."""
        now = time.monotonic()
        if now - self.renewed >= _RENEWAL:
            self.renewed = now
            self._write(done)

    def _write(self, done: int) -> None:
        content = json.dumps({"machine": machine(), "pid": os.getpid(), "done": done})
        os.lseek(self.file, 0, os.SEEK_SET)
        os.write(self.file, f"{content:<200}\n".encode())

    def is_mine(self) -> bool:
        """Whether nobody has taken the shard over."""
        try:
            same = os.path.samestat(os.fstat(self.file), self.path.stat())
        except OSError:  # whoever took it over has done it, or has given it up
            return False
        return same and not _numbered(self.path, _number(self.path) + 1).exists()


class Claims:
    """The claims of a job.

    Args:
        folder: the output folder.
        lease: seconds without renewal after which a holder counts as dead.
    """

    def __init__(self, folder: Path, lease: float = LEASE) -> None:
        self._folder, self._lease = folder / _FOLDER, lease
        self._folder.mkdir(parents=True, exist_ok=True)

    def take(self, shard: int) -> Claim | None:
        """The shard, if nobody has it or its holder is dead."""
        existing = self._of(shard)
        if existing and self._is_alive(existing[-1]):
            return None
        number = _number(existing[-1]) + 1 if existing else 0
        path = self._folder / f"{shard:06d}.{number}"
        # A name of our own first: the claim must not be visible before it is locked.
        hidden = self._folder / f".{path.name}.{secrets.token_hex(8)}"
        file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(file)
            claim = Claim(shard, path, file)
            claim.renew(0)
            os.link(hidden, path)
        except BaseException as error:
            os.close(file)
            if isinstance(error, FileExistsError | FileNotFoundError):  # another was quicker, or
                return None  # the job is done and its claims were cleaned away
            if isinstance(error, OSError):
                raise InputError(
                    f"{self._folder} cannot hold claims ({error.strerror}): --output must be on a "
                    "file system with hard links"
                ) from error
            raise
        finally:
            hidden.unlink(missing_ok=True)
        return claim

    def release(self, claim: Claim) -> None:
        """Give a shard up that is done, or that shall be left to others.

        The claim of somebody who has taken it over stays.
        """
        if claim.is_mine():
            for path in reversed(self._of(claim.shard)):
                path.unlink(missing_ok=True)
        os.close(claim.file)

    def held(self) -> dict[int, int]:
        """Photos done so far in the shards that are being worked on."""
        found: dict[int, int] = {}
        with suppress(OSError):
            for path in sorted(self._folder.iterdir(), key=_order):
                if not path.name.startswith("."):
                    found[int(path.name.partition(".")[0])] = int(_read(path).get("done", 0))
        return found

    def shard_of(self, pid: int) -> int | None:
        """The shard that a process of this machine works on, or did when it died."""
        with suppress(OSError):
            for path in sorted(self._folder.glob("[0-9]*"), key=_order, reverse=True):
                holder = _read(path)
                if (holder.get("machine"), holder.get("pid")) == (machine(), pid):
                    return _order(path)[0]
        return None

    def clean(self) -> None:
        """Remove what is left of processes that died; for a job of which every shard is done."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                path.unlink(missing_ok=True)

    def _of(self, shard: int) -> list[Path]:
        return sorted(self._folder.glob(f"{shard:06d}.*"), key=_number)

    def _is_alive(self, path: Path) -> bool:
        holder = _read(path)
        if holder.get("machine") == machine() and _is_locked(path) is False:
            return False
        try:
            return self._now() - path.stat().st_mtime < self._lease
        except FileNotFoundError:
            return False

    def _now(self) -> float:
        """The time by the clock of the file system, which all machines see alike."""
        probe = self._folder / f".clock.{secrets.token_hex(8)}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()


@cache
def machine() -> str:
    """Names the running system whose locks this process shares."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


def in_turn(shards: Iterable[int], first: int) -> Iterator[int]:
    """Shards from ``first`` on and then those before it, so that processes start far apart."""
    listed = sorted(shards)
    yield from (s for s in listed if s >= first)
    yield from (s for s in listed if s < first)


def _number(path: Path) -> int:
    return int(path.name.partition(".")[2])


def _order(path: Path) -> tuple[int, int]:
    """By shard and number; hidden files first."""
    return (
        (-1, 0) if path.name.startswith(".") else (int(path.name.partition(".")[0]), _number(path))
    )


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name.partition('.')[0]}.{number}")


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lock(file: int) -> None:
    """Lock a file until this process ends, where the system can (not on Windows)."""
    try:
        import fcntl
    except ImportError:
        return
    with suppress(OSError):  # a file system without locks: the lease decides
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(path: Path) -> bool | None:
    """Whether a process of this machine holds the lock; ``None`` where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False  # released in the meantime
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(file)
