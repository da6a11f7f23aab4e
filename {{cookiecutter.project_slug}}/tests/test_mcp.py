"""MCP: the protocol, with the official client; tools and their errors; attacks on the port."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import METHOD_NOT_FOUND
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.api_keys.service import INVALID
from app.settings import Settings
from app.web.authentication import Caller
from tests.conftest import JSON_RPC, MCP_URL, CallTool, client_with
from tests.gizmos import BROKEN, create_app
from tests.server import ADMIN_KEY, Server, fetch, wait_until

pytestmark = pytest.mark.anyio

REVISIONS = {"2026-07-28": "2026-07-28", "auto": "2026-07-28", "legacy": "2025-11-25"}
"""How the client negotiates the protocol's revision, and the result."""

LIST_TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def tools(mcp_client: TestClient) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = mcp_client.post("/mcp", json=LIST_TOOLS).json()["result"]["tools"]
    assert {"create_gizmo", "get_gizmo", "list_gizmos"} <= {tool["name"] for tool in listed}
    return listed


def test_every_tool_is_described_and_annotated(tools: list[dict[str, Any]]) -> None:
    for tool in tools:
        name, hints = tool["name"], tool["annotations"]
        assert tool["title"], name
        assert tool["description"], name
        assert hints["openWorldHint"] is False, name
        assert hints["readOnlyHint"] or {"destructiveHint", "idempotentHint"} <= hints.keys(), name
        assert "outputSchema" not in tool, name  # assistants would receive it, and every result twice


def test_every_argument_is_described(tools: list[dict[str, Any]]) -> None:
    for tool in tools:
        for argument, schema in tool["inputSchema"]["properties"].items():
            described = "description" in schema or "$ref" in schema or "anyOf" in schema or "enum" in schema
            assert described, f"{tool['name']}: {argument}"
            assert "title" not in schema, f"{tool['name']}: {argument}"  # would only repeat its name


def test_only_tools_are_advertised(mcp_client: TestClient) -> None:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a test", "version": "1"}}
    begun = mcp_client.post("/mcp", json=LIST_TOOLS | {"method": "initialize", "params": params}).json()
    assert begun["result"]["capabilities"].keys() == {"tools"}
    for method in ("prompts/list", "resources/list", "resources/templates/list"):
        error = mcp_client.post("/mcp", json=LIST_TOOLS | {"method": method}).json()["error"]
        assert error == {"code": METHOD_NOT_FOUND, "message": f"This server has tools only: there is no {method}."}


def test_changes_over_mcp_are_visible_over_rest_and_vice_versa(client: TestClient, call_tool: CallTool) -> None:
    created = json.loads(call_tool("create_gizmo", title=" Opening hours "))
    gizmo = client.get(f"/gizmos/{created['id']}").json()
    assert gizmo["title"] == created["title"] == "Opening hours"
    client.patch(f"/gizmos/{gizmo['id']}", json={"title": "Closed", "content": "Today"})
    stored = {"id": gizmo["id"], "title": "Closed", "content": "Today"}  # without null fields and white space
    assert call_tool("get_gizmo", gizmo_id=gizmo["id"]) == json.dumps(stored, separators=(",", ":"))


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("get_gizmo", {"gizmo_id": 999_999}, "There is no gizmo 999999."),
        ("get_gizmo", {}, "gizmo_id: Field required"),
        ("get_gizmo", {"gizmo_id": 0}, "gizmo_id: Input should be greater than or equal to 1"),
        ("get_gizmo", {"gizmo_id": 2**63}, "gizmo_id: Input should be less than or equal to 9223372036854775807"),
        ("create_gizmo", {"title": ""}, "title: String should have at least 1 character"),
        (
            "create_gizmo",
            {"title": None, "content": "x" * 10_001},
            "title: Input should be a valid string\ncontent: String should have at most 10000 characters",
        ),
        ("list_gizmos", {"limit": 201}, "limit: Input should be less than or equal to 200"),
        (
            "create_gizmo",
            {"title": "x", "contents": "y", "due": "z"},
            "create_gizmo has no argument 'contents', 'due'. It takes: title, content.",
        ),
        ("break_gizmo", {"why": "x"}, "break_gizmo has no argument 'why'. It takes: none."),
        ("break_gizmo", {}, "Error executing tool break_gizmo"),
    ],
)
def test_an_error_says_only_what_to_do_differently(
    fail_tool: CallTool, tool: str, arguments: dict[str, Any], says: str
) -> None:
    assert fail_tool(tool, **arguments) == says


def test_an_unknown_tool_is_answered_with_the_names_of_the_tools(fail_tool: CallTool) -> None:
    text = fail_tool("drop_table")
    assert text.startswith("There is no tool 'drop_table'. The tools are: ")
    assert "create_gizmo, get_gizmo, list_gizmos" in text


def test_an_unexpected_error_is_logged_with_its_traceback(
    fail_tool: CallTool, caplog: pytest.LogCaptureFixture
) -> None:
    fail_tool("break_gizmo")
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert BROKEN in caplog.text


def test_without_a_database_a_tool_says_to_try_again(
    settings: Settings, key: str, unreachable_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def verify(_verifier: object, _key: str) -> Caller:
        return Caller("a test", "API key", may_write=True)

    monkeypatch.setattr("app.api_keys.service.ApiKeyVerifier.verify", verify)
    app = create_app(settings.model_copy(update={"database_url": SecretStr(unreachable_database)}))
    message = LIST_TOOLS | {"method": "tools/call", "params": {"name": "list_gizmos", "arguments": {}}}
    with TestClient(app, MCP_URL, headers={"X-API-Key": key, **JSON_RPC}) as client:
        result = client.post("/mcp", json=message).json()["result"]
    assert result["isError"]
    assert result["content"][0]["text"] == "The database is unavailable; try again in a few seconds."


def test_a_rejection_is_both_a_json_rpc_error_and_problem_details(mcp_client: TestClient) -> None:
    response = mcp_client.post("/mcp", json=LIST_TOOLS, headers={"X-API-Key": "wrong"})
    assert (response.status_code, response.headers["Content-Type"]) == (401, "application/json")
    body = response.json()
    assert body["detail"] == body["error"]["message"] == INVALID
    assert body | {"jsonrpc": "2.0", "id": None, "status": 401, "title": "Unauthorized"} == body
    assert body["request_id"] == response.headers["X-Request-ID"]


def test_a_client_that_tries_to_register_for_oauth_gets_an_error_that_it_understands(mcp_client: TestClient) -> None:
    """RFC 6749, 5.2: Claude Code and MCP Inspector cannot read any other error."""
    body = client_with(mcp_client, {}, MCP_URL).post("/register", json={"client_name": "x"}).json()
    assert isinstance(body["error"], str)
    assert body["error_description"] == body["detail"]
    assert body["detail"].startswith("There is no OAuth here. Send a valid API key as ")
    assert "jsonrpc" not in body


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
def test_the_path_may_end_with_a_slash(mcp_client: TestClient, path: str) -> None:
    assert mcp_client.post(path, json=LIST_TOOLS).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
def test_only_post_is_allowed(mcp_client: TestClient, method: str, path: str) -> None:
    response = mcp_client.request(method, path, headers={"Accept": "text/event-stream"})
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "LocalHost:65535", "127.0.0.1:8051", "[::1]:8051"])
def test_an_allowed_host_is_served_on_any_port(mcp_client: TestClient, host: str) -> None:
    assert mcp_client.post("/mcp", json=LIST_TOOLS, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8051",
        "evil.localhost",
        "localhost.evil.example",
        "localhost:8051.evil.example",
        "localhost:evil.example",
        "localhost:8051@evil.example",
        "user@localhost",
        "localhost, evil.example",
        "localhost:",
        "127.0.0.1.evil.example",
        "[::1].evil.example",
        "[::1",
        "",
    ],
)
def test_other_hosts_are_rejected(mcp_client: TestClient, host: str) -> None:
    response = mcp_client.post("/mcp", json=LIST_TOOLS, headers={"Host": host})
    assert (response.status_code, response.json()["title"]) == (421, "Misdirected Request")


@pytest.mark.parametrize(
    "origin", ["https://app.example.com", "http://localhost:6274", "http://127.0.0.1", "http://[::1]:8051"]
)
def test_pages_of_an_allowed_origin_may_call(mcp_client: TestClient, origin: str) -> None:
    """In development, also those on this machine, such as MCP Inspector."""
    assert mcp_client.post("/mcp", json=LIST_TOOLS, headers={"Origin": origin}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "https://app.example.com:8443",
        "https://app.example.com/",
        "http://app.example.com",
        "http://localhost.evil.example",
        "http://localhost:6274/page",
        "http://localhost@evil.example",
        "https://localhost:6274",
        "null",
        "*",
        "",
    ],
)
def test_pages_of_other_origins_may_not_call(mcp_client: TestClient, origin: str) -> None:
    response = mcp_client.post("/mcp", json=LIST_TOOLS, headers={"Origin": origin})
    assert (response.status_code, response.json()["title"]) == (403, "Forbidden")


def test_in_production_pages_on_this_machine_may_not_call(settings: Settings, key: str) -> None:
    app = create_app(settings.model_copy(update={"environment": "production"}))
    with TestClient(app, MCP_URL, headers={"X-API-Key": key, **JSON_RPC}) as client:
        assert client.post("/mcp", json=LIST_TOOLS).status_code == 200
        refused = client.post("/mcp", json=LIST_TOOLS, headers={"Origin": "http://localhost:6274"})
        assert refused.status_code == 403


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b"[]", {}, 400),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "\\ud800"}}', {}, 400),
        (json.dumps(LIST_TOOLS).encode(), {"Content-Type": "text/plain"}, 400),
        (json.dumps(LIST_TOOLS).encode(), {"Content-Type": "application/x-www-form-urlencoded"}, 400),
        (json.dumps(LIST_TOOLS).encode(), {"MCP-Protocol-Version": "1999-01-01"}, 400),
        (b" " * 1_048_577, {}, 413),
    ],
)
def test_an_invalid_message_is_rejected(
    mcp_client: TestClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    assert mcp_client.post("/mcp", content=content, headers=headers).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8051"},
        {"X-Forwarded-Host": "localhost:8051"},
        {"X-Forwarded-Port": "8051"},
        {"Forwarded": 'host="localhost:8051"'},
    ],
)
def test_each_port_serves_only_its_own_interface(
    client: TestClient, mcp_client: TestClient, headers: dict[str, str]
) -> None:
    assert client.post("/mcp", json=LIST_TOOLS, headers=headers | JSON_RPC).status_code == 404
    headers = {name: value.replace("8051", "8000") for name, value in headers.items()}
    for path in ("/gizmos", "/docs", "/openapi.json", "/ready", "/metrics", "/admin/api-keys"):
        assert mcp_client.get(path, headers=headers).status_code == 404, path


@asynccontextmanager
async def connect(server: Server, key: str | None, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else None
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, verify=False) as http,
        Client(streamable_http_client(server.mcp_url, http_client=http), mode=mode) as client,
    ):
        yield client


async def create_and_read(assistant: Client) -> None:
    created = await assistant.call_tool("create_gizmo", {"title": "Of an assistant"})
    assert created.content[0].type == "text"
    gizmo = json.loads(created.content[0].text)
    read = await assistant.call_tool("get_gizmo", {"gizmo_id": gizmo["id"]})
    assert not read.is_error
    assert read.content == created.content


def mcp_calls(server: Server, before: int) -> list[dict[str, Any]]:
    """The log lines of requests to MCP after the first `before` lines."""
    return [line for line in server.logs()[before:] if line.get("interface") == "mcp"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", REVISIONS)
async def test_both_protocol_revisions_work(server: Server, key: str, mode: str) -> None:
    async with connect(server, key, mode) as assistant:
        assert assistant.protocol_version == REVISIONS[mode]
        assert {"create_gizmo", "list_gizmos"} <= {tool.name for tool in (await assistant.list_tools()).tools}
        assert (assistant.server_capabilities.prompts, assistant.server_capabilities.resources) == (None, None)
        await create_and_read(assistant)
        refused = await assistant.call_tool("get_gizmo", {"gizmo_id": 999_999})
        assert refused.is_error


@pytest.mark.slow
async def test_many_assistants_at_once_are_served_by_both_workers(server: Server, key: str) -> None:
    async def work(number: int) -> None:
        async with connect(server, key, list(REVISIONS)[number % 3]) as assistant:
            for _ in range(4):
                await create_and_read(assistant)

    before = len(server.logs())
    answered_by: set[int] = set()
    async with asyncio.timeout(60):
        while answered_by != set(server.workers()):  # which worker accepts a connection is random
            async with asyncio.TaskGroup() as group:
                for number in range(12):
                    group.create_task(work(number))
            answered_by = {line["pid"] for line in mcp_calls(server, before)}
    assert len(answered_by) == 2
    assert {line["status"] for line in mcp_calls(server, before)} <= {200, 202}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        (None, "Send a valid API key as `X-API-Key: KEY` or `Authorization: Bearer KEY`; ask whoever runs"),
        (f"key_1_{'A' * 43}", INVALID),
        (ADMIN_KEY, INVALID),
    ],
)
async def test_the_official_client_reports_an_invalid_key(server: Server, key: str | None, remedy: str) -> None:
    before = len(server.logs())
    with pytest.RaisesGroup(pytest.RaisesExc(MCPError, match=re.escape(remedy)), flatten_subgroups=True):
        async with connect(server, key):
            pass
    wait_until(lambda: mcp_calls(server, before), timeout=5, what="the request is logged")
    assert {line["status"] for line in mcp_calls(server, before)} == {401}


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [[], ["localhost", "evil.example"]])
def test_requests_with_no_host_or_two_are_rejected(server: Server, key: str, hosts: list[str]) -> None:
    body = json.dumps(LIST_TOOLS)
    headers = {"X-API-Key": key, "Content-Length": str(len(body)), **JSON_RPC}
    lines = [*(f"Host: {host}" for host in hosts), *(f"{name}: {value}" for name, value in headers.items())]
    with socket.create_connection(("127.0.0.1", server.mcp_port), timeout=5) as connection:
        connection.sendall("\r\n".join(["POST /mcp HTTP/1.1", *lines, "", body]).encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 421 ")


@pytest.mark.slow
def test_gunicorn_serves_each_interface_on_its_own_port_only(server: Server, key: str) -> None:
    headers = {**JSON_RPC, "X-API-Key": key}
    for port, status in ((server.port, 404), (server.mcp_port, 200)):
        url = f"http://127.0.0.1:{port}"
        assert fetch("POST", f"{url}/mcp", json=LIST_TOOLS, headers=headers).status_code == status
        assert fetch("GET", f"{url}/health").json() == {"status": "healthy"}
        assert fetch("GET", f"{url}/gizmos", headers=headers).status_code == {404: 200, 200: 404}[status]
