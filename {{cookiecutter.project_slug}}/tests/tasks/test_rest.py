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
"""Input that both interfaces reject, and the field at fault."""


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
def test_an_invalid_task_is_rejected_with_the_location_of_the_error(
    client: TestClient, body: object, pointer: str
) -> None:
    response = client.post("/tasks", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "Another title"},
        {"description": "More", "status": "in_progress"},
        {"description": None, "due_date": None},
        {"priority": "urgent", "due_date": "2031-01-01"},
    ],
)
def test_an_update_changes_only_what_was_sent(client: TestClient, changes: dict[str, object]) -> None:
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
def test_null_is_rejected_for_a_required_field(client: TestClient, field: str) -> None:
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


def test_the_list_can_be_filtered_by_status(client: TestClient) -> None:
    create(client, status="done")
    create(client, status="todo")
    tasks = client.get("/tasks", params={"status": "done"}).json()["items"]
    assert {task["status"] for task in tasks} == {"done"}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "cursor=0", f"cursor={2**63}", "status=", "query=", "query=%00"]
)
def test_an_invalid_query_is_rejected(client: TestClient, query: str) -> None:
    response = client.get(f"/tasks?{query}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == f"query/{query.partition('=')[0]}"


SEARCHES = [("über", "uber"), ("100%", "1000"), ("a_b", "axb"), ("back\\slash", "backXslash"), ("it's", "its")]
"""A query, and a text that would match too if wildcards had a meaning or accents had none."""


@pytest.mark.parametrize(("query", "other"), SEARCHES)
def test_the_search_ignores_case_and_has_no_wildcards(client: TestClient, query: str, other: str) -> None:
    found = [
        create(client, title=f"Before {query} after").json()["id"],
        create(client, description=query.upper()).json()["id"],
    ]
    create(client, title=other, description=other)
    items = client.get("/tasks", params={"query": query}).json()["items"]
    assert [item["id"] for item in items] == found[::-1]


def test_search_status_and_pages_can_be_combined(client: TestClient) -> None:
    expected = [create(client, title="Both", status="done").json()["id"] for _ in range(3)][::-1]
    create(client, title="Both", status="todo")
    create(client, title="Other", status="done")
    parameters: dict[str, str | int] = {"query": "both", "status": "done", "limit": 2}
    first = client.get("/tasks", params=parameters).json()
    last = client.get("/tasks", params=parameters | {"cursor": first["next_cursor"]}).json()
    assert [task["id"] for task in first["items"] + last["items"]] == expected
    assert last["next_cursor"] is None


def test_a_page_of_long_texts_ends_early_and_the_next_one_continues(client: TestClient) -> None:
    """`MAX_PAGE_CHARACTERS` limits the size of a page."""
    expected = [create(client, title="Long", description="x" * 10_000).json()["id"] for _ in range(30)][::-1]
    first = client.get("/tasks", params={"query": "long"}).json()
    rest = client.get("/tasks", params={"query": "long", "cursor": first["next_cursor"]}).json()
    assert 20 < len(first["items"]) < 30
    assert [task["id"] for task in first["items"] + rest["items"]] == expected
