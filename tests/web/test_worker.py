"""Time limits and faults, with real engines."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from web_server import TINY, encoded

from scanseg.contracts import InputError
from scanseg.web.engine import Plan, Preset
from scanseg.web.limits import Refusal, ServeLimits
from scanseg.web.metrics import Metrics
from scanseg.web.worker import Answer, Worker

Runner = Callable[[Coroutine[Any, Any, Any]], Any]
QUICK = encoded(np.full((40, 40, 3), 99, np.uint8))
DARK, BRIGHT = (encoded(np.full((40, 40, 3), grey, np.uint8)) for grey in (0, 255))
SLOW = encoded(np.zeros((2000, 2000, 3), np.uint8))  # with hundreds of new words: seconds


def job(words: int = 2, background: str = "wall") -> dict[str, Any]:
    """``background`` makes questions differ, so that the engine knows neither words nor answer."""
    return {
        "preset": "tiny",
        "labels": {f"{background} {i}": [] for i in range(words)},
        "background": [background],
        "unknown_below": None,
        "output": "json",
        "maps": False,
        "preview": False,
        "name": "photo",
    }


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    limits = ServeLimits(max_seconds=60, max_queue=2)
    worker = Worker(Plan(TINY, "cpu", False, limits.photo), limits, Metrics())
    worker.start()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def on_loop() -> Iterator[Runner]:
    """Runs coroutines on one event loop, as a server has it."""
    with asyncio.Runner() as runner:
        yield runner.run


async def until_busy(worker: Worker) -> None:
    async with asyncio.timeout(10):
        while worker.state != "busy":
            await asyncio.sleep(0.01)


def limited(worker: Worker, **limits: Any) -> None:
    worker.limits = ServeLimits(**limits)


def test_one_at_a_time_in_order_and_no_longer_queue(worker: Worker, on_loop: Runner) -> None:
    limited(worker, max_seconds=60, max_queue=2)

    async def run() -> tuple[list[str], list[Refusal]]:
        done: list[str] = []

        async def one(name: str) -> None:
            await worker.submit(job(), lambda: QUICK)
            done.append(name)

        tasks = []
        for name in "abcd":
            tasks.append(asyncio.create_task(one(name)))
            await asyncio.sleep(0)  # until it works or waits
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        return done, [o for o in outcomes if isinstance(o, Refusal)]

    done, refused = on_loop(run())
    assert done == ["a", "b", "c"]
    assert [r.status for r in refused] == [429]
    assert refused[0].headers == {"retry-after": "5"}
    assert (worker.waiting, worker.state) == (0, "ready")


def test_a_client_that_leaves_the_queue_is_forgotten(worker: Worker, on_loop: Runner) -> None:
    limited(worker, max_seconds=60, max_queue=2)
    read: list[str] = []

    async def run() -> Answer:
        def photo(name: str) -> bytes:
            read.append(name)
            return QUICK

        first = asyncio.create_task(worker.submit(job(), lambda: photo("first")))
        await asyncio.sleep(0)
        leaver = asyncio.create_task(worker.submit(job(), lambda: photo("leaver")))
        await asyncio.sleep(0)
        leaver.cancel()
        await first
        running = asyncio.create_task(worker.submit(job(), lambda: photo("cut short")))
        await asyncio.sleep(0.001)
        running.cancel()  # while it is worked on: the next one waits for its end
        return await worker.submit(job(), lambda: photo("last"))

    assert on_loop(run()).type == "application/json"
    assert read == ["first", "cut short", "last"]


def test_no_turn_in_time(worker: Worker, on_loop: Runner) -> None:
    limited(worker, max_seconds=60)

    async def run() -> None:
        first = asyncio.create_task(worker.submit(job(400, "floor"), lambda: SLOW))
        await until_busy(worker)
        limited(worker, max_seconds=0.2)
        with pytest.raises(Refusal, match=r"no turn within 0\.2 seconds") as refused:
            await worker.submit(job(), lambda: QUICK)
        assert (refused.value.status, refused.value.retry_after) == (503, 30)
        limited(worker, max_seconds=60)
        await first

    on_loop(run())


def test_what_takes_too_long_is_ended_and_the_next_one_works(
    worker: Worker, on_loop: Runner
) -> None:
    limited(worker, max_seconds=0.3)
    before = worker.process_id

    async def run() -> Answer:
        with pytest.raises(Refusal, match="took longer") as refused:
            await worker.submit(job(600, "ceiling"), lambda: SLOW)
        assert refused.value.status == 503
        limited(worker, max_seconds=60)
        return await worker.submit(job(), lambda: QUICK)

    assert on_loop(run()).type == "application/json"
    assert worker.process_id != before
    with pytest.raises(ProcessLookupError):  # nothing runs on unseen
        os.kill(before or 0, 0)
    assert 'restarts_total{reason="timeout"} 1' in worker.metrics.text()


def test_an_engine_that_dies_is_replaced(worker: Worker, on_loop: Runner) -> None:
    limited(worker, max_seconds=60)

    async def run() -> Answer:
        slow = asyncio.create_task(worker.submit(job(600, "ground"), lambda: SLOW))
        await until_busy(worker)
        os.kill(worker.process_id or 0, signal.SIGKILL)  # as the system does when memory runs out
        with pytest.raises(Refusal, match="ended and was started again") as refused:
            await slow
        assert refused.value.status == 503
        return await worker.submit(job(), lambda: QUICK)

    assert on_loop(run()).type == "application/json"
    assert 'restarts_total{reason="died"} 1' in worker.metrics.text()


FAULTY = """
import torch
from scanseg.segmenter import Segmenter
from scanseg.web import engine

def main(connection, plan):
    real = Segmenter.forward

    def forward(self, pixels, *others):
        if not pixels.any():  # a black photo
            Segmenter.forward = lost
            lost()
        return real(self, pixels, *others)

    def lost(*arguments):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    Segmenter.forward = forward
    engine.main(connection, plan)
"""


def test_an_engine_whose_device_is_lost_answers_and_is_replaced(
    on_loop: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty_engine.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)  # the engine's process gets it too
    monkeypatch.setattr("scanseg.web.worker.engine", importlib.import_module("faulty_engine"))
    limits = ServeLimits(max_seconds=60)
    worker = Worker(Plan(TINY, "cpu", False, limits.photo), limits, Metrics())
    worker.start()
    before = worker.process_id

    async def run() -> Answer:
        with pytest.raises(Refusal, match="illegal memory access") as refused:
            await worker.submit(job(), lambda: DARK)
        assert refused.value.status == 500
        return await worker.submit(job(), lambda: BRIGHT)

    try:
        assert on_loop(run()).type == "application/json"
        assert worker.process_id != before
        assert 'restarts_total{reason="died"} 1' in worker.metrics.text()
    finally:
        worker.close()


def test_a_model_that_cannot_be_loaded_is_said_at_the_start() -> None:
    limits = ServeLimits()
    presets = (Preset("vit_l", "vit_l"),)
    worker = Worker(Plan(presets, "cpu", False, limits.photo), limits, Metrics())
    with pytest.raises(InputError, match="scanseg convert"):
        worker.start()
    assert worker.process_id is None


def test_limits_are_positive() -> None:
    with pytest.raises(InputError, match="max_queue must be positive, not 0"):
        ServeLimits(max_queue=0)
