"""Tasks over MCP: the official client against the service with two workers, and attackers at its door."""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.testclient import TestClient

from app.schemas import TaskCreate, TaskPage, TaskRead, TaskUpdate
from tests.conftest import CORRUPT_STATUS, MCP_URL, execute, visitor
from tests.server import ADMIN_KEY, Server, fetch, wait_until
from tests.test_rest import BAD_TASKS

pytestmark = pytest.mark.anyio

REVISIONS = {"2026-07-28": "2026-07-28", "auto": "2026-07-28", "legacy": "2025-11-25"}
"""How the client negotiates the protocol's revision, and what comes of it."""

JSON_RPC = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
LIST_TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def connect(server: Server, key: str | None, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else None
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, verify=False) as http,
        Client(streamable_http_client(server.mcp_url, http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.fixture
async def assistant(request: pytest.FixtureRequest, server: Server, key: str) -> AsyncIterator[Client]:
    async with connect(server, key, getattr(request, "param", "auto")) as client:
        yield client


async def call(assistant: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await assistant.call_tool(tool, arguments)
    assert not result.is_error, result.content
    content: dict[str, Any] | None = result.structured_content
    assert content is not None
    return content


async def fail(assistant: Client, tool: str, **arguments: Any) -> str:
    """The text that the assistant gets for a call that fails."""
    result = await assistant.call_tool(tool, arguments)
    assert result.is_error
    assert result.structured_content is None
    [content] = result.content
    assert content.type == "text"
    return content.text


@pytest.mark.parametrize("mode", REVISIONS)
async def test_both_revisions_of_the_protocol_are_spoken(server: Server, key: str, mode: str) -> None:
    async with connect(server, key, mode) as assistant:
        assert assistant.protocol_version == REVISIONS[mode]
        assert {"create_task", "list_tasks"} <= {tool.name for tool in (await assistant.list_tools()).tools}


@pytest.mark.parametrize(
    ("tool", "read_only", "destructive", "idempotent"),
    [
        ("create_task", False, False, False),
        ("get_task", True, None, None),
        ("list_tasks", True, None, None),
        ("update_task", False, True, True),
        ("complete_task", False, False, True),
        ("delete_task", False, True, True),
    ],
)
async def test_each_tool_says_what_it_may_do(
    assistant: Client, tool: str, read_only: bool, destructive: bool | None, idempotent: bool | None
) -> None:
    tools = {tool.name: tool for tool in (await assistant.list_tools()).tools}
    hints = tools[tool].annotations
    assert hints is not None
    assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint) == (read_only, destructive, idempotent)
    assert hints.open_world_hint is False
    assert tools[tool].description


async def test_tools_take_and_give_the_shapes_of_rest(assistant: Client) -> None:
    tools = {tool.name: tool for tool in (await assistant.list_tools()).tools}
    assert tools["create_task"].input_schema["$defs"]["TaskCreate"] == _definition(TaskCreate.model_json_schema())
    assert tools["update_task"].input_schema["$defs"]["TaskUpdate"] == _definition(TaskUpdate.model_json_schema())
    for name in ("create_task", "get_task", "update_task", "complete_task"):
        assert tools[name].output_schema == TaskRead.model_json_schema()
    assert tools["list_tasks"].output_schema == TaskPage.model_json_schema()
    for name in ("get_task", "update_task", "complete_task", "delete_task"):
        task_id = tools[name].input_schema["properties"]["task_id"]
        assert (task_id["type"], task_id["minimum"], task_id["maximum"]) == ("integer", 1, 2**63 - 1)
        assert "task_id" in tools[name].input_schema["required"]


def _definition(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != "$defs"}


@pytest.mark.parametrize("assistant", REVISIONS, indirect=True)
async def test_what_is_done_over_mcp_shows_over_rest(assistant: Client, client: TestClient) -> None:
    created = await call(assistant, "create_task", task={"title": " Pay ", "description": "By card"})
    path = f"/tasks/{created['id']}"
    assert created["title"] == "Pay"
    assert created == client.get(path).json() == await call(assistant, "get_task", task_id=created["id"])

    updated = await call(assistant, "update_task", task_id=created["id"], changes={"description": None})
    assert updated == {**created, "description": None, "updated_at": updated["updated_at"]} == client.get(path).json()

    completed = await call(assistant, "complete_task", task_id=created["id"])
    assert completed["status"] == "done"
    assert completed == client.get(path).json()

    await call(assistant, "delete_task", task_id=created["id"])
    assert client.get(path).status_code == 404


async def test_what_is_done_over_rest_shows_over_mcp(assistant: Client, client: TestClient) -> None:
    task = client.post("/tasks", json={"title": "x"}).json()
    assert await call(assistant, "get_task", task_id=task["id"]) == task
    task = client.patch(f"/tasks/{task['id']}", json={"priority": "low"}).json()
    assert await call(assistant, "get_task", task_id=task["id"]) == task
    client.delete(f"/tasks/{task['id']}")
    assert f"There is no task {task['id']}." in await fail(assistant, "get_task", task_id=task["id"])


async def test_both_doors_show_the_same_pages(assistant: Client, client: TestClient) -> None:
    for _ in range(5):
        client.post("/tasks", json={"title": "x", "status": "in_progress"})
    query: dict[str, Any] = {"status": "in_progress", "limit": 2}
    for _ in range(3):
        page = await call(assistant, "list_tasks", **query)
        assert page == client.get("/tasks", params=query).json()
        query["cursor"] = page["next_cursor"]
    assert query["cursor"] is None or query["cursor"] < page["items"][0]["id"]


@pytest.mark.parametrize(("body", "pointer"), BAD_TASKS)
async def test_bad_input_is_refused_as_over_rest_and_the_field_is_named(
    assistant: Client, body: dict[str, Any], pointer: str
) -> None:
    assert pointer.replace("body/", "task.") in await fail(assistant, "create_task", task=body)


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("get_task", {"task_id": 999_999}, "There is no task 999999."),
        ("update_task", {"task_id": 999_999, "changes": {"title": "x"}}, "There is no task 999999."),
        ("complete_task", {"task_id": 999_999}, "There is no task 999999."),
        ("delete_task", {"task_id": 999_999}, "There is no task 999999."),
        ("get_task", {}, "task_id\n  Field required"),
        ("get_task", {"task_id": 0}, "task_id\n  Input should be greater than or equal to 1"),
        ("get_task", {"task_id": 2**63}, "task_id\n  Input should be less than or equal to 9223372036854775807"),
        ("update_task", {"task_id": 1, "changes": {"title": None}}, "changes.title\n  Input should be a valid string"),
        ("list_tasks", {"limit": 201}, "limit\n  Input should be less than or equal to 200"),
        ("list_tasks", {"status": "finished"}, "status\n  Input should be 'todo', 'in_progress' or 'done'"),
        ("drop_table", {}, "Unknown tool: drop_table"),
    ],
)
async def test_an_error_says_what_to_do_differently(
    assistant: Client, tool: str, arguments: dict[str, Any], says: str
) -> None:
    assert says in await fail(assistant, tool, **arguments)


async def test_a_broken_database_means_try_again_until_it_is_back(
    assistant: Client, server: Server, database_url: str
) -> None:
    await asyncio.to_thread(execute, database_url, "ALTER TABLE tasks RENAME TO tasks_away")
    try:
        text = await fail(assistant, "list_tasks")
    finally:
        await asyncio.to_thread(execute, database_url, "ALTER TABLE tasks_away RENAME TO tasks")
    assert "The database is unavailable: the schema is missing" in text
    assert text.endswith("Try again in a few seconds.")
    await call(assistant, "list_tasks")


async def test_an_unexpected_error_tells_nothing(assistant: Client, corrupt_task: int, server: Server) -> None:
    before = len(server.logs())
    assert await fail(assistant, "get_task", task_id=corrupt_task) == "Error executing tool get_task"
    [logged] = [line for line in server.logs()[before:] if "exception" in line]
    assert CORRUPT_STATUS in logged["exception"]
    wait_until(lambda: mcp_calls(server, before), timeout=5, what="the request is logged")
    assert logged["request_id"] in {line["request_id"] for line in mcp_calls(server, before)}


async def test_many_assistants_at_once_are_served_by_both_workers(server: Server, key: str) -> None:
    async def manage_tasks(number: int) -> None:
        async with connect(server, key, list(REVISIONS)[number % 3]) as assistant:
            for _ in range(4):
                task = await call(assistant, "create_task", task={"title": f"Of assistant {number}"})
                assert await call(assistant, "get_task", task_id=task["id"]) == task

    before = len(server.logs())
    answered_by: set[int] = set()
    async with asyncio.timeout(30):
        while answered_by != set(server.workers()):  # which worker accepts a connection is left to chance
            async with asyncio.TaskGroup() as group:
                for number in range(12):
                    group.create_task(manage_tasks(number))
            answered_by = {line["pid"] for line in mcp_calls(server, before)}
    assert len(answered_by) == 2
    assert {line["status"] for line in mcp_calls(server, before)} <= {200, 202}


def mcp_calls(server: Server, before: int) -> list[dict[str, Any]]:
    """What the service logged of each request to MCP after its first `before` lines."""
    return [line for line in server.logs()[before:] if line.get("door") == "mcp"]


@pytest.fixture
def revoked_key(server: Server) -> str:
    key = server.issue_key(uuid.uuid4().hex)
    path = f"/admin/api-keys/{key.split('_')[1]}/revoke"
    assert fetch("POST", server.url + path, headers={"X-API-Key": ADMIN_KEY}).status_code == 200
    return key


@pytest.mark.parametrize("kind", ["missing", "wrong", "revoked", "admin"])
async def test_an_assistant_without_a_valid_key_gets_nowhere(server: Server, revoked_key: str, kind: str) -> None:
    keys = {"missing": None, "wrong": f"key_1_{'A' * 43}", "revoked": revoked_key, "admin": ADMIN_KEY}
    before = len(server.logs())
    with pytest.raises(ExceptionGroup):
        async with connect(server, keys[kind]):
            pass
    wait_until(lambda: mcp_calls(server, before), timeout=5, what="the request is logged")
    assert {line["status"] for line in mcp_calls(server, before)} == {401}


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_anything_but_post_is_refused_at_once(server: Server, key: str, method: str) -> None:
    started = time.monotonic()
    headers = {"X-API-Key": key, "Accept": "text/event-stream"}
    response = fetch(method, server.mcp_url, headers=headers, timeout=5)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert time.monotonic() - started < 2


@pytest.fixture
def mcp_door(admin: TestClient, key: str) -> TestClient:
    return visitor(admin, {"X-API-Key": key, **JSON_RPC}, MCP_URL)


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "LocalHost:65535", "127.0.0.1:8051", "[::1]:8051"])
def test_an_allowed_host_is_served_on_any_port(mcp_door: TestClient, host: str) -> None:
    assert mcp_door.post("/mcp", json=LIST_TOOLS, headers={"Host": host}).status_code == 200


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
def test_another_host_is_refused(mcp_door: TestClient, host: str) -> None:
    response = mcp_door.post("/mcp", json=LIST_TOOLS, headers={"Host": host})
    assert (response.status_code, response.json()["title"]) == (421, "Misdirected Request")


@pytest.mark.parametrize("hosts", [[], ["localhost", "evil.example"]])
def test_no_host_and_two_hosts_are_refused(server: Server, key: str, hosts: list[str]) -> None:
    body = json.dumps(LIST_TOOLS)
    headers = {"X-API-Key": key, "Content-Length": str(len(body)), **JSON_RPC}
    lines = [*(f"Host: {host}" for host in hosts), *(f"{name}: {value}" for name, value in headers.items())]
    with socket.create_connection(("127.0.0.1", server.mcp_port), timeout=5) as connection:
        connection.sendall("\r\n".join(["POST /mcp HTTP/1.1", *lines, "", body]).encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 421 ")


def test_pages_of_an_allowed_origin_may_call(mcp_door: TestClient) -> None:
    headers = {"Origin": "https://app.example.com"}
    assert mcp_door.post("/mcp", json=LIST_TOOLS, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "https://app.example.com:8443",
        "https://app.example.com/",
        "http://app.example.com",
        "http://localhost:8051",
        "null",
        "*",
        "",
    ],
)
def test_pages_of_another_origin_may_not(mcp_door: TestClient, origin: str) -> None:
    response = mcp_door.post("/mcp", json=LIST_TOOLS, headers={"Origin": origin})
    assert (response.status_code, response.json()["title"]) == (403, "Forbidden")


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
def test_a_message_that_cannot_be_read_is_refused(
    mcp_door: TestClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    assert mcp_door.post("/mcp", content=content, headers=headers).status_code == status


@pytest.mark.parametrize("spoofed", ["Host", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded", "X-Original-URL"])
def test_no_header_leads_to_the_other_ports_door(server: Server, key: str, spoofed: str) -> None:
    for own, other, method, path in (
        (server.port, server.mcp_port, "POST", "/mcp"),
        (server.mcp_port, server.port, "GET", "/tasks"),
        (server.mcp_port, server.port, "GET", "/docs"),
        (server.mcp_port, server.port, "GET", "/admin/api-keys"),
    ):
        value = {
            "Host": f"127.0.0.1:{other}",
            "X-Forwarded-Host": f"127.0.0.1:{other}",
            "X-Forwarded-Port": str(other),
            "Forwarded": f'host="127.0.0.1:{other}"',
            "X-Original-URL": f"http://127.0.0.1:{other}{path}",
        }[spoofed]
        headers = {**JSON_RPC, "X-API-Key": key, spoofed: value}
        response = fetch(method, f"http://127.0.0.1:{own}{path}", headers=headers)
        assert response.status_code == 404, (own, path)


def test_health_answers_on_both_ports(server: Server) -> None:
    for port in (server.port, server.mcp_port):
        response = fetch("GET", f"http://127.0.0.1:{port}/health")
        assert (response.status_code, response.json()) == (200, {"status": "healthy"})
