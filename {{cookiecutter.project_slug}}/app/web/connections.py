"""Connection limits that uvicorn lacks: the size of headers and the time to send them, unread responses, and the total
number of connections.

`http_connections_closed_total` counts the connections that are closed here.
"""

import asyncio
import socket
import time
from asyncio import TimerHandle
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.web.metrics import CONNECTIONS_CLOSED

KERNEL_BUFFER = 65_536
"""Unsent bytes that the kernel buffers for each connection."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """A request line and its headers may have at most `max_header_bytes` and take `timeout` seconds to arrive. A
    client that reads nothing of its response for `timeout` seconds is disconnected.

    If a worker has more than `max_connections`, it closes the one that has been idle longest. If more than
    `max_unsent_bytes` in total are unread, it closes the connection that has read nothing for longest.
    """

    max_header_bytes: ClassVar[int] = 65_536
    max_connections: ClassVar[int] = 500
    max_unsent_bytes: ClassVar[int] = 16_777_216
    timeout: ClassVar[float] = 20.0

    _unread: ClassVar[dict["LimitedHttpProtocol", None]] = {}
    """Connections whose clients have fallen behind in reading, in the order in which they did."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._headers_begun: float | None = None
        """When the request began whose headers are still incomplete, or None."""
        self._unsent = 0
        self._last_progress = time.monotonic()
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            # Otherwise the kernel buffers megabytes for a client that does not read, which we could not see or count.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BUFFER)
        self._headers_begun = self._last_progress = time.monotonic()
        self._timer = self.loop.call_later(self.timeout / 4, self._watch)
        if len(self.connections) > self.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unread.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread[self] = None
        # A single connection may have a response of any size.
        while len(self._unread) > 1 and sum(map(self._unsent_bytes, self._unread)) > self.max_unsent_bytes:
            min(self._unread, key=lambda each: each._last_progress)._abort("not_read")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.pop(self, None)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._headers_begun is None and self._is_idle():
            self._headers_begun = time.monotonic()
            self._header_bytes = 0
        if self._headers_begun is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        # A header line that never ends does not reach `on_header`.
        if self._headers_begun is not None and self._header_bytes > self.max_header_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "large_headers")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._size = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value.rstrip(b" \t"))  # httptools strips only leading blanks
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._headers_begun = None
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():  # not refused already
            super().send_400_response(msg)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self.max_header_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "large_headers")
            raise ValueError  # ends the parsing

    def _is_idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.pipeline)

    def _watch(self) -> None:
        now = time.monotonic()
        self._timer = self.loop.call_later(self.timeout / 4, self._watch)
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent:
            self._last_progress = now
        self._unsent = unsent
        if self._headers_begun is not None and now - self._headers_begun > self.timeout:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "slow_headers")
        elif now - self._last_progress > self.timeout:
            self._abort("not_read")

    @staticmethod
    def _unsent_bytes(connection: "LimitedHttpProtocol") -> int:
        size: int = connection.transport.get_write_buffer_size()
        return size

    def _make_room(self) -> None:
        connections = [each for each in self.connections if isinstance(each, LimitedHttpProtocol)]
        idle = [each for each in connections if each._is_idle() and not self._unsent_bytes(each)]
        closed = min(idle, key=lambda each: each._last_progress, default=self)
        closed._abort("too_many")
        self.connections.discard(closed)

    def _abort(self, reason: str) -> None:
        CONNECTIONS_CLOSED.labels(reason).inc()
        self._unread.pop(self, None)
        if self.cycle is not None:
            self.cycle.disconnected = True  # uvloop would raise on writes before it reports the close
        self.transport.abort()

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        if self.transport.is_closing():
            return
        CONNECTIONS_CLOSED.labels(reason).inc()
        line = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        self.transport.write(line.encode())
        self.transport.close()
