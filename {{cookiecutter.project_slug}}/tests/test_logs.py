"""Logs: JSON, with request ids that nobody can forge, and no secrets in logs or responses."""

import io
import json
import logging
import re
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.logs import JsonFormatter
from app.settings import TITLE, VERSION, Settings
from tests.conftest import DATABASE_PASSWORD, REST_URL, CallTool
from tests.gizmos import BROKEN, GIZMOS_APP, PRIVATE, create_app
from tests.server import ADMIN_KEY, Server, fetch, wait_until

API_KEY_SECRET = "api-key-secret-for-tests-0123456789"
SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    """What the app in this process has logged since the test started."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    caplog.set_level(logging.INFO)
    logging.getLogger().addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.getLogger().removeHandler(handler)


def test_a_request_is_logged_in_one_line(client: TestClient, logged: Lines) -> None:
    response = client.get("/no/such/path")
    [access] = [line for line in logged() if line["logger"] == "app.access"]
    assert access | {"interface": "rest", "method": "GET", "path": "/no/such/path", "status": 404} == access
    assert access["request_id"] == response.headers["X-Request-ID"]
    assert access["duration_ms"] > 0
    assert datetime.fromisoformat(access["time"]).tzinfo is not None


def test_a_tool_call_is_logged_with_its_tool_and_outcome(
    call_tool: CallTool, fail_tool: CallTool, logged: Lines
) -> None:
    call_tool("list_gizmos")
    fail_tool("get_gizmo", gizmo_id=999_999)
    lines = [line for line in logged() if line["logger"] == "app.access"]
    assert [(line["interface"], line["tool"], line["outcome"]) for line in lines] == [
        ("mcp", "list_gizmos", "succeeded"),
        ("mcp", "get_gizmo", "refused"),
    ]


def test_probes_are_not_logged(client: TestClient, logged: Lines) -> None:
    for path in ("/live", "/ready", "/health", "/metrics"):
        assert client.get(path).status_code == 200
    assert [line for line in logged() if line["logger"] == "app.access"] == []


def test_a_multi_line_message_is_logged_in_one_line(logged: Lines) -> None:
    logging.getLogger("app.anything").warning('two\nlines and a "quote"', extra={"name_of_a_thing": Path("a")})
    [line] = logged()
    assert (line["level"], line["logger"]) == ("WARNING", "app.anything")
    assert (line["message"], line["name_of_a_thing"]) == ('two\nlines and a "quote"', "a")


@pytest.mark.parametrize("request_id", ["a", "a" * 64, "0f8fad5b-d9cb-469f-a165-70867728950e", "Run_7.retry-2"])
def test_a_harmless_request_id_is_kept(client: TestClient, logged: Lines, request_id: str) -> None:
    response = client.get("/gizmos/999999", headers={"X-Request-ID": request_id})
    assert response.headers["X-Request-ID"] == response.json()["request_id"] == request_id
    assert [line["request_id"] for line in logged() if line["logger"] == "app.access"] == [request_id]


@pytest.mark.parametrize(
    "request_id",
    [
        b"",
        b"a" * 65,
        b"two words",
        b'","level":"DEBUG',
        b"back\\slash",
        b"<script>",
        b"a\r\nSet-Cookie: a=b",
        b"a\nb",
        b"\x00",
        b"\x1b[31m",
        b"\x7f",
        b"\xc3\xa4",
    ],
)
def test_a_harmful_request_id_is_replaced(client: TestClient, logged: Lines, request_id: bytes) -> None:
    response = client.get("/gizmos/999999", headers={b"X-Request-ID": request_id})
    used = response.headers["X-Request-ID"]
    assert SAFE_ID.fullmatch(used)
    assert response.json()["request_id"] == used
    assert [line["request_id"] for line in logged() if line["logger"] == "app.access"] == [used]


@pytest.mark.parametrize(("fault", "reason"), [("code", BROKEN), ("statement", "no_such_table")])
def test_a_bug_is_logged_with_details_that_the_response_does_not_show(
    client: TestClient, logged: Lines, fault: str, reason: str
) -> None:
    """Whether in Python or in SQL: neither is an outage, which would be a 503."""
    response = client.get(f"/gizmos/broken/{fault}")
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "Unexpected error; quote this request id when you report it.",
        "request_id": response.headers["X-Request-ID"],
    }
    [error] = [line for line in logged() if line["level"] == "ERROR"]
    assert error["request_id"] == response.headers["X-Request-ID"]
    assert error["exception"].startswith("Traceback")
    assert reason in error["exception"]
    assert PRIVATE not in error["exception"], "the statement's data is in the log"


def test_an_outage_is_logged_with_its_reason_which_the_response_does_not_show(
    settings: Settings, unreachable_database: str, logged: Lines
) -> None:
    app = create_app(settings.model_copy(update={"database_url": SecretStr(unreachable_database)}))
    with TestClient(app, REST_URL, headers={"X-API-Key": f"key_1_{'A' * 43}"}) as client:
        answers = [client.get(path) for path in ("/ready", "/gizmos", "/metrics")]
    assert [response.status_code for response in answers] == [503, 503, 200]
    assert {response.json()["detail"] for response in answers[:2]} == {
        "The database is unavailable; try again in a few seconds."
    }
    warnings = [line["message"] for line in logged() if line["level"] == "WARNING"]
    assert len(warnings) == 3
    for message in warnings:
        assert re.fullmatch(r"database unavailable: .*(unable to open database file|Connect).*", message)
    assert not [line for line in logged() if "exception" in line]
    assert DATABASE_PASSWORD not in "".join(response.text for response in answers) + json.dumps(logged())


@pytest.mark.slow
def test_every_log_line_is_json_with_time_level_and_logger(server: Server, key: str) -> None:
    request_id = uuid.uuid4().hex
    fetch("GET", f"{server.url}/no/such/path", headers={"X-API-Key": key, "X-Request-ID": request_id})
    wait_until(lambda: request_id in server.log_file.read_text(), timeout=5, what="the request is logged")
    lines = server.logs()
    for line in lines:
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] in {"DEBUG", "INFO", "WARNING", "ERROR"}
        assert line["logger"]
        assert line["message"]
    assert {"gunicorn.error", "app.access"} <= {line["logger"] for line in lines}


@pytest.mark.slow
def test_a_start_logs_the_addresses_and_a_stop_logs_little(tmp_path: Path, database_url: str) -> None:
    # The only worker serves, so it handles signals. A second one might still be starting, and be killed by them.
    with Server(tmp_path, app=GIZMOS_APP, DATABASE_URL=database_url, WEB_CONCURRENCY="1") as server:
        assert server.stop(signal.SIGINT) == 0
    where = (
        f"{TITLE} {VERSION} serves REST at {server.url}, documented at {server.url}/docs, and MCP at {server.mcp_url}"
    )
    messages = {line["message"] for line in server.logs() if line["logger"] != "app.access"}
    assert {message if message == where else re.sub(r"[\d.]*\d", "N", message) for message in messages} == {
        where,
        "Starting gunicorn N",
        "Booting worker with pid: N",
        "Handling signal: int",
        "Worker (pid:N) was sent SIGTERM!",
        "Shutting down: Master",
    }


@pytest.mark.slow
@pytest.mark.parametrize("separator", [b"\r", b"\n", b"\r\n ", b"\t", b'","', b"\x00", b"\xff"])
def test_a_request_id_cannot_smuggle_anything_past_the_server(server: Server, separator: bytes) -> None:
    value = b"a" + separator + b"Set-Cookie: a=b"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"GET /gizmos HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: " + value + b"\r\n\r\n")
        head = connection.recv(4096).partition(b"\r\n\r\n")[0]
    assert re.match(rb"HTTP/1.1 40[01] ", head)
    assert b"set-cookie" not in head.lower()
    assert all("Set-Cookie" not in json.dumps(line) for line in server.logs())


@pytest.mark.slow
def test_no_log_line_or_response_contains_a_secret(tmp_path: Path, database_url: str) -> None:
    settings = {"DATABASE_URL": database_url, "LOG_LEVEL": "DEBUG", "API_KEY_SECRET": API_KEY_SECRET}
    with Server(tmp_path, app=GIZMOS_APP, **settings) as server:
        key = server.issue_key(uuid.uuid4().hex)
        answers = "\n".join(str(dict(response.headers)) + response.text for response in _use(server, key))
        assert server.stop() == 0
        logs = server.log_file.read_text()
    assert "Internal Server Error" in answers
    assert "Error executing tool break_gizmo" in answers
    assert '"level": "DEBUG"' in logs
    assert '"exception": "Traceback' in logs
    for secret in (key, key.split("_", 2)[2], ADMIN_KEY, API_KEY_SECRET):
        assert secret not in answers
        assert secret not in logs
    assert PRIVATE not in logs


def _use(server: Server, key: str) -> Iterator[httpx2.Response]:
    """Send valid and invalid requests to every route."""
    admin = server.client(ADMIN_KEY)
    client = server.client(key)
    with admin, client:
        for path in ("/openapi.json", "/docs", "/redoc", "/health", "/live", "/ready", "/metrics"):
            yield client.get(path)
        for path in ("", "/broken/code", "/broken/statement", "/999999", "/x", f"/nothing?key={key}"):
            yield client.get(f"/gizmos{path}")
            yield admin.get(f"/gizmos{path}")
        for body in ({"title": PRIVATE}, {"title": "", "key": key}, {"title": PRIVATE, "secret": key}, [key]):
            yield client.post("/gizmos", json=body)
        yield client.post("/gizmos", content=key)
        yield client.get("/admin")
        yield admin.get("/admin/api-keys")
        yield admin.post("/admin/api-keys", json={"name": "", "key": key})
        for tool, arguments in (
            ("break_gizmo", {}),
            ("get_gizmo", {"gizmo_id": 999_999}),
            ("get_gizmo", {"gizmo_id": [PRIVATE]}),
            ("get_gizmo", {PRIVATE: 1}),
        ):
            params = {"name": tool, "arguments": arguments}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            yield client.post(server.mcp_url, json=message)
        yield fetch("GET", f"{server.url}/gizmos", headers={"Authorization": f"Bearer {key}x"})
        yield client.get("/metrics")
