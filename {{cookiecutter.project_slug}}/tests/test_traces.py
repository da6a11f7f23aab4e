"""Traces: what a collector receives, and that the service works as well without one."""

import socket
import subprocess
import sys
import time
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from starlette.testclient import TestClient

from app.database_url import is_sqlite
from app.settings import PROJECT, ROOT, VERSION, Settings
from app.traces import Exporter
from tests.collector import Collector, Span, flush
from tests.conftest import JSON_RPC, MCP_URL, client_with
from tests.gizmos import GIZMOS_APP, PRIVATE
from tests.server import Server, wait_until
from tests.test_logs import Lines, logged

__all__ = ["logged"]

CALLER = "00f067aa0ba902b7"


@pytest.fixture
def trace_id() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def traced(traced_app: TestClient, key: str, trace_id: str) -> TestClient:
    """The REST API, called as a part of this trace."""
    return client_with(traced_app, {"X-API-Key": key, "traceparent": f"00-{trace_id}-{CALLER}-01"})


def received(collector: Collector, trace_id: str) -> dict[str, Span]:
    flush()
    spans = collector.trace(trace_id)
    # Keys are looked up every few seconds, and only SQLite uses savepoints.
    return {name: span for name, span in spans.items() if name not in ("SELECT api_keys", "SAVEPOINT")}


def test_a_request_and_its_statements_are_spans_of_the_callers_trace(
    traced: TestClient, collector: Collector, trace_id: str, database_url: str
) -> None:
    assert traced.get("/gizmos", params={"query": PRIVATE}).status_code == 200
    spans = received(collector, trace_id)
    request, statement = spans["GET /gizmos"], spans["SELECT gizmos"]
    assert spans.keys() == {"GET /gizmos", "SELECT gizmos"}
    assert request.parent_id == CALLER
    assert request.attributes == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/gizmos",
        "http.route": "/gizmos",
        "http.response.status_code": "200",
    }
    assert request.resource["service.name"] == PROJECT["name"]
    assert request.resource["service.version"] == VERSION
    assert statement.parent_id == request.span_id
    assert statement.attributes["db.system.name"] == "sqlite" if is_sqlite(database_url) else "postgresql"
    assert "FROM gizmos" in statement.attributes["db.query.text"]
    assert collector.headers["authorization"] == "Basic abc"
    assert collector.headers["x-tenant"] == "1"


def test_a_tool_call_and_its_statements_are_spans_of_the_callers_trace(
    traced_app: TestClient, collector: Collector, key: str, trace_id: str
) -> None:
    client = client_with(traced_app, {"X-API-Key": key, **JSON_RPC}, MCP_URL)
    params = {"name": "create_gizmo", "arguments": {"title": PRIVATE}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-01"}
    assert client.post("/mcp", json=message, headers=headers).json()["result"].get("isError", False) is False
    spans = received(collector, trace_id)
    assert spans.keys() == {"POST /mcp", "tools/call create_gizmo", "INSERT gizmos"}
    assert spans["POST /mcp"].parent_id == CALLER
    assert spans["tools/call create_gizmo"].parent_id == spans["POST /mcp"].span_id
    assert spans["INSERT gizmos"].parent_id == spans["tools/call create_gizmo"].span_id


def test_failures_are_marked(traced: TestClient, collector: Collector, trace_id: str) -> None:
    assert traced.get("/gizmos/broken/statement").status_code == 500
    spans = received(collector, trace_id)
    request, statement = spans["GET /gizmos/broken/statement"], spans["SELECT no_such_table"]
    assert (request.has_failed, request.attributes["error.type"]) == (True, "500")
    assert (statement.has_failed, statement.parent_id) == (True, request.span_id)
    assert statement.attributes["error.type"]


def test_no_data_is_sent(traced: TestClient, collector: Collector, trace_id: str) -> None:
    gizmo = traced.post("/gizmos", json={"title": PRIVATE}).json()
    traced.patch(f"/gizmos/{gizmo['id']}", json={"content": PRIVATE})
    traced.get("/gizmos", params={"query": PRIVATE})
    traced.get("/gizmos/broken/statement")
    flush()
    assert {"INSERT gizmos", "UPDATE gizmos"} <= {span.name for span in collector.spans if span.trace_id == trace_id}
    assert PRIVATE not in "".join(collector.bodies)


def test_log_lines_name_the_trace(traced: TestClient, collector: Collector, trace_id: str, logged: Lines) -> None:
    assert traced.get("/gizmos/broken/statement").status_code == 500
    request = received(collector, trace_id)["GET /gizmos/broken/statement"]
    lines = [line for line in logged() if line.get("trace_id") == trace_id]
    assert {line["logger"] for line in lines} > {"app.access"}
    assert {line["span_id"] for line in lines} == {request.span_id}


def test_a_request_without_a_trace_starts_one(traced_app: TestClient, collector: Collector, logged: Lines) -> None:
    traced_app.get("/no/such/path", headers={"traceparent": "no trace"})
    [access] = [line for line in logged() if line["logger"] == "app.access"]
    spans = received(collector, access["trace_id"])
    assert spans["GET"].parent_id == ""
    assert "http.route" not in spans["GET"].attributes


def test_probes_are_not_traced(traced: TestClient, collector: Collector, trace_id: str) -> None:
    for path in ("/live", "/ready", "/health", "/metrics"):
        assert traced.get(path).status_code == 200
    assert received(collector, trace_id) == {}


@pytest.mark.slow
def test_without_an_endpoint_neither_tracer_nor_exporter_is_imported() -> None:
    check = "import app.main, sys; app.main.create_app(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", check], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    heavy = {"app.traces", "opentelemetry.exporter", "opentelemetry.sdk.trace", "urllib3"}
    assert heavy & set(modules.stdout.split()) == set()


@pytest.mark.slow
def test_a_stop_sends_the_last_spans_of_each_worker(tmp_path: Path, empty_database_url: str) -> None:
    with (
        Collector() as collector,
        Server(
            tmp_path,
            app=GIZMOS_APP,
            DATABASE_URL=empty_database_url,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY="600000",
            OTEL_SERVICE_NAME="gizmos",
        ) as server,
    ):
        key = server.issue_key("traced")
        wait_until(lambda: len(answered(server, key)) == 2, timeout=60, what="both workers answer")
        assert collector.bodies == []
        assert server.stop() == 0
        asked = [line for line in server.logs() if line["logger"] == "app.access"]
        sent = {span.span_id: span for span in collector.spans}
        for line in asked:
            assert sent[line["span_id"]].trace_id == line["trace_id"]
        assert {span.resource["service.name"] for span in sent.values()} == {"gizmos"}
        assert len({span.resource["service.instance.id"] for span in sent.values()}) == 2


def answered(server: Server, key: str) -> set[int]:
    """Send one request on a new connection, and return the workers that have answered so far."""
    with server.client(key) as client:
        assert client.get("/gizmos").status_code == 200
    return {line["pid"] for line in server.logs() if line["logger"] == "app.access"}


def test_an_unavailable_collector_is_logged_once_and_so_is_its_return(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")  # less than the delay before a retry
    collector = Collector()
    exporter = Exporter(Settings(otel_exporter_otlp_endpoint=collector.url))
    with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("a span") as span:
        pass
    assert isinstance(span, ReadableSpan)
    caplog.set_level("INFO")
    for _ in range(3):
        assert exporter.export([span]) is SpanExportResult.FAILURE
    [away] = caplog.messages
    with collector:
        for _ in range(3):
            assert exporter.export([span]) is SpanExportResult.SUCCESS
    assert caplog.messages == [away, "spans are delivered again"]


@pytest.mark.slow
@pytest.mark.parametrize("accident", ["refuses", "is silent"])
def test_an_unavailable_collector_neither_slows_nor_loses_requests(
    tmp_path: Path, empty_database_url: str, accident: str
) -> None:
    collector = Collector()
    silence = socket.create_server(("127.0.0.1", collector.port)) if accident == "is silent" else nullcontext()
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "5",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_BSP_MAX_QUEUE_SIZE": "20",  # so that it is full soon
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
        "WEB_CONCURRENCY": "1",
    }
    with silence, Server(tmp_path, app=GIZMOS_APP, DATABASE_URL=empty_database_url, **settings) as server:
        with server.client(server.issue_key("traced")) as client:
            for number in range(300):
                assert client.post("/gizmos", json={"title": str(number)}).status_code == 201
            wait_until(lambda: complaints(server), timeout=30, what="the service notices")
            assert client.get("/gizmos", params={"limit": 1}).json()["items"][0]["title"] == "299"
        slowest = max(line["duration_ms"] for line in server.logs() if line["logger"] == "app.access")
        assert slowest < 4000, "a request waited for the collector"
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 8
        [complaint] = complaints(server)
        assert accident != "refuses" or "Connection refused" in complaint["message"]


def complaints(server: Server) -> list[dict[str, Any]]:
    """What the service has logged about the collector."""
    return [line for line in server.logs() if line["logger"].startswith("opentelemetry")]
