"""Logs: JSON with request ids that nobody can forge, and no secret in them or in any answer."""

import asyncio
import io
import json
import logging
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from starlette.testclient import TestClient

from app.database import Database
from app.errors import DatabaseUnavailable
from app.logs import JsonFormatter
from app.main import create_app
from app.settings import ROOT, Settings
from tests.conftest import CORRUPT_STATUS, DATABASE_PASSWORD, REST_URL
from tests.server import ADMIN_KEY, Server, fetch, wait_until

API_KEY_SECRET = "api-key-secret-for-tests-0123456789"
PRIVATE = "Nobody should read this in a log"
SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    """What the app in this process has logged since the test began."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    caplog.set_level(logging.INFO)
    logging.getLogger().addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.getLogger().removeHandler(handler)


def test_every_line_is_json_with_time_level_and_logger(server: Server, key: str) -> None:
    request_id = uuid.uuid4().hex
    fetch("GET", f"{server.url}/no/such/path", headers={"X-API-Key": key, "X-Request-ID": request_id})
    wait_until(lambda: request_id in server.log_file.read_text(), timeout=5, what="the request is logged")
    lines = server.logs()
    for line in lines:
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] in {"DEBUG", "INFO", "WARNING", "ERROR"}
        assert line["logger"]
        assert line["message"]
    assert {"gunicorn.error", "uvicorn.error", "app.access"} <= {line["logger"] for line in lines}
    [access] = [line for line in lines if line.get("request_id") == request_id]
    assert access | {"door": "rest", "method": "GET", "path": "/no/such/path", "status": 404} == access
    assert access["duration_ms"] > 0


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("DEBUG", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("INFO", ["INFO", "WARNING", "ERROR"]),
        ("WARNING", ["WARNING", "ERROR"]),
        ("ERROR", ["ERROR"]),
    ],
)
def test_the_log_level_decides_what_is_logged(level: str, expected: list[str]) -> None:
    script = f"""
import logging.config
from app.logs import log_config
logging.config.dictConfig(log_config("{level}"))
for level in ("DEBUG", "INFO", "WARNING", "ERROR"):
    logging.getLogger("app.anything").log(getattr(logging, level), "line\\nbreak")
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [json.loads(line)["level"] for line in run.stdout.splitlines()] == expected


@pytest.mark.parametrize("request_id", ["a", "a" * 64, "0f8fad5b-d9cb-469f-a165-70867728950e", "Run_7.retry-2"])
def test_a_harmless_request_id_is_taken_over(client: TestClient, logged: Lines, request_id: str) -> None:
    response = client.get("/tasks/999999", headers={"X-Request-ID": request_id})
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
    response = client.get("/tasks/999999", headers={b"X-Request-ID": request_id})
    used = response.headers["X-Request-ID"]
    assert SAFE_ID.fullmatch(used)
    assert response.json()["request_id"] == used
    assert [line["request_id"] for line in logged() if line["logger"] == "app.access"] == [used]


@pytest.mark.parametrize("separator", [b"\r", b"\n", b"\r\n ", b"\t", b'","', b"\x00", b"\xff"])
def test_a_request_id_cannot_smuggle_anything_past_the_server(server: Server, separator: bytes) -> None:
    value = b"a" + separator + b"Set-Cookie: a=b"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"GET /tasks HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: " + value + b"\r\n\r\n")
        head = connection.recv(4096).partition(b"\r\n\r\n")[0]
    assert re.match(rb"HTTP/1.1 40[01] ", head)
    assert b"set-cookie" not in head.lower()
    assert all("Set-Cookie" not in json.dumps(line) for line in server.logs())


def test_an_unexpected_error_is_logged_in_full_and_answered_with_nothing_of_it(
    client: TestClient, corrupt_task: int, logged: Lines
) -> None:
    response = client.get(f"/tasks/{corrupt_task}")
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "The service failed; its logs say more under this request id.",
        "request_id": response.headers["X-Request-ID"],
    }
    [error] = [line for line in logged() if line["level"] == "ERROR"]
    assert error["request_id"] == response.headers["X-Request-ID"]
    assert error["exception"].startswith("Traceback")
    assert CORRUPT_STATUS in error["exception"]


def test_no_secret_is_in_any_log_line_or_answer(tmp_path: Path, database_url: str, corrupt_task: int) -> None:
    settings = {"DATABASE_URL": database_url, "LOG_LEVEL": "DEBUG", "API_KEY_SECRET": API_KEY_SECRET}
    with Server(tmp_path, **settings) as server:
        key = server.issue_key(uuid.uuid4().hex)
        answers = "\n".join(str(dict(response.headers)) + response.text for response in _use(server, key, corrupt_task))
        assert server.stop() == 0
        logs = server.log_file.read_text()
    assert "Internal Server Error" in answers
    assert "Error executing tool get_task" in answers
    assert '"level": "DEBUG"' in logs
    assert '"exception": "Traceback' in logs
    for secret in (key, key.split("_", 2)[2], ADMIN_KEY, API_KEY_SECRET):
        assert secret not in answers
        assert secret not in logs
    assert PRIVATE not in logs


def _use(server: Server, key: str, corrupt_task: int) -> Iterator[httpx2.Response]:
    """What clients do, rightly and wrongly, on every door."""
    admin = server.client(ADMIN_KEY)
    client = server.client(key)
    with admin, client:
        for path in ("/openapi.json", "/docs", "/redoc", "/health", "/live", "/ready", "/metrics"):
            yield client.get(path)
        for path in ("/tasks", f"/tasks/{corrupt_task}", "/tasks/999999", "/tasks/x", f"/nothing?key={key}", "/admin"):
            yield client.get(path)
            yield admin.get(path)
        for body in ({"title": PRIVATE}, {"title": "", "key": key}, {"title": PRIVATE, "secret": key}, [key]):
            yield client.post("/tasks", json=body)
        yield client.post("/tasks", content=key)
        yield admin.get("/admin/api-keys")
        yield admin.post("/admin/api-keys", json={"name": "", "key": key})
        for task_id in (corrupt_task, 999_999, [PRIVATE]):
            params = {"name": "get_task", "arguments": {"task_id": task_id}}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            yield client.post(server.mcp_url, json=message)
        yield fetch("GET", f"{server.url}/tasks", headers={"Authorization": f"Bearer {key}x"})
        yield client.get("/metrics")


def test_an_unreachable_database_gives_no_password_away(
    settings: Settings, unreachable_database: str, logged: Lines
) -> None:
    app = create_app(settings.model_copy(update={"database_url": SecretStr(unreachable_database)}))
    with TestClient(app, REST_URL, headers={"X-API-Key": f"key_1_{'A' * 43}"}) as client:
        answers = [client.get(path) for path in ("/ready", "/tasks", "/metrics")]
    assert [response.status_code for response in answers] == [503, 503, 200]
    assert answers[0].json()["detail"]
    assert any("database unavailable" in line["message"] for line in logged())
    assert DATABASE_PASSWORD not in "".join(response.text for response in answers) + json.dumps(logged())


def test_a_database_error_shows_the_statement_but_not_the_data(database_url: str) -> None:
    async def fail() -> None:
        database = Database(database_url)
        try:
            async with database.write() as session:
                await session.execute(text("SELECT * FROM no_such_table WHERE title = :title"), {"title": PRIVATE})
        finally:
            await database.close()

    with pytest.raises(DatabaseUnavailable) as caught:
        asyncio.run(fail())
    assert "no_such_table" in str(caught.value.__cause__)
    assert PRIVATE not in str(caught.value.__cause__)
