"""Ctrl-C and processes of our own: it reaches the whole group, but only the first one answers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes started inside never see SIGINT; for this one it waits until the block ends.

    So a command that has several processes tells one line when it is interrupted, and ends the
    others as it unwinds, also those that are still loading libraries. Where the system cannot hold
    signals back nothing happens.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    # Processes need it, and where it is started inside the block it lets SIGINT through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
