"""How far a job is, read from its output folder: so it counts the work of all machines."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scanseg.batch.claims import Claims
from scanseg.batch.plan import Plan
from scanseg.batch.tables import done_shards

_WINDOW = 60.0  # seconds over which the rate is taken


@dataclass(frozen=True)
class Progress:
    """A moment of a job.

    Attributes:
        done: photos in shards that are done, and those of the shards being worked on.
        images: photos of the whole job.
        shards: shards that are done.
        rate: photos per second in the last minute, by everybody; 0 if not known yet.
    """

    done: int
    images: int
    shards: int
    rate: float

    @property
    def remaining(self) -> float | None:
        """Seconds to go at this rate, or ``None``."""
        return (self.images - self.done) / self.rate if self.rate > 0 else None


class Watch:
    """Looks at a job from time to time, in a thread of its own, while used as a context.

    Args:
        folder: the output folder.
        report: called with what was seen; once more at the end.
        interval: seconds between two looks.
    """

    def __init__(
        self, folder: Path, report: Callable[[Progress], None], interval: float = 2.0
    ) -> None:
        self._folder, self._report, self._interval = folder, report, interval
        self._seen: deque[tuple[float, int]] = deque()
        self._end = threading.Event()

    def __enter__(self) -> Watch:
        self._plan, self._claims = Plan(self._folder), Claims(self._folder)
        self._look()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._end.wait(self._interval):
            self._look()

    def _look(self) -> None:
        held, shards = self._claims.held(), done_shards(self._folder)
        done = sum(self._plan.size(s) for s in shards)
        done += sum(count for s, count in held.items() if s not in shards)
        now = time.monotonic()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        rate = max(0, done - before) / (now - since) if now > since else 0.0
        self._report(Progress(done, self._plan.images, len(shards), rate))
