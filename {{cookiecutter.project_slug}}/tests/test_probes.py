"""Probes: what orchestrators see."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.db import database
from app.db.database import Database
from app.errors import DatabaseUnavailable
from app.settings import Settings
from tests.conftest import MCP_URL, REST_URL, client_with, execute
from tests.notes import create_app

UNAVAILABLE = "The database is unavailable; try again in a few seconds."


def test_only_readiness_asks_the_database(settings: Settings, unreachable_database: str) -> None:
    app = create_app(settings.model_copy(update={"database_url": SecretStr(unreachable_database)}))
    with TestClient(app, REST_URL) as rest:
        for response in (rest.get("/live"), rest.get("/health"), client_with(rest, url=MCP_URL).get("/health")):
            assert (response.status_code, response.json()) == (200, {"status": "healthy"})
        assert rest.get("/metrics").status_code == 200
        refused = rest.get("/ready")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["detail"] == UNAVAILABLE


@pytest.mark.parametrize(("url", "path"), [(REST_URL, "/notes"), (MCP_URL, "/mcp")])
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
    assert refused.json()["detail"] == "The database has no tables yet: run the migrations."
    assert client.get("/ready").status_code == 200


class HangingDatabase(Database):
    async def read(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        await asyncio.Event().wait()

    write = read

    async def close(self) -> None: ...


def test_readiness_gives_up_on_a_database_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PING_TIMEOUT", 0.01)
    with pytest.raises(DatabaseUnavailable, match="does not answer within"):
        asyncio.run(HangingDatabase().ping())
