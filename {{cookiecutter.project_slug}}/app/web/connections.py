"""Limits of a connection that uvicorn does not have: the size of headers, the time for them, and their number in all.

What is refused or closed here is counted in `http_connections_closed_total`.
"""

import asyncio
import time
from asyncio import TimerHandle
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.web.metrics import CONNECTIONS_CLOSED


class LimitedHttpProtocol(HttpToolsProtocol):
    """A request's line and headers may have `max_header_bytes` and take `patience` seconds, and an answer's reader may
    make no progress for as long. Of more than `max_connections` in a worker, the one that has been idle longest is closed.
    """

    max_header_bytes: ClassVar[int] = 65_536
    max_connections: ClassVar[int] = 500
    patience: ClassVar[float] = 20.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._headers_begun: float | None = None
        """When the request began whose headers are not complete; None while there is no such request."""
        self._unsent = 0
        self._last_progress = time.monotonic()
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_begun = self._last_progress = time.monotonic()
        self._timer = self.loop.call_later(self.patience / 4, self._watch)
        if len(self.connections) > self.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._headers_begun is None and self._is_idle():
            self._headers_begun = time.monotonic()
            self._header_bytes = 0
        if self._headers_begun is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        # A line without an end never becomes a header.
        if self._headers_begun is not None and self._header_bytes > self.max_header_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "large_headers")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._size = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value.rstrip(b" \t"))  # httptools cuts off the blanks before it alone
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._headers_begun = None
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():  # it was refused already
            super().send_400_response(msg)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self.max_header_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "large_headers")
            raise ValueError  # which ends the parsing

    def _is_idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.pipeline)

    def _watch(self) -> None:
        now = time.monotonic()
        self._timer = self.loop.call_later(self.patience / 4, self._watch)
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent:
            self._last_progress = now
        self._unsent = unsent
        if self._headers_begun is not None and now - self._headers_begun > self.patience:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "slow_headers")
        elif now - self._last_progress > self.patience:
            CONNECTIONS_CLOSED.labels("not_read").inc()
            self.transport.abort()

    def _make_room(self) -> None:
        idle = [each for each in self.connections if isinstance(each, LimitedHttpProtocol) and each._is_idle()]
        closed = min(idle, key=lambda each: each._last_progress, default=self)
        CONNECTIONS_CLOSED.labels("too_many").inc()
        closed.transport.abort()
        self.connections.discard(closed)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        if self.transport.is_closing():
            return
        CONNECTIONS_CLOSED.labels(reason).inc()
        line = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        self.transport.write(line.encode())
        self.transport.close()
