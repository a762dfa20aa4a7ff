"""A tiny model behind the application, and whole servers as processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from starlette.testclient import TestClient
from web_server import LIMITS, TINY, Server, encoded, running

from scanseg.web.app import create_app
from scanseg.web.engine import Plan
from scanseg.web.metrics import Metrics
from scanseg.web.worker import Worker


@pytest.fixture(scope="session")
def client() -> Iterator[TestClient]:
    """The application with the preset ``tiny``, called without a network."""
    worker = Worker(Plan(TINY, "cpu", False, LIMITS.photo), LIMITS, Metrics())
    worker.start()
    app = create_app(worker, LIMITS, ["photos.example"])
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small photo."""
    rows, columns = np.mgrid[:48, :64]
    pixels = np.stack([4 * columns, 5 * rows, 255 - 4 * columns], axis=2).astype(np.uint8)
    return encoded(pixels)


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers, each kind once; they end with the session."""
    started: dict[tuple[str, ...], Server] = {}
    with ExitStack() as stack:

        def start(*options: str) -> Server:
            if options not in started:
                started[options] = stack.enter_context(running(*options))
            return started[options]

        yield start
