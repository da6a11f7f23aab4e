"""Who may call: nobody without a key, on any route of either port."""

import hmac
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from tests.conftest import MCP_URL, REST_URL, client_with
from tests.gizmos import create_app
from tests.server import ADMIN_KEY

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


@pytest.fixture
def routes(admin: TestClient) -> list[tuple[str, str]]:
    """Method and path of each documented route that needs a key, including those of features."""
    paths: dict[str, dict[str, Any]] = admin.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, operations in paths.items()
        for method, operation in operations.items()
        if operation["tags"] != ["probes"]
    ]


@pytest.mark.parametrize("headers", WRONG_KEYS)
def test_no_route_answers_without_a_key(
    admin: TestClient, routes: list[tuple[str, str]], headers: dict[str, Any]
) -> None:
    assert {("POST", "/gizmos"), ("POST", "/admin/api-keys/key_id/revoke")} <= set(routes)
    targets = [(f"{REST_URL}{path}", method) for method, path in [*routes, ("GET", "/no/such"), ("GET", "/admin")]]
    targets += [(f"{MCP_URL}{path}", method) for method, path in [("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/no")]]
    client = client_with(admin)
    for url, method in targets:
        response = client.request(method, url, headers=headers)
        assert response.status_code == 401, (method, url)
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.json()["status"] == 401


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": ""}, {"Authorization": "Bearer "}, {"Authorization": "key_1_" + "A" * 43}]
)
def test_a_request_without_a_key_is_told_how_to_send_one(admin: TestClient, headers: dict[str, str]) -> None:
    """An empty key counts as none: it may come from an unset variable."""
    for url, path in ((REST_URL, "/gizmos"), (MCP_URL, "/mcp")):
        assert client_with(admin, headers, url).post(path).json()["detail"] == (
            "Send a valid API key as `X-API-Key: KEY` or `Authorization: Bearer KEY`; ask whoever runs this service for one."
        )


@pytest.mark.parametrize(
    "header",
    [
        "X-API-Key: {}",
        "X-API-Key:  {} ",
        "Authorization: Bearer {}",
        "authorization: bearer {}",
        "Authorization: Bearer  {} ",
    ],
)
def test_a_key_is_accepted_in_either_header_and_with_spaces_around_it(admin: TestClient, key: str, header: str) -> None:
    name, _, value = header.format(key).partition(": ")
    assert client_with(admin, {name: value}).get("/gizmos").status_code == 200
    assert client_with(admin, {name: value}, MCP_URL).get("/mcp").status_code == 405


@pytest.mark.parametrize("url", [REST_URL, MCP_URL])
@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-authorization-server/mcp",
        "/mcp/.well-known/openid-configuration",
        "/authorize",
        "/register",
        "/token",
    ],
)
def test_nothing_suggests_oauth(admin: TestClient, key: str, url: str, path: str) -> None:
    """On a 401, some clients would start OAuth discovery and ignore their key, or wait for a login."""
    for method in ("GET", "POST"):
        assert client_with(admin, {"X-API-Key": key}, url).request(method, path).status_code == 404
        for headers in WRONG_KEYS:
            reason = client_with(admin, headers, MCP_URL).post("/mcp").json()["detail"]
            refused = client_with(admin, headers, url).request(method, path)
            assert (refused.status_code, refused.json()["detail"]) == (404, f"There is no OAuth here. {reason}")


def test_a_service_key_is_not_an_admin_key(client: TestClient, routes: list[tuple[str, str]]) -> None:
    admin_routes = [(method, path) for method, path in routes if path.startswith("/admin")]
    for method, path in [*admin_routes, ("GET", "/admin"), ("GET", "/admin/no/such")]:
        response = client.request(method, path)
        assert (response.status_code, response.json()["detail"]) == (
            403,
            "This needs the admin key, not a service key.",
        ), path


def test_the_admin_key_is_not_a_service_key(admin: TestClient) -> None:
    for url in (f"{REST_URL}/gizmos", f"{MCP_URL}/mcp"):
        assert client_with(admin, {"X-API-Key": ADMIN_KEY}).post(url).status_code == 401


def test_without_an_admin_key_the_admin_endpoints_are_disabled(
    settings: Settings, key: str, routes: list[tuple[str, str]]
) -> None:
    app = create_app(settings.model_copy(update={"admin_api_key": None}))
    with TestClient(app, REST_URL) as client:
        for method, path in [route for route in routes if route[1].startswith("/admin")]:
            for headers in (*WRONG_KEYS, {"X-API-Key": ADMIN_KEY}, {"X-API-Key": key}):
                assert client.request(method, path, headers=headers).status_code == 403


@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/metrics", "/docs", "/redoc", "/openapi.json"])
def test_probes_metrics_and_docs_need_no_key(admin: TestClient, path: str) -> None:
    assert client_with(admin).get(path).status_code == 200


@pytest.mark.parametrize(
    "path", ["//gizmos", "/health/../gizmos", "/health/", "/gizmos%2f", "/HEALTH", "/docs/x", "/token/"]
)
def test_no_spelling_of_a_path_bypasses_the_key(admin: TestClient, path: str) -> None:
    assert client_with(admin).get(path).status_code == 401


@pytest.mark.parametrize("path", ["/gizmos", "/admin/api-keys"])
def test_keys_are_compared_in_constant_time(
    admin: TestClient, key: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only `hmac.compare_digest` decides."""
    right = {"X-API-Key": ADMIN_KEY if path.startswith("/admin") else key}
    assert client_with(admin, right).get(path).status_code == 200
    monkeypatch.setattr(hmac, "compare_digest", lambda _one, _other: False)
    assert client_with(admin, right).get(path).status_code == 401
