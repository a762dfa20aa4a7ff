"""Runs hostile inputs in a process that may hang, grow or die, and keeps those that fail."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fuzz.parsers import PARSERS
from fuzz.worker import make_input

MOST_SECONDS = 5.0
"""Processor time of one input; other work on the machine must not look like a hang."""

MOST_WALL_SECONDS = 600.0
"""For a process that waits for what never comes; long, since a busy machine gives little time."""

MOST_MIB = 2048
_START_SECONDS = 120.0  # loading libraries before the first answer


@dataclass
class Tally:
    """Counts of one parser."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    faults: int = 0
    hangs: int = 0
    too_large: int = 0
    died: int = 0
    slowest: float = 0.0
    largest: float = 0.0
    lines: list[str] = field(default_factory=list)

    @property
    def failures(self) -> int:
        """Inputs that were neither read nor refused with one line within the bounds."""
        return self.faults + self.hangs + self.too_large + self.died


class Victim:
    """The process that reads the inputs; a new one takes over when it is lost."""

    def __init__(self, log: Path | None = None) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._met: set[int] = set()

    def ask(self, number: int, seed: int, index: int) -> tuple[str, str, float, float]:
        """Verdict, line, seconds of processor time and peak MiB of one input."""
        process = self._running()
        watched = psutil.Process(process.pid)
        assert process.stdin is not None and process.stdout is not None
        start, before = time.monotonic(), _cpu(watched)
        process.stdin.write(json.dumps([number, seed, index]).encode() + b"\n")
        process.stdin.flush()
        peak = 0.0
        allowed = 0.0 if number in self._met else _START_SECONDS  # loads libraries, an engine
        while not select.select([process.stdout], [], [], 0.05)[0]:
            used, wall = _cpu(watched) - before, time.monotonic() - start
            peak = max(peak, _mib(watched))
            if used > MOST_SECONDS + 1 + allowed or wall > MOST_WALL_SECONDS + allowed:
                self.close()
                return "hang", f"{used:.1f} s of processor time, {wall:.1f} s", used, peak
            if peak > MOST_MIB:
                self.close()
                return "too large", f"{peak:.0f} MiB", used, peak
        answer = process.stdout.readline()
        self._met.add(number)
        if not answer:
            code = process.wait()
            self.close()
            return "died", f"exit code {code}", 0.0, peak
        verdict, line, seconds, own_peak = json.loads(answer)
        peak = max(peak, own_peak)
        if verdict != "fault" and seconds > MOST_SECONDS:
            verdict, line = "hang", f"{seconds:.1f} s of processor time"
        elif verdict != "fault" and peak > MOST_MIB:
            verdict, line = "too large", f"{peak:.0f} MiB"
        return verdict, line, seconds, peak

    def close(self) -> None:
        """End the process and what it started."""
        if self._process is None:
            return
        tree = (
            [*psutil.Process(self._process.pid).children(recursive=True)] if self._alive() else []
        )
        self._process.kill()
        for child in tree:
            child.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process = None

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _running(self) -> subprocess.Popen[bytes]:
        if not self._alive():
            self.close()
            self._met.clear()
            paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            told = subprocess.DEVNULL if self._log is None else self._log.open("ab")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=told,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                    "OMP_NUM_THREADS": "1",
                },
            )
        assert self._process is not None
        return self._process


def fuzz(
    seed: int,
    *,
    inputs: int | None = None,
    seconds: float | None = None,
    only: str = "",
    first: int = 0,
    keep: Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, Tally]:
    """Run inputs over all parsers by turns.

    Args:
        seed: of the inputs; equal seeds give equal inputs.
        inputs: how many in all; ``None`` for as many as fit into the time.
        seconds: when to end.
        only: part of the name of the parsers to run.
        first: index of the first input of each parser.
        keep: folder for the inputs that fail, and ``worker.log``.
        advance: called with the number of inputs done.
    """
    chosen = [i for i, parser in enumerate(PARSERS) if only in parser.name]
    tallies = {PARSERS[i].name: Tally() for i in chosen}
    end = None if seconds is None else time.monotonic() + seconds
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    victim = Victim(None if keep is None else keep / "worker.log")
    try:
        for done, (number, index) in enumerate(_turns(chosen, first), start=1):
            parser = PARSERS[number]
            verdict, line, used, peak = victim.ask(number, seed, index)
            tally = tallies[parser.name]
            _count(tally, verdict, used, peak)
            if verdict not in ("read", "refused"):
                tally.lines.append(f"{verdict}: {line} (seed {seed}, index {index})")
                if keep is not None:
                    stem = "".join(c if c.isalnum() else "_" for c in parser.name)
                    (keep / f"{stem}-{seed}-{index}.bin").write_bytes(
                        make_input(parser, seed, index)
                    )
            advance(done)
            if done == inputs or (end is not None and time.monotonic() > end):
                break
    finally:
        victim.close()
    return tallies


def _turns(chosen: list[int], first: int) -> Iterator[tuple[int, int]]:
    """Parser and index, round after round; a parser of weight w has w inputs per round."""
    following = dict.fromkeys(chosen, first)
    while chosen:
        for number in chosen:
            for _ in range(PARSERS[number].weight):
                yield number, following[number]
                following[number] += 1


def _count(tally: Tally, verdict: str, used: float, peak: float) -> None:
    tally.inputs += 1
    name = {"fault": "faults", "hang": "hangs", "too large": "too_large"}.get(verdict, verdict)
    setattr(tally, name, getattr(tally, name) + 1)
    tally.slowest, tally.largest = max(tally.slowest, used), max(tally.largest, peak)


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss / 2**20)
    except psutil.Error:
        return 0.0
