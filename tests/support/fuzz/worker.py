"""A process that reads hostile inputs one by one: ``python -m fuzz.worker`` (see ``run``)."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import resource
import sys
import tempfile
import time
import zlib
from pathlib import Path

from fuzz.judge import judge
from fuzz.mutations import mutate
from fuzz.parsers import PARSERS, Parser

_MOST_DATA = 6 * 2**30  # bytes; spares the machine what the watchdog would notice too late


def make_input(parser: Parser, seed: int, index: int) -> bytes:
    """Input number ``index``: the seeds of the parser as they are, then changes of them."""
    found = parser.seeds()
    if index < len(found):
        return found[index]
    draw = random.Random(zlib.crc32(f"{seed} {parser.name} {index}".encode()))
    return mutate(draw, draw.choice(found), found)


def main() -> None:
    """Answer every line ``[parser number, seed, index]`` with ``[verdict, line, seconds, MiB]``."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_DATA, _MOST_DATA))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    sys.stdout = sys.stderr
    os.environ["SCANSEG_CACHE"] = tempfile.mkdtemp(prefix="scanseg-fuzz-cache-")
    for line in sys.stdin:
        number, seed, index = json.loads(line)
        parser = PARSERS[number]
        data = make_input(parser, seed, index)
        with tempfile.TemporaryDirectory(prefix="scanseg-fuzz-") as name:
            _forget_peak()
            started = time.process_time()
            verdict, said = judge(parser.read, data, Path(name))
            seconds = time.process_time() - started
            if (
                any(path.name == "owned" for path in Path(name).rglob("*"))
                or Path("owned").exists()
            ):
                verdict, said = "fault", "the input ran a command"
        print(json.dumps([verdict, said, seconds, _peak_mib()]), file=answers, flush=True)


def _forget_peak() -> None:
    """What earlier inputs freed and the C library kept for the next use does not count."""
    with contextlib.suppress(AttributeError):  # a C library that has no such function
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
