"""Keys that are read-only, and keys that expire."""

import asyncio
import re
import runpy
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api_keys.schemas import ApiKeyCreate
from app.api_keys.service import ApiKeyVerifier, issue_api_key
from app.db.database import open_database
from app.settings import Settings
from app.web.authentication import Caller, InvalidCredential
from tests.conftest import JSON_RPC, MCP_URL, REST_URL, client_with, execute

READ_ONLY = "This API key may only read. Use one that may write."


def issue(admin: TestClient, **rights: Any) -> dict[str, Any]:
    response = admin.post("/admin/api-keys", json={"name": uuid.uuid4().hex, **rights})
    assert response.status_code == 201, response.text
    issued: dict[str, Any] = response.json()
    return issued


@pytest.fixture
def reader(admin: TestClient) -> dict[str, str]:
    """The headers of a caller with a read-only key."""
    return {"X-API-Key": issue(admin, read_only=True)["key"]}


def call(client: TestClient, method: str, **params: Any) -> dict[str, Any]:
    response = client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["result"]
    return result


def test_by_default_a_key_can_write_and_never_expires(admin: TestClient) -> None:
    issued = issue(admin)
    assert (issued["read_only"], issued["expires_at"]) == (False, None)


def test_a_read_only_key_reads(admin: TestClient, reader: dict[str, str]) -> None:
    assert client_with(admin, reader).get("/gizmos").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/gizmos"), ("PATCH", "/gizmos/1"), ("DELETE", "/no/such/path"), ("MERGE", "/gizmos/1")],
)
def test_a_read_only_key_cannot_write_over_rest(
    admin: TestClient, reader: dict[str, str], method: str, path: str
) -> None:
    response = client_with(admin, reader).request(method, path, json={"title": "x"})
    assert (response.status_code, response.json()["detail"]) == (403, READ_ONLY)


def test_tools_list_shows_a_read_only_key_the_tools_that_only_read(
    admin: TestClient, reader: dict[str, str], mcp_client: TestClient
) -> None:
    every = call(mcp_client, "tools/list")["tools"]
    shown = call(client_with(admin, reader | JSON_RPC, MCP_URL), "tools/list")["tools"]
    assert shown == [tool for tool in every if tool["annotations"].get("readOnlyHint")]
    assert 0 < len(shown) < len(every)


def test_a_read_only_key_calls_the_tools_that_only_read(admin: TestClient, reader: dict[str, str]) -> None:
    client = client_with(admin, reader | JSON_RPC, MCP_URL)
    assert not call(client, "tools/call", name="list_gizmos", arguments={}).get("isError")


def test_an_assistant_with_a_read_only_key_is_told_what_to_do_instead_of_writing(
    admin: TestClient, reader: dict[str, str]
) -> None:
    client = client_with(admin, reader | JSON_RPC, MCP_URL)
    title = uuid.uuid4().hex
    result = call(client, "tools/call", name="create_gizmo", arguments={"title": title})
    assert result["isError"]
    assert re.fullmatch(
        r"create_gizmo changes data, and this API key may only read\. Tell the user that it needs one that may write\."
        r" It may use: [a-z_, ]*get_gizmo, list_gizmos[a-z_, ]*\.",
        result["content"][0]["text"],
    )
    unknown = call(client, "tools/call", name="drop_table", arguments={})["content"][0]["text"]
    assert unknown.startswith("There is no tool 'drop_table'.")
    assert "create_gizmo" not in unknown
    found = call(client, "tools/call", name="list_gizmos", arguments={"query": title})
    assert title not in found["content"][0]["text"]


def test_a_key_stops_working_exactly_when_it_expires(settings: Settings) -> None:
    async def scenario() -> None:
        database = open_database(settings.database_url.get_secret_value(), pool_size=1)
        expires = datetime.now(UTC) + timedelta(days=90)
        now = expires - timedelta(microseconds=1)
        verifier = ApiKeyVerifier(database, b"secret", now=lambda: now)
        data = ApiKeyCreate(name=uuid.uuid4().hex, expires_at=expires)
        key = (await database.write(issue_api_key, data, b"secret")).key
        assert await verifier.verify(key) == Caller(data.name, "API key", may_write=True)
        now = expires
        with pytest.raises(
            InvalidCredential, match=rf"^This API key expired on {expires:%Y-%m-%d}; ask for a new one\.$"
        ):
            await verifier.verify(key)
        await database.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("base", "path"), [(REST_URL, "/gizmos"), (MCP_URL, "/mcp")])
def test_an_expired_key_is_rejected_as_expired(admin: TestClient, database_url: str, base: str, path: str) -> None:
    issued = issue(admin, expires_at="2130-12-31T23:00:00-02:00")
    assert admin.get(f"/admin/api-keys/{issued['id']}").json()["expires_at"] == "2131-01-01T01:00:00Z"
    execute(database_url, f"UPDATE api_keys SET expires_at = '2020-01-01 00:00:00+00' WHERE id = {issued['id']}")
    response = client_with(admin, {"X-API-Key": issued["key"]}, base).post(path)
    assert response.status_code == 401
    assert response.json()["detail"] == "This API key expired on 2020-01-01; ask for a new one."


@pytest.mark.parametrize("moment", ["2020-01-01T00:00:00Z", "2130-12-31T00:00:00", "9999-12-31T23:59:59-12:00", "90d"])
def test_an_expiry_must_be_in_the_future_and_have_a_time_zone(admin: TestClient, moment: str) -> None:
    response = admin.post("/admin/api-keys", json={"name": uuid.uuid4().hex, "expires_at": moment})
    assert response.status_code == 422, response.text
    assert [error["pointer"] for error in response.json()["errors"]] == ["body/expires_at"]


def test_the_access_log_names_the_caller(admin: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    issued = issue(admin)
    caplog.clear()
    caplog.set_level("INFO")
    client_with(admin, {"X-API-Key": issued["key"]}).get("/gizmos")
    [line] = [vars(record) for record in caplog.records if record.name == "app.access"]
    assert (line["caller"], line["credential"]) == (issued["name"], "API key")


def test_the_command_line_can_restrict_keys(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["app.api_keys", *arguments])
        runpy.run_module("app.api_keys", run_name="__main__")
        return capsys.readouterr().out

    monkeypatch.setenv("DATABASE_URL", database_url)
    before = datetime.now(UTC)
    name = uuid.uuid4().hex
    key_id = run("issue", name, "--read-only", "--expires", "90d").split("_")[1]
    today, expiry = (f"{moment:%Y-%m-%d}" for moment in (before, before + timedelta(days=90)))
    assert f"{key_id}\tactive\tread-only\t{today}\tuntil {expiry}\t{name}\n" in run("list")
    execute(database_url, f"UPDATE api_keys SET expires_at = '2020-01-01 00:00:00+00' WHERE id = {key_id}")
    assert f"{key_id}\texpired\tread-only\t{today}\tuntil 2020-01-01\t{name}\n" in run("list")
    with pytest.raises(SystemExit):
        run("issue", name, "--expires", "tomorrow")
    assert "'tomorrow' is not a number of days or hours, such as 90d or 12h" in capsys.readouterr().err
