"""Tasks over MCP: the same as over REST, but with short results."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import CallTool
from tests.tasks.test_rest import BAD_TASKS, create

NOT_FOUND = "There is no task 999999."


@pytest.fixture
def tools(mcp_client: TestClient) -> dict[str, dict[str, Any]]:
    listed = mcp_client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).json()
    return {tool["name"]: tool for tool in listed["result"]["tools"]}


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
def test_each_tool_is_annotated(
    tools: dict[str, dict[str, Any]], tool: str, read_only: bool, destructive: bool | None, idempotent: bool | None
) -> None:
    hints = tools[tool]["annotations"]
    found = (hints["readOnlyHint"], hints.get("destructiveHint"), hints.get("idempotentHint"))
    assert found == (read_only, destructive, idempotent)
    assert hints["openWorldHint"] is False
    assert tools[tool]["title"]


def test_changes_over_mcp_are_visible_over_rest(client: TestClient, call_tool: CallTool) -> None:
    created = json.loads(call_tool("create_task", title=" Pay ", description="By card", due_date="2030-12-31"))
    path = f"/tasks/{created['id']}"
    assert created["title"] == "Pay"
    assert created == client.get(path).json() == json.loads(call_tool("get_task", task_id=created["id"]))

    updated = json.loads(call_tool("update_task", task_id=created["id"], description=None))
    assert "description" not in updated
    assert client.get(path).json() == {**created, "description": None, "updated_at": updated["updated_at"]}

    call_tool("complete_task", task_id=created["id"])
    assert client.get(path).json()["status"] == "done"

    assert call_tool("delete_task", task_id=created["id"]) == f"Task {created['id']} is deleted."
    assert client.get(path).status_code == 404


def test_lists_have_pages_and_search_but_no_details(client: TestClient, call_tool: CallTool) -> None:
    expected = [create(client, title="Over MCP", description="x").json()["id"] for _ in range(3)][::-1]
    first = json.loads(call_tool("list_tasks", query="over mcp", limit=2))
    last = json.loads(call_tool("list_tasks", query="over mcp", limit=2, cursor=first["next_cursor"]))
    assert [task["id"] for task in first["items"] + last["items"]] == expected
    assert "next_cursor" not in last
    assert first["items"][0] == {"id": expected[0], "title": "Over MCP", "status": "todo", "priority": "normal"}


def test_tools_and_results_are_short(client: TestClient, call_tool: CallTool, tools: dict[str, dict[str, Any]]) -> None:
    ours = [tool for tool in tools.values() if "task" in tool["name"]]
    assert len(json.dumps(ours, separators=(",", ":"))) <= 5_000
    for number in range(25):
        title = f"Prepare the quarterly report number {number} for the board"
        create(client, title=title, description="x" * 1_000, priority="high", due_date="2030-12-31")
    page = call_tool("list_tasks", query="quarterly report")
    assert len(json.loads(page)["items"]) == 20
    assert len(page) <= 3_000


@pytest.mark.parametrize(("body", "pointer"), BAD_TASKS)
def test_invalid_input_is_rejected_as_over_rest_and_the_field_is_named(
    fail_tool: CallTool, body: dict[str, object], pointer: str
) -> None:
    assert pointer.removeprefix("body/") in fail_tool("create_task", **body)


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("get_task", {"task_id": 999_999}, NOT_FOUND),
        ("update_task", {"task_id": 999_999, "title": "x"}, NOT_FOUND),
        ("complete_task", {"task_id": 999_999}, NOT_FOUND),
        ("delete_task", {"task_id": 999_999}, NOT_FOUND),
        ("get_task", {}, "task_id: Field required"),
        ("get_task", {"task_id": 2**63}, "task_id: Input should be less than or equal to 9223372036854775807"),
        ("update_task", {"task_id": 1, "title": None}, "title: Input should be a valid string"),
        ("list_tasks", {"limit": 201}, "limit: Input should be less than or equal to 200"),
        ("list_tasks", {"status": "finished"}, "status: Input should be 'todo', 'in_progress' or 'done'"),
        ("list_tasks", {"query": ""}, "query: String should have at least 1 character"),
    ],
)
def test_an_error_says_what_to_do_differently(
    fail_tool: CallTool, tool: str, arguments: dict[str, Any], says: str
) -> None:
    assert fail_tool(tool, **arguments) == says
