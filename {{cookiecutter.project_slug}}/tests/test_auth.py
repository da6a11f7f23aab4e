"""Keys: who gets in, on every door of both ports."""

import hmac
import re
import subprocess
import sys
import time
import uuid
from typing import Any
from unittest.mock import Mock

import pytest
from starlette.testclient import TestClient

from app import auth
from app.main import create_app
from app.settings import ROOT, Settings
from tests.conftest import MCP_URL, REST_URL, visitor
from tests.server import ADMIN_KEY, Server, fetch, wait_until

REST_DOORS = [
    ("GET", "/tasks"),
    ("POST", "/tasks"),
    ("GET", "/tasks/1"),
    ("PATCH", "/tasks/1"),
    ("DELETE", "/tasks/1"),
    ("POST", "/tasks/1/complete"),
    ("GET", "/no/such/path"),
]
ADMIN_DOORS = [
    ("GET", "/admin/api-keys"),
    ("POST", "/admin/api-keys"),
    ("GET", "/admin/api-keys/1"),
    ("POST", "/admin/api-keys/1/revoke"),
    ("GET", "/admin"),
]
MCP_DOORS = [("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/no/such/path")]
DOORS = [
    *((REST_URL, *door) for door in REST_DOORS + ADMIN_DOORS),
    *((MCP_URL, *door) for door in MCP_DOORS),
]
WRONG_KEYS: list[dict[str, Any]] = [
    {},
    {"X-API-Key": ""},
    {"X-API-Key": "wrong"},
    {"X-API-Key": "key_1_" + "A" * 43},
    {"X-API-Key": "key_999999_" + "A" * 43},
    {"X-API-Key": "key_99999999999999999999_" + "A" * 43},
    {"X-API-Key": b"key_1_\xc3\xa4"},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Basic d3Jvbmc6d3Jvbmc="},
]


def issue(admin: TestClient) -> tuple[int, str]:
    response = admin.post("/admin/api-keys", json={"name": uuid.uuid4().hex})
    assert response.status_code == 201, response.text
    return response.json()["id"], response.json()["key"]


@pytest.mark.parametrize(("base", "method", "path"), DOORS)
@pytest.mark.parametrize("headers", WRONG_KEYS)
def test_nobody_enters_without_a_key(
    admin: TestClient, base: str, method: str, path: str, headers: dict[str, Any]
) -> None:
    response = visitor(admin, url=base).request(method, path, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("header", ["X-API-Key: {}", "Authorization: Bearer {}", "authorization: bearer {}"])
def test_a_key_opens_the_service_doors_in_either_header(admin: TestClient, key: str, header: str) -> None:
    name, _, value = header.format(key).partition(": ")
    assert visitor(admin, {name: value}).get("/tasks").status_code == 200
    assert visitor(admin, {name: value}, MCP_URL).get("/mcp").status_code == 405


@pytest.mark.parametrize(("method", "path"), ADMIN_DOORS)
def test_a_service_key_does_not_open_the_admin_doors(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 403


@pytest.mark.parametrize("base", [REST_URL, MCP_URL])
def test_the_admin_key_is_no_service_key(admin: TestClient, base: str) -> None:
    path = "/tasks" if base == REST_URL else "/mcp"
    assert visitor(admin, {"X-API-Key": ADMIN_KEY}, base).post(path).status_code == 401


@pytest.mark.parametrize(("method", "path"), ADMIN_DOORS)
def test_without_an_admin_key_the_admin_doors_are_closed(settings: Settings, method: str, path: str) -> None:
    with TestClient(create_app(settings.model_copy(update={"admin_api_key": None})), REST_URL) as client:
        for headers in (*WRONG_KEYS, {"X-API-Key": ADMIN_KEY}):
            assert client.request(method, path, headers=headers).status_code == 403


@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/metrics", "/docs", "/redoc", "/openapi.json"])
def test_probes_metrics_and_docs_need_no_key(admin: TestClient, path: str) -> None:
    assert visitor(admin).get(path).status_code == 200


@pytest.mark.parametrize("path", ["//tasks", "/health/../tasks", "/health/", "/tasks%2f", "/HEALTH", "/docs/x"])
def test_no_spelling_of_a_path_gets_around_the_key(admin: TestClient, path: str) -> None:
    assert visitor(admin).get(path).status_code == 401


def test_a_key_is_shown_once_and_stored_as_a_hash(admin: TestClient) -> None:
    key_id, key = issue(admin)
    secret = key.removeprefix(f"key_{key_id}_")
    for path in ("/admin/api-keys", f"/admin/api-keys/{key_id}"):
        assert secret not in admin.get(path).text


def test_a_revoked_key_is_dead_and_its_name_free_again(admin: TestClient) -> None:
    name = uuid.uuid4().hex
    issued = admin.post("/admin/api-keys", json={"name": name})
    assert issued.headers["Location"] == f"/admin/api-keys/{issued.json()['id']}"
    assert admin.post("/admin/api-keys", json={"name": name}).status_code == 409
    revoked = admin.post(f"{issued.headers['Location']}/revoke")
    assert (revoked.status_code, revoked.json()["revoked_at"] is None) == (200, False)
    assert admin.get(issued.headers["Location"]).json() == revoked.json()
    client = visitor(admin, {"X-API-Key": issued.json()["key"]})
    assert client.get("/tasks").status_code == 401
    assert admin.post("/admin/api-keys", json={"name": name}).status_code == 201


def test_revoking_twice_is_the_same_as_once(admin: TestClient) -> None:
    key_id, _ = issue(admin)
    first, second = (admin.post(f"/admin/api-keys/{key_id}/revoke").json() for _ in range(2))
    assert first == second
    assert admin.post("/admin/api-keys/999999/revoke").status_code == 404


def test_every_key_is_compared_in_constant_time(admin: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = issue(admin)
    compare = Mock(return_value=False)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for number, presented in enumerate([key, "key_999999_" + "A" * 43], start=1):
        assert visitor(admin, {"X-API-Key": presented}).get("/tasks").status_code == 401
        assert compare.call_count == number


def test_a_revoked_key_is_dead_within_five_seconds_on_every_worker(server: Server) -> None:
    key = server.issue_key("to be revoked")
    key_id = int(key.split("_")[1])

    def statuses() -> set[int]:
        """What ten new connections get, which both workers accept."""
        headers = {"X-API-Key": key}
        return {fetch("GET", f"{server.url}/tasks", headers=headers).status_code for _ in range(10)}

    assert statuses() == {200}
    revoked = time.monotonic()
    response = fetch("POST", f"{server.url}/admin/api-keys/{key_id}/revoke", headers={"X-API-Key": ADMIN_KEY})
    assert response.status_code == 200
    wait_until(lambda: statuses() == {401}, timeout=5, what="the key is dead")
    time.sleep(max(0.0, revoked + 5 - time.monotonic()))
    assert statuses() == {401}


def test_keys_can_be_managed_from_the_command_line(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        """In this process: one of its own takes a second to start."""
        monkeypatch.setattr(sys, "argv", ["app.auth", *arguments])
        auth.main()
        return capsys.readouterr().out

    monkeypatch.setenv("DATABASE_URL", database_url)
    name = uuid.uuid4().hex
    command = [sys.executable, "-m", "app.auth", "issue", name]
    key = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert re.fullmatch(r"key_\d+_[\w-]{43}", key)
    with pytest.raises(SystemExit, match=rf"^app\.auth: An API key named '{name}' is in use; "):
        run("issue", name)
    key_id = key.split("_")[1]
    run("revoke", key_id)
    assert re.search(rf"^{key_id}\trevoked\t.*{name}$", run("list"), re.MULTILINE)
    with pytest.raises(SystemExit, match=r"^app\.auth: There is no API key 999999\.$"):
        run("revoke", "999999")
