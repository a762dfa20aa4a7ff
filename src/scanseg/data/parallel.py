"""A function over many files in threads, with few of them in flight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) as work goes on."""

T = TypeVar("T")
R = TypeVar("R")

_WINDOW = 64  # items in flight


def each(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """``function`` of each item in threads, results as they come; stops at the first error.

    Only a few items are in flight, so that a long list costs no memory and an interrupt is quick.
    """
    if workers == 1:
        yield from map(function, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        running: set[Future[R]] = set()
        try:
            while True:
                for item in remaining:
                    running.add(pool.submit(function, item))
                    if len(running) >= _WINDOW:
                        break
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
