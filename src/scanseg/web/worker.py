"""The server's side of the engine: a queue, time limits, a fresh engine after a fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from scanseg.contracts import InputError
from scanseg.signals import interrupts_held
from scanseg.web import engine
from scanseg.web.limits import Refusal, ServeLimits
from scanseg.web.metrics import Metrics

LOAD_SECONDS = 600.0  # that models may take to load


@dataclass(frozen=True)
class Answer:
    """What the engine made of a photo.

    Attributes:
        body: of the HTTP answer.
        type: its media type.
        seconds: that the engine worked on it.
    """

    body: bytes
    type: str
    seconds: float


class Worker:
    """One engine, one job at a time, first come, first served.

    A job that takes too long ends with its engine: the process is killed and a new one is started,
    so nothing runs on unseen and the next job finds a working engine. A job whose client has left
    while it waited is dropped; one that is already worked on runs to its end or its time limit.

    Args:
        plan: what engines are started with.
        limits: of the queue and of time.
        metrics: where replaced engines and working times are counted.
    """

    def __init__(self, plan: engine.Plan, limits: ServeLimits, metrics: Metrics) -> None:
        self.plan, self.limits, self.metrics = plan, limits, metrics
        self.waiting = 0
        self.busy = False
        self._turn = asyncio.Lock()
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._ready = False
        self._closed = False

    def start(self) -> None:
        """Start an engine and wait until its models are loaded.

        Raises:
            InputError: a model cannot be loaded, or the process ends while it loads.
        """
        context = multiprocessing.get_context("spawn")  # forking a process with threads is unsafe
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=engine.main, args=(theirs, self.plan), name="scanseg-engine", daemon=True
        )
        with interrupts_held():
            self._process.start()
        theirs.close()  # so that the pipe breaks when the engine ends
        try:
            head, _ = self._receive(LOAD_SECONDS)
        except (EOFError, OSError, TimeoutError):
            self._end()
            raise InputError(
                "the models could not be loaded (their process ended): is there enough memory?"
            ) from None
        if "failed" in head:
            self._end()
            raise InputError(head["failed"])
        self._ready = True

    def close(self) -> None:
        """End the engine, whatever it is doing, for good."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        self._ready = False
        if self._process is not None:
            self._process.kill()
            self._process.join(5)
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    @property
    def state(self) -> str:
        """``"ready"``, ``"busy"``, or ``"loading"`` while an engine starts."""
        return ("busy" if self.busy else "ready") if self._ready else "loading"

    @property
    def process_id(self) -> int | None:
        """Of the engine, if there is one."""
        return self._process.pid if self._process else None

    async def submit(self, job: Mapping[str, Any], read_photo: Callable[[], bytes]) -> Answer:
        """Do a job when its turn comes.

        Args:
            job: see ``engine.Engine.answer``.
            read_photo: called at its turn, so that waiting photos need no memory.

        Raises:
            Refusal: 429 the queue is full; 503 too long, or the engine ended; what the engine
                refuses (413, 422); 500 a fault of ours.
        """
        seconds = self.limits.max_seconds
        if self._turn.locked() and self.waiting >= self.limits.max_queue:
            raise Refusal(
                429,
                f"{self.waiting} requests are waiting already",
                "try again in a few seconds",
                retry_after=5,
            )
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise Refusal(
                503,
                f"no turn within {seconds:g} seconds",
                "the server is busy; try again later",
                retry_after=30,
            ) from None
        finally:
            self.waiting -= 1
        try:
            running = asyncio.create_task(self._run(job, read_photo()))
        except BaseException:
            self._turn.release()
            raise
        running.add_done_callback(lambda task: task.cancelled() or task.exception())  # is seen
        return await asyncio.shield(running)  # a client that leaves must not free the turn early

    async def _run(self, job: Mapping[str, Any], photo: bytes) -> Answer:
        self.busy = True
        try:
            return await asyncio.to_thread(self._exchange, job, photo)
        finally:
            self.busy = False
            self._turn.release()

    def _exchange(self, job: Mapping[str, Any], photo: bytes) -> Answer:
        """Send a job and wait for its answer; runs in a thread."""
        seconds = self.limits.max_seconds
        try:
            if not self._ready:  # the last attempt to start one failed
                self.start()
            assert self._pipe is not None
            self._pipe.send_bytes(json.dumps(job).encode())
            self._pipe.send_bytes(photo)
            head, body = self._receive(seconds)
        except TimeoutError:
            self._restart("timeout")
            raise Refusal(
                503,
                f"this took longer than {seconds:g} seconds and was stopped",
                "use a smaller photo or fewer words, or start the server with more --max-seconds",
            ) from None
        except (EOFError, OSError):
            self._restart("died")
            raise Refusal(
                503,
                "the process that works on photos ended and was started again",
                "use a smaller photo: memory may have run out",
            ) from None
        except InputError as error:
            raise Refusal.of(503, str(error)) from error
        if head.get("last"):  # the engine has ended with this answer
            self._restart("died")
        if head["status"] != 200:
            refusal = Refusal.of(head["status"], head["message"])
            if head["status"] == 500:
                refusal = Refusal(500, f"internal error: {head['message']}", "please report it")
            raise refusal
        if head["fresh"]:
            self.metrics.worked(head["seconds"])
        return Answer(body, head["type"], head["seconds"])

    def _restart(self, reason: str) -> None:
        if self._closed:
            return
        self.metrics.restarted(reason)
        self._end()
        with contextlib.suppress(
            InputError
        ):  # the next job tries again, and its client is told why
            self.start()

    def _receive(self, seconds: float) -> tuple[dict[str, Any], bytes]:
        assert self._pipe is not None
        if not self._pipe.poll(seconds):
            raise TimeoutError
        return json.loads(self._pipe.recv_bytes()), self._pipe.recv_bytes()
