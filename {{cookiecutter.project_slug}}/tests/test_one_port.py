"""Platforms that give a service one port: REST and MCP share it."""

import uuid

from starlette.testclient import TestClient

from app.settings import Settings
from tests.conftest import JSON_RPC, REST_URL
from tests.gizmos import create_app
from tests.server import ADMIN_KEY


def test_both_interfaces_are_served_on_one_port(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"one_port": True})), REST_URL) as client:
        issued = client.post("/admin/api-keys", json={"name": uuid.uuid4().hex}, headers={"X-API-Key": ADMIN_KEY})
        headers = {"X-API-Key": issued.json()["key"]}
        assert client.get("/gizmos", headers=headers).status_code == 200
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        for path in ("/mcp", "/mcp/"):
            answer = client.post(path, json=message, headers=headers | JSON_RPC)
            assert "create_gizmo" in answer.text
        assert client.post("/mcp", json=message).status_code == 401
        assert client.get("/health").json() == {"status": "healthy"}
