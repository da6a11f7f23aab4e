"""Limits below the application: what connections may send, how slowly, and how many there may be."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import uvicorn
from prometheus_client import REGISTRY
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.web.connections import LimitedHttpProtocol
from tests.server import wait_until

LARGE_ANSWER = "x" * 2_000_000
"""Less than what Linux would buffer for a connection without a limit."""

Connect = Callable[[], socket.socket]


class Impatient(LimitedHttpProtocol):
    timeout = 0.4


class Crowded(LimitedHttpProtocol):
    max_connections = 3


class Full(LimitedHttpProtocol):
    max_unsent_bytes = len(LARGE_ANSWER) + 1_000_000


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    answers = {"/large": LARGE_ANSWER, "/header": repr(dict(scope["headers"]).get(b"x"))}
    await PlainTextResponse(answers.get(scope["path"], "served"))(scope, receive, send)


@contextmanager
def serve(protocol: type[LimitedHttpProtocol]) -> Iterator[Connect]:
    config = uvicorn.Config(app, port=0, http=protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    connections: list[socket.socket] = []

    def connect() -> socket.socket:
        connections.append(socket.create_connection(listener.getsockname(), timeout=10))
        return connections[-1]

    try:
        yield connect
    finally:
        for connection in connections:
            connection.close()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def connect() -> Iterator[Connect]:
    with serve(LimitedHttpProtocol) as connect:
        yield connect


@pytest.fixture(scope="module")
def connect_impatient() -> Iterator[Connect]:
    with serve(Impatient) as connect:
        yield connect


def closed(reason: str) -> float:
    return REGISTRY.get_sample_value("http_connections_closed_total", {"reason": reason}) or 0.0


def status_of(connection: socket.socket) -> str:
    return connection.recv(4096).split(b"\r\n")[0].decode()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 40_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a" * 70_000,
    ],
    ids=["path", "header", "header without an end", "many headers", "name without an end"],
)
def test_large_headers_are_rejected_and_counted(connect: Connect, head: bytes) -> None:
    before = closed("large_headers")
    connection = connect()
    connection.sendall(head)
    assert status_of(connection) == "HTTP/1.1 431 Request Header Fields Too Large"
    assert closed("large_headers") == before + 1


def test_requests_with_headers_below_the_limit_are_served(connect: Connect) -> None:
    connection = connect()
    for _ in range(3):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 30_000 + b"\r\n\r\n")
        assert status_of(connection) == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("value", [b"a b", b" a b", b" a b \t ", b"a b\t"])
def test_spaces_around_a_header_value_are_ignored(connect: Connect, value: bytes) -> None:
    """RFC 9110, 5.5."""
    connection = connect()
    connection.sendall(b"GET /header HTTP/1.1\r\nHost: a\r\nX:" + value + b"\r\nConnection: close\r\n\r\n")
    with connection.makefile("rb") as answer:
        assert answer.read().endswith(b"\r\n\r\nb'a b'")


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_a_connection_without_a_request_is_closed(connect_impatient: Connect, begun: bytes) -> None:
    before = closed("slow_headers")
    connection = connect_impatient()
    connection.sendall(begun)
    assert status_of(connection) == "HTTP/1.1 408 Request Timeout"
    assert connection.recv(1) == b""
    assert closed("slow_headers") == before + 1


def test_a_connection_stays_open_between_requests(connect_impatient: Connect) -> None:
    connection = connect_impatient()
    connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status_of(connection) == "HTTP/1.1 200 OK"
    begun_later = connect_impatient()
    assert status_of(begun_later) == "HTTP/1.1 408 Request Timeout"
    connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status_of(connection) == "HTTP/1.1 200 OK"


def test_a_client_that_does_not_read_is_disconnected(connect_impatient: Connect) -> None:
    before = closed("not_read")
    connect_impatient().sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: closed("not_read") == before + 1, timeout=10, what="the connection is closed")


def test_if_clients_leave_too_much_unread_the_one_that_stalled_first_is_disconnected() -> None:
    before = closed("not_read")
    with serve(Full) as connect:
        first, second = connect(), connect()
        for connection in (first, second):
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert connection.recv(1)
        wait_until(lambda: closed("not_read") == before + 1, timeout=10, what="one is closed")
        assert sum(map(len, iter(lambda: first.recv(65_536), b""))) < len(LARGE_ANSWER)
        assert sum(map(len, iter(lambda: second.recv(65_536), b""))) > len(LARGE_ANSWER)


def test_if_there_are_too_many_connections_the_longest_idle_one_is_closed() -> None:
    before = closed("too_many")
    with serve(Crowded) as connect:
        connections = [connect() for _ in range(Crowded.max_connections + 1)]
        for connection in connections[1:]:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert status_of(connection) == "HTTP/1.1 200 OK"
        with suppress(ConnectionResetError):
            assert connections[0].recv(1) == b""
    assert closed("too_many") == before + 1
