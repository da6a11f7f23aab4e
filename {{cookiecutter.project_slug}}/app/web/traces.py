"""The span of each request on both ports, which continues the trace of its caller.

FastAPI's own instrumentation covers only one of the ports, and records query strings: what people search for.
"""

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

tracer = trace.get_tracer(__name__)


class TraceMiddleware:
    """`quiet_paths`, which are requested every few seconds, are not traced."""

    def __init__(self, app: ASGIApp, *, known_paths: frozenset[str], quiet_paths: frozenset[str]) -> None:
        self._app = app
        self._known_paths = known_paths
        self._quiet_paths = quiet_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._quiet_paths:
            await self._app(scope, receive, send)
            return
        attributes = {
            "http.request.method": scope["method"],
            "url.scheme": scope["scheme"],
            "url.path": scope["path"],
        }
        with tracer.start_as_current_span(
            scope["method"],
            context=extract(Headers(scope=scope)),
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,  # its message may contain data
            set_status_on_exception=False,
        ) as span:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_attribute("error.type", str(status))
                        span.set_status(StatusCode.ERROR)
                await send(message)

            try:
                await self._app(scope, receive, send_and_note)
            finally:
                known_path = scope["path"] if scope["path"] in self._known_paths else None
                if route := getattr(scope.get("route"), "path", known_path):
                    span.set_attribute("http.route", route)
                    span.update_name(f"{scope['method']} {route}")
