"""Attacks a service from inside its network in several ways at once, and reports how it served others meanwhile.

It runs in a container with nothing but the standard library: `python - KEY SECONDS < tests/attack.py` prints JSON.
"""

import asyncio
import json
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable

_, KEY, SECONDS = sys.argv
REST, MCP = 8000, 8051
CONNECTIONS = 130
"""Of each kind that sends little, on each port. With the others, these exceed the two workers' 1000."""
READERS = 60
SENDERS = 10
BODIES = 100
"""Of almost a megabyte each, on each port."""
BUFFER = 2048
"""Receive buffer of clients that do not read, in bytes."""

end = time.monotonic() + float(SECONDS)

HEAD = b"GET /tasks?limit=200 HTTP/1.1\r\nHost: localhost\r\n"
ANSWERED = f"X-API-Key: {KEY}\r\n\r\n".encode()
CALL = {"name": "list_tasks", "arguments": {"limit": 200}}


def large_request(port: int) -> bytes:
    """A request with the largest possible response."""
    if port == REST:
        return HEAD + ANSWERED
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": CALL}).encode()
    head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: application/json, text/event-stream\r\n"
    return (
        head.encode() + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode() + ANSWERED + body
    )


class Connection:
    def __init__(self, port: int, buffer: int | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._port = port

    async def __aenter__(self) -> "Connection":
        await self._loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._socket.close()

    async def send(self, content: bytes) -> None:
        await self._loop.sock_sendall(self._socket, content)

    async def wait_for_close(self) -> None:
        while await self._loop.sock_recv(self._socket, 4096):
            pass


async def send_nothing(port: int) -> None:
    async with Connection(port) as connection:
        await connection.wait_for_close()


async def send_half_a_header(port: int) -> None:
    async with Connection(port) as connection:
        await connection.send(HEAD[:-8])
        await connection.wait_for_close()


async def send_a_byte_each_second(port: int) -> None:
    async with Connection(port) as connection:
        for byte in HEAD * 10:
            await connection.send(bytes([byte]))
            await asyncio.sleep(1)


async def send_headers_of_100_megabytes(port: int) -> None:
    async with Connection(port) as connection:
        await connection.send(HEAD)
        for _ in range(1000):
            await connection.send(b"X: " + b"a" * 100_000 + b"\r\n")


async def send_a_large_body_but_for_its_end(port: int) -> None:
    line = b"POST /tasks HTTP/1.1\r\n" if port == REST else b"POST /mcp HTTP/1.1\r\n"
    headers = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n"
    async with Connection(port) as connection:
        await connection.send(line + headers + ANSWERED + b" " * 999_999)
        await connection.wait_for_close()


async def read_nothing(port: int) -> None:
    async with Connection(port, BUFFER) as connection:
        await connection.send(large_request(port))
        await asyncio.sleep(float(SECONDS))


async def again_and_again(attack: Callable[[int], Awaitable[None]], port: int) -> None:
    while True:
        try:
            await attack(port)
        except OSError:
            await asyncio.sleep(0.2)


async def attack() -> None:
    kinds: dict[Callable[[int], Awaitable[None]], int] = {
        read_nothing: READERS,  # first, because connections beyond the limit are refused
        send_nothing: CONNECTIONS,
        send_half_a_header: CONNECTIONS,
        send_a_byte_each_second: CONNECTIONS,
        send_headers_of_100_megabytes: SENDERS,
        send_a_large_body_but_for_its_end: BODIES,
    }
    try:
        async with asyncio.timeout(float(SECONDS)), asyncio.TaskGroup() as attackers:
            for kind, number in kinds.items():
                for _ in range(number):
                    for port in (REST, MCP):
                        attackers.create_task(again_and_again(kind, port))
    except TimeoutError:
        pass


def call_as_others_do() -> None:
    while time.monotonic() < end:
        for url in (f"http://127.0.0.1:{REST}/tasks?limit=1", f"http://127.0.0.1:{MCP}/health"):
            began = time.monotonic()
            try:
                request = urllib.request.Request(url, headers={"X-API-Key": KEY})
                with urllib.request.urlopen(request, timeout=30) as answer:
                    answer.read()
            except OSError as error:
                refused.append(f"{url}: {error!r}")
            seconds.append(time.monotonic() - began)
        time.sleep(0.1)


refused: list[str] = []
seconds: list[float] = []
caller = threading.Thread(target=call_as_others_do)
caller.start()
asyncio.run(attack())
caller.join()
print(json.dumps({"answered": len(seconds), "refused": refused, "slowest": max(seconds)}))
