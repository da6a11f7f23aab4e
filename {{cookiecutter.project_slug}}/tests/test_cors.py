"""CORS: web pages of the allowed origins may call both ports, and no others."""

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from tests.conftest import JSON_RPC, MCP_URL, REST_URL, client_with
from tests.gizmos import create_app

ORIGIN = "https://app.example.com"
LIST_TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def preflight(client: TestClient, path: str = "/gizmos", **headers: str) -> dict[str, str]:
    """Send a preflight request, without a key as browsers do, and return the headers of the response."""
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"} | headers
    return dict(client.options(path, headers=asked).headers)


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_preflight_requests_need_no_key(admin: TestClient, method: str) -> None:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "x-api-key,content-type"}
    allowed = preflight(client_with(admin), **asked)
    assert allowed["access-control-allow-origin"] == ORIGIN
    assert method in allowed["access-control-allow-methods"]
    assert {"X-API-Key", "Content-Type", "Authorization"} <= set(allowed["access-control-allow-headers"].split(", "))
    assert "access-control-allow-credentials" not in allowed


def test_an_allowed_page_may_call_mcp(admin: TestClient) -> None:
    asked = {"Access-Control-Request-Headers": "authorization,content-type,mcp-protocol-version,mcp-session-id"}
    response = client_with(admin, url=MCP_URL).options(
        "/mcp", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST", **asked}
    )
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_an_allowed_page_can_read_responses_of_mcp(mcp_client: TestClient) -> None:
    response = mcp_client.post("/mcp", json=LIST_TOOLS, headers={"Origin": ORIGIN})
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://app.example.com", f"{ORIGIN}.evil.example", f"{ORIGIN}:8443", "null"],
)
def test_other_origins_are_not_allowed(admin: TestClient, client: TestClient, origin: str) -> None:
    for stranger, path in ((client_with(admin), "/gizmos"), (client_with(admin, url=MCP_URL), "/mcp")):
        assert "access-control-allow-origin" not in preflight(stranger, path, Origin=origin)
    response = client.get("/gizmos", headers={"Origin": origin})
    assert "access-control-allow-origin" not in response.headers


def test_by_default_no_origin_is_allowed(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"cors_origins": ()})), REST_URL) as client:
        assert "access-control-allow-origin" not in preflight(client)


@pytest.mark.parametrize(
    ("status", "path"), [(200, "/gizmos"), (404, "/gizmos/999999"), (422, "/gizmos/x"), (500, "/gizmos/broken/code")]
)
def test_an_allowed_page_can_read_responses_and_their_headers(client: TestClient, status: int, path: str) -> None:
    response = client.get(path, headers={"Origin": ORIGIN})
    assert response.status_code == status
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    exposed = set(response.headers["Access-Control-Expose-Headers"].split(", "))
    assert exposed == {"Location", "Retry-After", "WWW-Authenticate", "X-Request-ID"}
    assert "Origin" in response.headers["Vary"]


def test_an_allowed_page_can_read_rejections(admin: TestClient) -> None:
    for url in (f"{REST_URL}/gizmos", f"{MCP_URL}/mcp"):
        response = client_with(admin).post(url, headers={"Origin": ORIGIN, **JSON_RPC})
        assert response.status_code == 401
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_an_allowed_page_can_read_timeouts(settings: Settings, key: str) -> None:
    app = create_app(settings.model_copy(update={"request_timeout": 0}))
    with TestClient(app, REST_URL, headers={"X-API-Key": key, "Origin": ORIGIN}) as client:
        response = client.get("/gizmos")
    assert response.status_code == 504
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
