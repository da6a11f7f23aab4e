"""Layers around both doors, as plain ASGI classes: Starlette's BaseHTTPMiddleware costs each request 100 us a layer."""

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import request_id
from app.metrics import DURATION, IN_PROGRESS, REQUESTS
from app.problems import UNEXPECTED, problem

logger = logging.getLogger("app.access")

QUIET_PATHS = frozenset({"/live", "/ready", "/health", "/metrics"})
"""Asked every few seconds by machines: counted, but not logged."""

# An arbitrary word is a method too; each that became a label would be a new time series.
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class DispatchByPort:
    """Send a request to the app of the port that accepted it, which no header can change."""

    def __init__(self, rest: ASGIApp, mcp: ASGIApp, *, mcp_port: int) -> None:
        self._rest = rest
        self._mcp = mcp
        self._mcp_port = mcp_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")
        on_mcp_port = server is not None and server[1] == self._mcp_port
        await (self._mcp if on_mcp_port else self._rest)(scope, receive, send)


class Envelope:
    """Around each request: its id, a deadline, one log line, the metrics, and an answer whatever happens inside.

    `X-Request-ID` is taken over if it is harmless, else made. A request that has sent nothing after `timeout` seconds
    gets 504; one that is cut off by a shutdown, 503; an unexpected error is logged and gets 500.
    """

    def __init__(self, app: ASGIApp, *, door: str, timeout: float, plain_paths: frozenset[str]) -> None:
        self._app = app
        self._door = door
        self._plain_paths = plain_paths
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        proposed = Headers(scope=scope).get("x-request-id", "")
        current_id = proposed if _REQUEST_ID.fullmatch(proposed) else uuid.uuid4().hex
        token = request_id.set(current_id)
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = current_id
            await send(message)

        async def answer(code: int, detail: str, **headers: str) -> None:
            if status == 0:
                await problem(code, detail, headers=headers)(scope, receive, send_with_id)

        IN_PROGRESS.labels(self._door).inc()
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                await self._app(scope, receive, send_with_id)
        except TimeoutError:
            if not deadline.expired():
                logger.exception("unexpected error")
                await answer(500, UNEXPECTED)
            else:
                await answer(504, f"The request took longer than {self._timeout:g} s and was given up.")
        except asyncio.CancelledError:
            await answer(503, "The service is shutting down; try again.", Connection="close")
            raise
        except Exception:
            logger.exception("unexpected error")
            await answer(500, UNEXPECTED)
        finally:
            self._record(scope, status, time.perf_counter() - started)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        # Nor may an arbitrary path become a label.
        plain_path = scope["path"] if scope["path"] in self._plain_paths else "unmatched"
        route = getattr(scope.get("route"), "path", plain_path)
        IN_PROGRESS.labels(self._door).dec()
        REQUESTS.labels(self._door, method, route, status).inc()
        DURATION.labels(self._door, method, route).observe(seconds)
        if scope["path"] not in QUIET_PATHS:
            logger.info(
                "request",
                extra={
                    "door": self._door,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round(seconds * 1000, 2),
                },
            )


class LimitBody:
    """413 for a body of more than `limit` bytes, before it is read if its length is declared.

    FastAPI's own limit answers in plain text where the length is declared.
    """

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._detail = f"The body is larger than {limit} bytes."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limit:
            await problem(413, self._detail)(scope, receive, send)
            return
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, self._detail)
            return message

        await self._app(scope, counting_receive, send)
