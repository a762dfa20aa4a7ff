"""The local engine: processes on this machine that share a job, with others elsewhere if need be.

Nothing passes between processes but files in the output folder, so a job may be worked on by any
number of calls of this engine on any number of machines at once.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, NoReturn

from scanseg.batch.claims import Claims, in_turn
from scanseg.batch.plan import Plan
from scanseg.batch.progress import Watch
from scanseg.batch.tables import done_shards, is_done
from scanseg.contracts import InputError
from scanseg.signals import interrupts_held

if TYPE_CHECKING:
    from scanseg.batch.worker import BatchJob, Worker

_WAIT = 1.0  # seconds between looks at shards that others hold
_DEATHS = 3  # of processes, one after the other without a shard done between them
_FAREWELL = 10.0  # seconds that a process may take to end
_SAFE = "what is done is safe: give the same command again to go on"


def run_here(job: BatchJob, *, lease: float, watch: Watch) -> None:
    """Work on a job in this process until every shard is done, by whomever.

    Raises:
        InputError: see :class:`~scanseg.batch.worker.Worker`.
        RuntimeError: the device failed, or the model did on every photo of a shard.
    """
    from scanseg.batch.worker import Worker
    from scanseg.faults import DeviceLost

    try:
        with Worker(job) as worker, watch:
            _work(worker, Claims(job.folder, lease), first=0)
    except DeviceLost as error:
        raise RuntimeError(f"{error}; {_SAFE}") from error


def run_processes(job: BatchJob, devices: Sequence[str], *, lease: float, watch: Watch) -> None:
    """Work on a job in one new process per device until every shard is done.

    A process that dies is replaced. If that happens again and again without progress, the job
    stops. A process that hangs is left alone until the others have done everything.

    Args:
        job: what to do.
        devices: one entry per process; a device may stand there several times.
        lease: see :class:`~scanseg.batch.claims.Claims`.
        watch: follows progress in the meantime.

    Raises:
        InputError: what a process said before it stopped.
        RuntimeError: a process met a fault, or processes die without doing anything.
    """
    plan = Plan(job.folder)
    team = [
        _Member(job, device, lease, place * plan.shards // len(devices))
        for place, device in enumerate(devices)
    ]
    deaths, done, end = 0, len(done_shards(job.folder)), math.inf
    with watch:
        try:
            while any(member.is_busy() for member in team) and time.monotonic() < end:
                time.sleep(0.05)
                if not all(member.is_busy() for member in team):  # one saw that all is done
                    end = min(end, time.monotonic() + _FAREWELL)
                for member in team:
                    if not member.died():
                        continue
                    now = len(done_shards(job.folder))
                    deaths, done = (deaths + 1 if now == done else 1), now
                    if deaths >= _DEATHS:
                        raise RuntimeError(
                            f"processes died {deaths} times without finishing a shard "
                            f"{_why(plan, Claims(job.folder), member, len(team))}"
                        )
                    member.start()
        finally:
            for member in team:
                member.stop()


def _why(plan: Plan, claims: Claims, member: _Member, processes: int) -> str:
    """What a process died of, and what to do, for the message."""
    if member.last_words:
        return f"({member.last_words}); {_SAFE}"
    return (
        f"(exit code {member.exit_code}{_where(plan, claims, member)}); is there enough memory for "
        f"{processes} models? {_SAFE.capitalize()}"
    )


def _where(plan: Plan, claims: Claims, member: _Member) -> str:
    """Which photos a process that died was at, for the message."""
    shard = claims.shard_of(member.pid)
    if shard is None:
        return ", before its first photo"
    items = plan.items(shard)
    return f", in shard {shard}, {items[0].item.key} to {items[-1].item.key}"


class _Member:
    """A process of the team."""

    def __init__(self, job: BatchJob, device: str, lease: float, first: int) -> None:
        job = replace(job, model=replace(job.model, device=device))
        self._arguments = (job, lease, first)
        self.exit_code: int | None = None
        self.last_words = ""
        self.start()

    def start(self) -> None:
        """Begin, or begin again."""
        context = get_context("spawn")
        self._messages, theirs = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(
            target=_run_member, args=(*self._arguments, theirs, os.getpid()), daemon=True
        )
        with interrupts_held():
            self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0

    def is_busy(self) -> bool:
        """Whether it has not come to the end of its work."""
        return self._process.exitcode != 0

    def died(self) -> bool:
        """Whether it ended without having come to the end of its work.

        Raises:
            InputError: a user's mistake, as it said.
            RuntimeError: a fault, as it said.
        """
        self.exit_code, self.last_words = self._process.exitcode, ""
        if self.exit_code in (None, 0):
            return False
        with suppress(EOFError):
            if self._messages.poll():
                kind, text = self._messages.recv()
                if kind != "death":
                    raise (InputError if kind == "mistake" else RuntimeError)(text)
                self.last_words = text
        self._messages.close()
        return True

    def stop(self) -> None:
        """End it if it runs; its shard is left to others."""
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_FAREWELL)
        if self._process.is_alive():  # stopped, or held up in the driver of a device
            self._process.kill()
        self._process.join(_FAREWELL)
        self._messages.close()


def _run_member(job: BatchJob, lease: float, first: int, messages: Connection, parent: int) -> None:
    """The main function of a process of the team."""
    import threading

    from scanseg.batch.worker import Worker
    from scanseg.faults import device_is_lost, in_short

    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        with Worker(job) as worker:
            _work(worker, Claims(job.folder, lease), first)
    except InputError as error:
        messages.send(("mistake", str(error)))
        raise SystemExit(2) from error
    except Exception as error:
        if device_is_lost(error):
            messages.send(("death", in_short(error)))
            os._exit(1)  # at once: what tidies up would ask the device again
        messages.send(("fault", f"{type(error).__name__}: {error}"))
        raise SystemExit(1) from error


def _end_with(parent: int) -> NoReturn:
    """End this process when its parent was killed, so that no orphan holds a model."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(worker: Worker, claims: Claims, first: int) -> None:
    """Claim and do shards until all are done; wait for those that others hold."""
    from scanseg.batch.worker import log_shard

    folder, shards = worker.job.folder, range(worker.plan.shards)
    if claims.held():  # others are at work: keep out of their way
        first = secrets.randbelow(len(shards))
    while missing := set(shards) - done_shards(folder):
        worked = False
        for shard in in_turn(missing, first):
            if is_done(folder, shard) or (claim := claims.take(shard)) is None:
                continue
            try:
                if not is_done(folder, shard):  # its last holder may just have finished
                    log_shard(folder, worker.do(shard, claim.renew))
                    worked = True
            finally:
                claims.release(claim)
        if not worked:
            time.sleep(_WAIT)
