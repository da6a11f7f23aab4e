"""API keys: issued and shown once, stored as a hash, revoked on every worker, managed from a shell."""

import hashlib
import hmac
import re
import runpy
import sys
import uuid
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from app.api_keys.service import CACHE_SECONDS
from app.settings import Settings
from tests.conftest import REST_URL, client_with, execute
from tests.gizmos import create_app

PATH = "/admin/api-keys"


def issue(admin: TestClient) -> tuple[int, str]:
    response = admin.post(PATH, json={"name": uuid.uuid4().hex})
    assert response.status_code == 201, response.text
    return response.json()["id"], response.json()["key"]


def status_with(client: TestClient, key: str) -> int:
    return client.get("/gizmos", headers={"X-API-Key": key}).status_code


def test_a_key_is_shown_once_and_stored_as_a_hash(admin: TestClient, settings: Settings, database_url: str) -> None:
    key_id, key = issue(admin)
    token = key.removeprefix(f"key_{key_id}_")
    assert len(token) >= 43
    for path in (PATH, f"{PATH}/{key_id}"):
        assert token not in admin.get(path).text
    digest = hmac.new(settings.key_secret(), token.encode(), hashlib.sha256).hexdigest()
    [row] = execute(database_url, f"SELECT * FROM api_keys WHERE id = {key_id}")
    assert digest in row
    assert token not in str(row)


def test_a_revoked_key_stops_working_and_its_name_is_free_again(admin: TestClient) -> None:
    name = uuid.uuid4().hex.ljust(100, "x")  # the longest name allowed
    issued = admin.post(PATH, json={"name": name})
    location = issued.headers["Location"]
    assert location == f"{PATH}/{issued.json()['id']}"
    assert status_with(client_with(admin), issued.json()["key"]) == 200
    taken = admin.post(PATH, json={"name": name})
    assert (taken.status_code, name in taken.json()["detail"]) == (409, True)
    revoked = admin.post(f"{location}/revoke")
    assert (revoked.status_code, revoked.json()["revoked_at"] is None) == (200, False)
    assert admin.get(location).json() == revoked.json()
    assert status_with(client_with(admin), issued.json()["key"]) == 401
    assert admin.post(PATH, json={"name": name}).status_code == 201


def test_revoking_twice_is_the_same_as_once(admin: TestClient) -> None:
    key_id, _ = issue(admin)
    first, second = (admin.post(f"{PATH}/{key_id}/revoke").json() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("method", "path"), [("GET", f"{PATH}/999999"), ("POST", f"{PATH}/999999/revoke")])
def test_an_unknown_key_is_404(admin: TestClient, method: str, path: str) -> None:
    response = admin.request(method, path)
    assert (response.status_code, response.json()["detail"]) == (404, "There is no API key 999999.")


def test_possible_errors_are_documented(admin: TestClient) -> None:
    paths = admin.get("/openapi.json").json()["paths"]
    assert {"403", "409"} <= paths[PATH]["post"]["responses"].keys()
    for method, path in (("get", "/{key_id}"), ("post", "/{key_id}/revoke")):
        assert {"403", "404"} <= paths[f"{PATH}{path}"][method]["responses"].keys()


@pytest.mark.parametrize("name", ["", " \t ", "x" * 101, "nul\0", None])
def test_an_invalid_name_is_rejected(admin: TestClient, name: str | None) -> None:
    response = admin.post(PATH, json={"name": name})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "body/name"


def test_a_revoked_key_stops_working_on_other_workers_within_five_seconds(
    admin: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CACHE_SECONDS < 5
    now = 1000.0
    monkeypatch.setattr("app.api_keys.service.time", SimpleNamespace(monotonic=lambda: now))
    key_id, key = issue(admin)
    with TestClient(create_app(settings), REST_URL) as another_worker:
        assert status_with(another_worker, key) == 200
        admin.post(f"{PATH}/{key_id}/revoke")
        assert status_with(client_with(admin), key) == 401
        now += CACHE_SECONDS - 0.1
        assert status_with(another_worker, key) == 200, "each request reads the key from the database"
        now += 0.2
        assert status_with(another_worker, key) == 401


def test_keys_can_be_managed_from_a_shell(
    admin: TestClient, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        """Run `python -m app.api_keys ...` in this process: a new one would take a second to start."""
        monkeypatch.setattr(sys, "argv", ["app.api_keys", *arguments])
        runpy.run_module("app.api_keys", run_name="__main__", alter_sys=False)
        return capsys.readouterr().out

    monkeypatch.setenv("DATABASE_URL", database_url)
    name = uuid.uuid4().hex
    key = run("issue", name).strip()
    assert re.fullmatch(r"key_\d+_[\w-]{43}", key)
    assert status_with(client_with(admin), key) == 200
    with pytest.raises(SystemExit, match=rf"^An API key named '{name}' is in use; "):
        run("issue", name)
    with pytest.raises(SystemExit, match=r"^NAME: String should have at least 1 character"):
        run("issue", " ")
    key_id = key.split("_")[1]
    assert re.search(rf"^{key_id}\tactive\tread-write\t[\d-]+\tno expiry\t{name}$", run("list"), re.MULTILINE)
    run("revoke", key_id)
    assert re.search(rf"^{key_id}\trevoked\t.*{name}$", run("list"), re.MULTILINE)
    with pytest.raises(SystemExit, match=r"^There is no API key 999999\.$"):
        run("revoke", "999999")
