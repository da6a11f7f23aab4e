"""The middleware of both ports, as plain ASGI classes: each BaseHTTPMiddleware would cost a request 100 us."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import request_id, request_notes
from app.web.metrics import DURATION, IN_PROGRESS, REQUESTS
from app.web.problems import ProblemResponse, problem, problem_for

LARGE_BODY = 65_536
"""Bodies of at least this many bytes are large; uvicorn reads about as many ahead."""
LARGE_BODIES = 8
"""How many large bodies each port of a worker may have in memory at once."""

logger = logging.getLogger("app.access")

# Any word can be sent as a method, and each one that became a label would add a time series.
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def with_middleware(app: ASGIApp, middleware: Sequence[Middleware]) -> ASGIApp:
    """Wrap the app in middleware, of which the first is the outermost."""
    for layer in reversed(middleware):
        app = layer.cls(app, *layer.args, **layer.kwargs)
    return app


class DispatchByPort:
    """Send a request to the app of the port that accepted it, whatever its headers say."""

    def __init__(self, rest: ASGIApp, mcp: ASGIApp, *, mcp_port: int) -> None:
        self._rest = rest
        self._mcp = mcp
        self._mcp_port = mcp_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")
        on_mcp_port = server is not None and server[1] == self._mcp_port
        await (self._mcp if on_mcp_port else self._rest)(scope, receive, send)


class DispatchByPath:
    """For platforms that give a service one port: send MCP's paths to MCP, and everything else to REST."""

    def __init__(self, rest: ASGIApp, mcp: ASGIApp, *, mcp_paths: Collection[str]) -> None:
        self._rest = rest
        self._mcp = mcp
        self._mcp_paths = mcp_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_mcp = scope["type"] == "http" and scope["path"].removesuffix("/") in self._mcp_paths
        await (self._mcp if is_mcp else self._rest)(scope, receive, send)


class RequestIdMiddleware:
    """Uses the request's `X-Request-ID` if it is harmless, or creates one, and returns it with the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        proposed = Headers(scope=scope).get("x-request-id", "")
        current_id = proposed if _REQUEST_ID.fullmatch(proposed) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = current_id
            await send(message)

        token = request_id.set(current_id)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            request_id.reset(token)


class AccessLogMiddleware:
    """Logs and counts each request. `quiet_paths`, which are requested every few seconds, are not logged."""

    def __init__(
        self, app: ASGIApp, *, interface: str, known_paths: frozenset[str], quiet_paths: frozenset[str]
    ) -> None:
        self._app = app
        self._interface = interface
        self._known_paths = known_paths
        self._quiet_paths = quiet_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        started = time.perf_counter()
        notes: dict[str, object] = {}
        token = request_notes.set(notes)

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        IN_PROGRESS.labels(self._interface).inc()
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            request_notes.reset(token)
            IN_PROGRESS.labels(self._interface).dec()
            self._record(scope, status, time.perf_counter() - started, notes)

    def _record(self, scope: Scope, status: int, seconds: float, notes: dict[str, object]) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        # Nor can arbitrary paths become labels.
        known_path = scope["path"] if scope["path"] in self._known_paths else "unmatched"
        route = getattr(scope.get("route"), "path", known_path)
        REQUESTS.labels(self._interface, method, route, status).inc()
        DURATION.labels(self._interface, method, route).observe(seconds)
        if scope["path"] not in self._quiet_paths:
            logger.info(
                "request",
                extra={
                    "interface": self._interface,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round(seconds * 1000, 2),
                    **notes,
                },
            )


class ErrorMiddleware:
    """Turns any exception into a response."""

    def __init__(
        self, app: ASGIApp, *, form: Callable[[ProblemResponse, str], ASGIApp] = lambda answer, _path: answer
    ) -> None:
        self._app = app
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if not has_begun:
                answer = problem(503, "The service is shutting down; try again.", headers={"Connection": "close"})
                await self._form(answer, scope["path"])(scope, receive, send)
            raise
        except Exception as error:
            answer = problem_for(error)
            if not has_begun:
                await self._form(answer, scope["path"])(scope, receive, send)


class TimeoutMiddleware:
    """504 if a request is not finished after `seconds`."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds) as deadline:
                await self._app(scope, receive, send)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise HTTPException(504, f"The request timed out after {self._seconds:g} s.") from None


class BodySizeLimitMiddleware:
    """413 for a body of more than `limit` bytes, and before reading it if its length is declared.

    FastAPI's own limit answers in plain text if the length is declared. Large bodies take turns, because hundreds at
    once would not fit into memory: while one waits for its turn, uvicorn reads only its beginning.
    """

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._turns = asyncio.Semaphore(LARGE_BODIES)
        self._detail = f"The body is larger than {limit} bytes."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        size = int(declared) if declared.isdecimal() else self._limit if "transfer-encoding" in headers else 0
        if size > self._limit:
            raise HTTPException(413, self._detail)
        turn: AbstractAsyncContextManager[None] = self._turns if size > LARGE_BODY else nullcontext()
        async with turn:
            await self._app(scope, self._counting(receive), send)

    def _counting(self, receive: Receive) -> Receive:
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, self._detail)
            return message

        return counting_receive
