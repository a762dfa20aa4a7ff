"""Fixtures shared by the whole suite: reference data where it exists, no network anywhere."""

from __future__ import annotations

import os
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
