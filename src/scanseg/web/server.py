"""Binds the port and runs engine, application and HTTP server until a signal ends them."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import uvicorn

from scanseg.contracts import InputError, Mode
from scanseg.web.app import create_app
from scanseg.web.engine import Plan, Preset
from scanseg.web.limits import ServeLimits
from scanseg.web.metrics import Metrics
from scanseg.web.protocol import impatient_protocol
from scanseg.web.worker import Worker

_FAREWELL_SECONDS = 10  # that requests may take to end after a signal


def offered(preset: str, weights: str | None) -> tuple[Preset, ...]:
    """The models to offer: the one that was asked for, and ``embedded``, which needs nothing."""
    name = Path(preset).name  # a preset's own, or the last part of a folder or hub id
    if not name:
        raise InputError(f"preset {preset!r} has no name: give a preset, a folder or a hub id")
    chosen = Preset(name, preset, weights)
    return (chosen,) if name == "embedded" else (chosen, Preset("embedded", "embedded"))


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server that is bound to ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    presets: tuple[Preset, ...],
    *,
    device: str,
    mode: Mode = "exact",
    lazy: bool,
    host: str,
    port: int,
    hosts: Collection[str],
    limits: ServeLimits,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM, then let running requests end and clean up.

    Args:
        presets: models to offer, the default first.
        device: as for ``Segmenter.from_pretrained``.
        mode: the same.
        lazy: load a model when it is first asked for.
        host: name or address to bind.
        port: to bind; 0 takes a free one.
        hosts: further names under which the server may be called.
        limits: on requests.
        ready: called with the page's address before the first request is taken.

    Raises:
        InputError: the port cannot be bound, or a model cannot be loaded.
    """
    bound = _bind(host, port)
    with bound:
        worker = Worker(Plan(presets, device, lazy, limits.photo, mode), limits, Metrics())
        handlers = {s: signal.signal(s, _stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            worker.start()
            shown = "localhost" if host in ("localhost", "127.0.0.1", "::1") else host
            ready(f"http://{f'[{shown}]' if ':' in shown else shown}:{bound.getsockname()[1]}/")
            config = uvicorn.Config(
                create_app(worker, limits, {*hosts, host}),
                http=impatient_protocol(limits.head_seconds),
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=4 * limits.max_connections,  # the guard answers before that
                h11_max_incomplete_event_size=32 * 1024,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=_FAREWELL_SECONDS,
            )
            # uvicorn takes the signals over and raises them again at its end, for ``_ended``
            for s in handlers:
                signal.signal(s, _ended)
            _Server(config, worker).run(sockets=[bound])
        except _Stopped:
            pass
        finally:
            worker.close()
            for s, handler in handlers.items():
                signal.signal(s, handler)


class _Server(uvicorn.Server):
    """Ends what is worked on when a second Ctrl-C asks for it."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if self.force_exit:
            self._worker.close()


class _Stopped(Exception):  # noqa: N818
    """A signal came while the models were loading."""


def _stop(number: int, frame: object) -> None:
    raise _Stopped


def _ended(number: int, frame: object) -> None:
    """The server has stopped already."""


def _bind(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"port must lie in 0..65535, not {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen on {host} port {port} ({reason}): choose another --port or --host"
        ) from error
