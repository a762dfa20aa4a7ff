"""Ctrl-C held back while processes start."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

HELD = """
import signal
from multiprocessing import resource_tracker
from scanseg.signals import interrupts_held

def held():
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

with interrupts_held():
    resource_tracker.ensure_running()  # as the first process that is started does
    inside = held()
print(inside, held())
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")
def test_pythons_own_helper_does_not_let_interrupts_through() -> None:
    told = subprocess.run(
        [sys.executable, "-c", HELD], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.split() == ["True", "False"]
