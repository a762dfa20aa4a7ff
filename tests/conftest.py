"""Fixtures shared by the whole suite: reference data where it exists, no network anywhere."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

# for fixtures that live longer than a test; each test has the folder of _own_cache
_CACHE = tempfile.TemporaryDirectory(prefix="scanseg-cache-")
os.environ["SCANSEG_CACHE"] = _CACHE.name
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402  (after the environment is set)

SUITE_WRITES = 3.0
"""GiB that the whole suite has in the temporary folder at its peak (2.6 were seen)."""


def _free() -> float:
    """GiB left in the temporary folder."""
    return shutil.disk_usage(tempfile.gettempdir()).free / 2**30


_FREE_AT_START = _free()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int | pytest.ExitCode
) -> None:
    """A full disk shows in many ways (torch says "unexpected pos"): say it in plain words."""
    least = min(_FREE_AT_START, _free())
    if exitstatus and least < SUITE_WRITES:
        terminalreporter.write_line(
            f"{tempfile.gettempdir()} had {least:.1f} GiB left and the suite writes up to "
            f"{SUITE_WRITES:g}: free some, or set TMPDIR to a folder with more",
            yellow=True,
        )


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with photos, label lists and reference numbers that are not in the repository."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared folder with reference data beside the checkout")
    return SHARED


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection beyond this machine fails the test that tried it."""
    real_connect = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        local = self.family == getattr(socket, "AF_UNIX", None) or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        )
        if not local:
            raise AssertionError(f"a test tried to reach the network: {address}")
        real_connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never touch the user's cache folder; they share one within a worker."""
    folder = tmp_path_factory.getbasetemp() / "scanseg-cache"
    monkeypatch.setenv("SCANSEG_CACHE", str(folder))
