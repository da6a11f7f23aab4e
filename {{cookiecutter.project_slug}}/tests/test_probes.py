"""Probes for orchestrators and monitoring."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.db import database
from app.db.database import Database
from app.errors import DatabaseUnavailable
from app.settings import Settings
from app.web import healthcheck
from tests.conftest import MCP_URL, REST_URL, client_with, execute
from tests.gizmos import create_app
from tests.server import free_port

UNAVAILABLE = "The database is unavailable; try again in a few seconds."


def test_only_readiness_depends_on_the_database(settings: Settings, unreachable_database: str) -> None:
    app = create_app(settings.model_copy(update={"database_url": SecretStr(unreachable_database)}))
    with TestClient(app, REST_URL) as rest:
        for response in (rest.get("/live"), rest.get("/health"), client_with(rest, url=MCP_URL).get("/health")):
            assert (response.status_code, response.json()) == (200, {"status": "healthy"})
        assert rest.get("/metrics").status_code == 200
        refused = rest.get("/ready")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["detail"] == UNAVAILABLE


@pytest.mark.parametrize(("url", "path"), [(REST_URL, "/gizmos"), (MCP_URL, "/mcp")])
def test_without_a_database_both_ports_ask_to_try_again(
    settings: Settings, unreachable_database: str, key: str, url: str, path: str
) -> None:
    app = create_app(settings.model_copy(update={"database_url": SecretStr(unreachable_database)}))
    with TestClient(app, url, headers={"X-API-Key": key}) as client:
        response = client.post(path, json={})
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert response.json()["status"] == 503
    assert response.json()["detail"] == UNAVAILABLE


def test_readiness_waits_for_the_migrations(client: TestClient, database_url: str) -> None:
    execute(database_url, "ALTER TABLE alembic_version RENAME TO alembic_version_away")
    try:
        refused = client.get("/ready")
    finally:
        execute(database_url, "ALTER TABLE alembic_version_away RENAME TO alembic_version")
    assert refused.status_code == 503
    assert refused.json()["detail"] == "The database has no tables yet: run `python -m app.db.migrate`."
    assert client.get("/ready").status_code == 200


class HangingDatabase(Database):
    async def read(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        await asyncio.Event().wait()

    write = read

    async def close(self) -> None: ...


def test_readiness_does_not_wait_for_a_database_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PING_TIMEOUT", 0.01)
    with pytest.raises(DatabaseUnavailable, match="does not answer within"):
        asyncio.run(HangingDatabase().ping())


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a server that answers /health with 200 if that file is in `tmp_path`, or else with 404."""
    with HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def check_health(monkeypatch: pytest.MonkeyPatch, *defaults: int, **environment: str) -> str | None:
    """Run the container's health check, and return its error or None."""
    for name in ("HOST", "PORT", "MCP_PORT", "ONE_PORT"):
        monkeypatch.setenv(name, environment.get(name, ""))
    monkeypatch.setattr(sys, "argv", ["healthcheck", *map(str, defaults)])
    with pytest.raises(SystemExit) as ended:
        healthcheck.main()
    assert ended.value.code is None or isinstance(ended.value.code, str)
    return ended.value.code


def test_a_container_is_healthy_while_each_of_its_ports_answers_200(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_health(monkeypatch, port, port) == f"port {port}: status 404\nport {port}: status 404"
    (tmp_path / "health").touch()
    assert check_health(monkeypatch, port, port) is None
    other = free_port()
    assert f"port {other}: " in str(check_health(monkeypatch, port, other))
    assert f"port {other}: " in str(check_health(monkeypatch, other, port))


def test_the_health_check_calls_the_address_of_the_service(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "health").touch()
    other = free_port()
    assert check_health(monkeypatch, other, other, HOST="0.0.0.0", PORT=str(port), MCP_PORT=str(port)) is None
    assert check_health(monkeypatch, other, other, HOST="127.0.0.1", PORT=str(port), ONE_PORT="True") is None
    # Kubernetes sets this if there is a Service named mcp.
    assert check_health(monkeypatch, port, port, MCP_PORT="tcp://10.43.0.1:8051") is None
