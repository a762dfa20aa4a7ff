"""uvicorn's HTTP connections, with an end to slow ones.

uvicorn times out idle connections between requests only. Here a connection is also ended whose
request headers dribble in, or whose client does not take in what it is sent. (Bodies that dribble
in are the business of ``guard``, which can still answer.)
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient_protocol(seconds: float) -> type[H11Protocol]:
    """A connection class that gives clients ``seconds`` for headers and for taking answers in."""

    class ImpatientProtocol(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._hurry()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:  # the headers are complete
                self._calm()
            elif self._patience is None:  # the first bytes of a further request
                self._hurry()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._hurry()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._calm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._calm()
            super().connection_lost(exc)

        def _hurry(self) -> None:
            self._calm()
            self._patience = self.loop.call_later(seconds, self.transport.abort)

        def _calm(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return ImpatientProtocol
