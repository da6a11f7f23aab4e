"""The OpenAPI document describes what the service does, and the service does what it describes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.settings import Settings
from app.web.probes import PROBE_PATHS
from tests.conftest import REST_URL, client_with
from tests.gizmos import GIZMOS_APP, create_app
from tests.server import ADMIN_KEY, Server


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    openapi: dict[str, Any] = client.get("/openapi.json").json()
    return openapi


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The operations of all features, by method and path."""
    found = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert {"GET /ready", "POST /admin/api-keys", "PATCH /gizmos/{gizmo_id}"} <= found.keys()
    return found


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["operationId"] == operation["summary"].lower().replace(" ", "_"), name
        assert operation["tags"], name


def test_every_route_except_the_probes_requires_the_key(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert schemes["apiKey"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}
    for name, operation in operations(document).items():
        is_public = name.partition(" ")[2] in PROBE_PATHS
        assert operation.get("security") == (None if is_public else [{"apiKey": []}, {"bearer": []}]), name
        assert ("401" in operation["responses"]) is not is_public, name


def test_every_parameter_body_and_response_has_an_example(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for parameter in operation.get("parameters", []):
            assert has_example(parameter["schema"], document), f"{name}: {parameter['name']}"
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for body in bodies + list(operation["responses"].values()):
            for content in body.get("content", {}).values():
                assert "example" in content or has_example(content["schema"], document), name


def has_example(schema: dict[str, Any], document: dict[str, Any]) -> bool:
    """Whether the schema or its parts have examples."""
    if schema.keys() & {"examples", "enum", "const", "default"}:
        return True
    if reference := schema.get("$ref"):
        return has_example(document["components"]["schemas"][reference.rpartition("/")[2]], document)
    if "properties" in schema:
        return all(has_example(part, document) for part in schema["properties"].values())
    parts = [schema["items"]] if "items" in schema else schema.get("anyOf", [])
    return any(has_example(part, document) for part in parts)


def test_every_error_is_problem_details_with_its_own_example(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        errors = {status: response for status, response in operation["responses"].items() if status >= "400"}
        assert errors.keys() >= {"500", "503", "504"}, name
        for status, response in errors.items():
            assert response["content"].keys() == {"application/problem+json"}, f"{name}: {status}"
            assert response["content"]["application/problem+json"]["example"]["status"] == int(status)


@pytest.mark.parametrize("path", ["/gizmos/{gizmo_id}", "/admin/api-keys/{key_id}"])
def test_a_404_names_what_was_not_found(document: dict[str, Any], path: str) -> None:
    example = document["paths"][path]["get"]["responses"]["404"]["content"]["application/problem+json"]["example"]
    assert example["detail"] == {"g": "There is no gizmo 3.", "a": "There is no API key 7."}[path[1]]


def provoke(status: int, client: TestClient, admin: TestClient, settings: Settings, unreachable: str) -> Response:
    """Send a request that is answered with this status."""
    changes: dict[str, object] = {}
    match status:
        case 401:
            return client_with(admin).get("/gizmos")
        case 403:
            return client.get("/admin/api-keys")
        case 404:
            return client.get("/gizmos/3000000")
        case 409:
            body = {"name": "taken"}
            admin.post("/admin/api-keys", json=body)
            return admin.post("/admin/api-keys", json=body)
        case 413:
            return client.post("/gizmos", content=b" " * (settings.max_body_bytes + 1))
        case 415:
            return client.post("/gizmos", content=b"{}")
        case 422:
            return client.post("/gizmos", json={})
        case 500:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("tests.gizmos.list_gizmos", None)
                return client.get("/gizmos")
        case 503:
            changes = {"database_url": SecretStr(unreachable)}
        case 504:
            changes = {"request_timeout": 0}
    with TestClient(create_app(settings.model_copy(update=changes)), REST_URL, headers=dict(client.headers)) as other:
        return other.get("/gizmos")


@pytest.mark.parametrize("status", [401, 403, 404, 409, 413, 415, 422, 500, 503, 504])
def test_errors_are_as_documented(
    document: dict[str, Any],
    client: TestClient,
    admin: TestClient,
    settings: Settings,
    unreachable_database: str,
    status: int,
) -> None:
    response = provoke(status, client, admin, settings, unreachable_database)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    path = response.request.url.path.replace("3000000", "{gizmo_id}")
    operation = document["paths"][path][response.request.method.lower()]
    example = operation["responses"][str(status)]["content"]["application/problem+json"]["example"]
    answer = response.json()
    assert answer.keys() == example.keys()
    for member in ("type", "title", "status"):
        assert answer[member] == example[member]
    assert answer["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.slow
def test_no_generated_request_breaks_a_route(tmp_path: Path, empty_database_url: str) -> None:
    with Server(tmp_path, app=GIZMOS_APP, DATABASE_URL=empty_database_url) as server:
        run_schemathesis(server, tmp_path, "^/(?!admin|jobs|duplicates)", server.issue_key("schemathesis"))
        # A schema cannot express that a key expires in the future.
        run_schemathesis(server, tmp_path, "^/admin", ADMIN_KEY, "--exclude-checks", "positive_data_acceptance")


def run_schemathesis(server: Server, folder: Path, paths: str, key: str, *options: str) -> None:
    """Fails on warnings too, such as for operations that only returned 401."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--no-color", "run", f"{server.url}/openapi.json"),
        *("--header", f"X-API-Key: {key}", "--include-path-regex", paths, "--checks", "all"),
        *("--generation-deterministic", "--max-examples", "5", "--continue-on-failure", *options),
    ]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert "No issues found" in run.stdout, run.stdout + run.stderr
    assert run.returncode == 0
