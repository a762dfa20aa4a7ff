"""Around every request: host, origin, size, slowness, connections, security headers, counting."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scanseg.web.limits import Refusal, ServeLimits
from scanseg.web.metrics import Metrics

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}

_log = logging.getLogger("scanseg.web")
_LINGER_SECONDS = 2.0  # that a refused upload is read on, so that its client reads the answer
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_METHODS = (*_SAFE_METHODS, "POST", "PUT", "PATCH", "DELETE")


class Guard:
    """ASGI middleware; the outermost.

    Args:
        app: what it guards.
        limits: of bodies, time and connections.
        hosts: names, besides ``localhost`` and IP addresses, under which the server may be called.
        metrics: where answers are counted.
        routes: paths of the application; others are counted together.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: ServeLimits,
        hosts: Collection[str],
        metrics: Metrics,
        routes: Collection[str],
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.hosts = {host.lower() for host in hosts} | {"localhost"}
        self.routes = frozenset(routes)
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # the server's start and end
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self.routes else "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        answered = False

        async def send_guarded(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                self.metrics.request(method, route, message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        body = _Body(receive, self.limits)
        self.active += 1
        try:
            self._check(scope)
            await self.app(scope, body.receive, send_guarded)
        except Refusal as refusal:
            if not answered:
                await _refuse(refusal, body, send_guarded)
        except ClientDisconnect:
            pass
        except Exception as error:
            _log.exception("request failed: %s %s", method, route)
            if not answered:
                fault = Refusal(500, f"internal error: {type(error).__name__}", "please report it")
                await _refuse(fault, body, send_guarded)
        finally:
            self.active -= 1

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self.active > self.limits.max_connections:
            raise Refusal(
                503,
                f"more than {self.limits.max_connections} requests at once",
                "try again in a few seconds",
                retry_after=5,
            )
        host = headers.get("host", "")
        if not self._known(host):
            raise Refusal(
                403,
                f"this server does not answer to the name {host[:100]!r}",
                "use localhost or an IP address, or start it with --allow-host NAME",
            )
        if scope["method"] not in _SAFE_METHODS:
            _check_origin(headers, host)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.limits.body_bytes:
            raise _too_large(self.limits)

    def _known(self, host: str) -> bool:
        """Whether a Host header is ours.

        A name that somebody else's DNS points at this machine (DNS rebinding) is not; an IP address
        cannot be pointed anywhere.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _check_origin(headers: Headers, host: str) -> None:
    """Refuse what another site's page makes a browser send; programs send neither header."""
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "none")
    foreign = origin is not None and _address(origin) != host.lower()
    if foreign or site not in ("same-origin", "none"):
        raise Refusal(
            403,
            "a page of another site may not send photos here",
            "use the server's own page, or a program",
        )


def _address(origin: str) -> str | None:
    """Host and port of an origin; ``None`` if it is no URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


class _Body:
    """A request's body as it arrives, counted and timed."""

    def __init__(self, receive: Receive, limits: ServeLimits) -> None:
        self._receive, self._limits = receive, limits
        self._deadline = time.monotonic() + limits.upload_seconds
        self._bytes = 0
        self.complete = False

    async def receive(self) -> Message:
        """The next message, or a ``Refusal``: 408 too slow, 413 too large."""
        if self.complete:  # now it only waits for the client to leave
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(
                408,
                f"the upload took longer than {self._limits.upload_seconds:g} seconds",
                "send a smaller photo, or use a faster connection",
            ) from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        else:
            self.complete = True
        if self._bytes > self._limits.body_bytes:
            raise _too_large(self._limits)
        return message

    async def drain(self) -> None:
        """Read on for a moment: a connection closed with unread data loses its answer."""
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self.complete:
                    message = await self._receive()
                    self.complete = not message.get("more_body", False)
        except TimeoutError:
            pass


def _too_large(limits: ServeLimits) -> Refusal:
    return Refusal(
        413,
        f"the photo is larger than {limits.max_bytes / 2**20:.3g} MB",
        "shrink it or save it as JPEG first",
    )


async def _refuse(refusal: Refusal, body: _Body, send: Send) -> None:
    content = json.dumps(refusal.body).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        **({} if body.complete else {"connection": "close"}),
        **refusal.headers,
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    await body.drain()
    await send({"type": "http.response.body"})
