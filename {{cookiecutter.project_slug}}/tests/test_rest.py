"""Tasks over REST."""

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

BAD_TASKS: list[tuple[dict[str, object], str]] = [
    ({}, "body/title"),
    ({"title": ""}, "body/title"),
    ({"title": " \t "}, "body/title"),
    ({"title": "x" * 201}, "body/title"),
    ({"title": "nul\0"}, "body/title"),
    ({"title": None}, "body/title"),
    ({"title": "x", "description": "nul\0"}, "body/description"),
    ({"title": "x", "description": "x" * 10_001}, "body/description"),
    ({"title": "x", "status": "finished"}, "body/status"),
    ({"title": "x", "due_date": 20301231}, "body/due_date"),
    ({"title": "x", "due_date": "31.12.2030"}, "body/due_date"),
    ({"title": "x", "due_date": "1924905600"}, "body/due_date"),
    ({"title": "x", "due_date": "2030-12-31T00:00:00Z"}, "body/due_date"),
    ({"title": "x", "due_date": "2030-02-30"}, "body/due_date"),
    ({"title": "x", "titel": "y"}, "body/titel"),
]
"""What no door takes, and where the fault is."""


def create(client: TestClient, **fields: object) -> Response:
    response = client.post("/tasks", json={"title": "A task", **fields})
    assert response.status_code == 201, response.text
    return response


def test_a_created_task_is_at_its_location(client: TestClient) -> None:
    created = create(client, title="  Send the invoice ", due_date="2030-12-31", priority="high")
    task = created.json()
    assert task["title"] == "Send the invoice"
    assert (task["status"], task["priority"], task["due_date"]) == ("todo", "high", "2030-12-31")
    assert task["created_at"].endswith("Z")
    assert client.get(created.headers["Location"]).json() == task


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("task_id", [999_999, 2**63 - 1])
def test_an_unknown_task_is_404(client: TestClient, method: str, task_id: int) -> None:
    response = client.request(method, f"/tasks/{task_id}", json={"title": "x"} if method == "PATCH" else None)
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": f"There is no task {task_id}.",
        "request_id": response.headers["X-Request-ID"],
    }


@pytest.mark.parametrize(("body", "pointer"), [*BAD_TASKS, ([], "body")])
def test_a_bad_task_is_refused_with_the_place_of_the_fault(client: TestClient, body: object, pointer: str) -> None:
    response = client.post("/tasks", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == pointer


def test_an_error_never_repeats_the_input(client: TestClient) -> None:
    response = client.post("/tasks", json={"title": "x", "password": "hunter2"})
    assert response.status_code == 422
    assert "hunter2" not in response.text


@pytest.mark.parametrize("content", [b'{"title": "\xff"}', b'{"title": "\\ud800"}', b"{", b""])
def test_a_body_that_is_not_json_is_refused(client: TestClient, content: bytes) -> None:
    response = client.post("/tasks", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_media_type_is_415(client: TestClient, media_type: str) -> None:
    response = client.post("/tasks", content=b'{"title": "x"}', headers={"Content-Type": media_type})
    assert response.status_code == 415
    assert "application/json" in response.json()["detail"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_is_413(client: TestClient, declared: bool) -> None:
    body = b'{"title": "' + b"x" * 1_048_576 + b'"}'
    content = body if declared else iter([body[:600_000], body[600_000:]])
    response = client.post("/tasks", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"


def test_an_unknown_method_is_405(client: TestClient) -> None:
    response = client.put("/tasks/1", json={})
    assert response.status_code == 405
    assert set(response.headers["Allow"].replace(" ", "").split(",")) >= {"GET"}
    assert response.json()["status"] == 405


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "Another title"},
        {"description": "More", "status": "in_progress"},
        {"description": None, "due_date": None},
        {"priority": "urgent", "due_date": "2031-01-01"},
    ],
)
def test_an_update_changes_what_was_sent_and_nothing_else(client: TestClient, changes: dict[str, object]) -> None:
    before = create(client, description="Details", due_date="2030-12-31").json()
    response = client.patch(f"/tasks/{before['id']}", json=changes)
    after = response.json()
    assert response.status_code == 200
    assert after.pop("updated_at") > before.pop("updated_at")
    assert after == {**before, **changes}


def test_an_empty_update_changes_nothing(client: TestClient) -> None:
    task = create(client).json()
    assert client.patch(f"/tasks/{task['id']}", json={}).json() == task


@pytest.mark.parametrize("field", ["title", "status", "priority"])
def test_null_for_a_field_that_needs_a_value_is_refused(client: TestClient, field: str) -> None:
    task = create(client).json()
    response = client.patch(f"/tasks/{task['id']}", json={field: None})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == f"body/{field}"


def test_completing_twice_is_the_same_as_once(client: TestClient) -> None:
    task = create(client).json()
    for _ in range(2):
        response = client.post(f"/tasks/{task['id']}/complete")
        assert (response.status_code, response.json()["status"]) == (200, "done")


def test_a_deleted_task_is_gone_and_its_id_is_not_used_again(client: TestClient) -> None:
    task = create(client).json()
    response = client.delete(f"/tasks/{task['id']}")
    assert (response.status_code, response.content) == (204, b"")
    assert client.delete(f"/tasks/{task['id']}").status_code == 404
    assert create(client).json()["id"] > task["id"]


def test_pages_neither_repeat_nor_miss_a_task_while_others_are_created(client: TestClient) -> None:
    expected = [create(client, status="in_progress").json()["id"] for _ in range(7)][::-1]
    seen: list[int] = []
    query: dict[str, str | int] = {"status": "in_progress", "limit": 3}
    while len(seen) < 7:
        page = client.get("/tasks", params=query).json()
        seen += [task["id"] for task in page["items"]]
        create(client, status="in_progress")
        query["cursor"] = page["next_cursor"]
    assert seen[:7] == expected


def test_the_last_page_has_no_cursor(client: TestClient) -> None:
    create(client)
    lowest = client.get("/tasks", params={"limit": 200}).json()["items"][-1]["id"]
    page = client.get("/tasks", params={"cursor": lowest + 1, "limit": 1}).json()
    assert (len(page["items"]), page["next_cursor"]) == (1, None)


def test_the_list_can_be_limited_to_a_status(client: TestClient) -> None:
    create(client, status="done")
    create(client, status="todo")
    tasks = client.get("/tasks", params={"status": "done"}).json()["items"]
    assert {task["status"] for task in tasks} == {"done"}


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "cursor=0", f"cursor={2**63}", "status="])
def test_a_bad_query_is_refused(client: TestClient, query: str) -> None:
    response = client.get(f"/tasks?{query}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == f"query/{query.partition('=')[0]}"
