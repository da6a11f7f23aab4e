"""An OpenTelemetry collector for tests: receives spans by OTLP over HTTP, as JSON."""

import json
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

from opentelemetry import trace

from tests.server import free_port

ERROR = 2
"""OTLP's number for the status of a failed span."""


@dataclass(frozen=True)
class Span:
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    attributes: dict[str, Any]
    has_failed: bool
    resource: dict[str, Any]


class Collector:
    """A context manager that can be entered again. It keeps what it has received."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.bodies: list[str] = []
        self.headers: dict[str, str] = {}

    def __enter__(self) -> Self:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                is_known = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/json"
                if is_known:
                    collector.headers = {name.lower(): value for name, value in self.headers.items()}
                    collector.bodies.append(body)
                self.send_response(200 if is_known else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def spans(self) -> list[Span]:
        return [
            Span(
                trace_id=span["traceId"],
                span_id=span["spanId"],
                parent_id=span.get("parentSpanId", ""),
                name=span["name"],
                attributes=values(span.get("attributes", [])),
                has_failed=span["status"].get("code") == ERROR,
                resource=values(resource["resource"]["attributes"]),
            )
            for body in self.bodies
            for resource in json.loads(body)["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    def trace(self, trace_id: str) -> dict[str, Span]:
        """The spans of a trace by name; fails if two have the same name."""
        spans = [span for span in self.spans if span.trace_id == trace_id]
        by_name = {span.name: span for span in spans}
        assert len(by_name) == len(spans), [span.name for span in spans]
        return by_name


def flush() -> None:
    """Make this process send its remaining spans."""
    provider: Any = trace.get_tracer_provider()
    assert provider.force_flush()


def values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in attributes}
