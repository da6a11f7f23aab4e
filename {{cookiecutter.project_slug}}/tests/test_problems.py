"""Errors of requests and of the service are returned as problem details (RFC 9457)."""

import asyncio
import uuid
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from app.web import schemas
from app.web.middleware import LARGE_BODIES, LARGE_BODY, BodySizeLimitMiddleware
from app.web.schemas import Page


def assert_problem(response: Any, status: int, detail: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert (problem["type"], problem["status"], problem["detail"]) == ("about:blank", status, detail)
    assert problem["request_id"] == response.headers["X-Request-ID"]


def test_an_unknown_path_is_404(client: TestClient) -> None:
    assert_problem(client.get("/nothing"), 404, "There is nothing at /nothing.")


@pytest.mark.parametrize("content", [b'{"title": "\xff"}', b'{"title": "\\ud800"}', b"{", b""])
def test_a_body_that_is_not_json_is_rejected(client: TestClient, content: bytes) -> None:
    response = client.post("/gizmos", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_media_type_is_415(client: TestClient, media_type: str) -> None:
    response = client.post("/gizmos", content=b'{"title": "x"}', headers={"Content-Type": media_type})
    assert_problem(response, 415, "Send the body as JSON, with the header Content-Type: application/json.")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON", "application/a+json"])
def test_every_json_media_type_is_accepted(client: TestClient, media_type: str) -> None:
    response = client.post("/gizmos", content=b'{"title": "x"}', headers={"Content-Type": media_type})
    assert response.status_code == 201


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_is_413(client: TestClient, declared: bool) -> None:
    body = b'{"title": "' + b"x" * 1_048_576 + b'"}'
    content = body if declared else iter([body[:600_000], body[600_000:]])
    response = client.post("/gizmos", content=content, headers={"Content-Type": "application/json"})
    assert_problem(response, 413, "The body is larger than 1048576 bytes.")


def test_a_body_at_the_limit_is_accepted(client: TestClient) -> None:
    body = b'{"title": "x"' + b" " * (1_048_576 - 14) + b"}"
    response = client.post("/gizmos", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 201


@pytest.mark.anyio
async def test_large_bodies_take_turns_and_small_ones_do_not_wait() -> None:
    begun = 0
    sent = asyncio.Event()

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        nonlocal begun
        begun += 1
        await receive()

    async def receive() -> Message:
        await sent.wait()
        return {"type": "http.request", "body": b""}

    async def send(_message: Message) -> None: ...

    middleware = BodySizeLimitMiddleware(app, limit=1_000_000)

    async def request(header: bytes, value: bytes) -> None:
        await middleware({"type": "http", "headers": [(header, value)]}, receive, send)

    async with asyncio.TaskGroup() as requests:
        for _ in range(LARGE_BODIES):
            requests.create_task(request(b"content-length", b"999999"))
        requests.create_task(request(b"content-length", b"999999"))
        requests.create_task(request(b"transfer-encoding", b"chunked"))
        await asyncio.sleep(0)
        assert begun == LARGE_BODIES
        requests.create_task(request(b"content-length", str(LARGE_BODY).encode()))
        await asyncio.sleep(0)
        assert begun == LARGE_BODIES + 1
        sent.set()
    assert begun == LARGE_BODIES + 3


def test_a_405_names_the_allowed_methods(client: TestClient) -> None:
    response = client.put("/gizmos/1", json={})
    assert_problem(response, 405, "PUT is not allowed here; see the Allow header.")
    assert response.headers["Allow"] == "GET, PATCH"


def test_a_validation_error_shows_the_location_but_not_the_input(client: TestClient) -> None:
    response = client.post("/gizmos", json={"title": " ", "password": "hunter2"})
    assert_problem(response, 422, "Validation failed; see `errors`.")
    assert {error["pointer"] for error in response.json()["errors"]} == {"body/title", "body/password"}
    assert "hunter2" not in response.text


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "cursor=0", f"cursor={2**63}", "query="])
def test_an_invalid_query_is_rejected(client: TestClient, query: str) -> None:
    response = client.get(f"/gizmos?{query}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == f"query/{query.partition('=')[0]}"


class Item(BaseModel):
    id: int
    text: str
    gizmo: str | None = None


@pytest.mark.parametrize(
    ("lengths", "limit", "ids", "next_cursor"),
    [
        ([1, 1, 1], 3, [1, 2, 3], None),
        ([1, 1, 1], 2, [1, 2], 2),
        ([6, 4, 1], 3, [1, 2], 2),  # ten characters fit, eleven do not
        ([11, 1], 2, [1], 1),  # one item always fits: otherwise the next page would begin at the same item
        ([10], 1, [1], None),
        ([], 5, [], None),
    ],
)
def test_a_page_ends_at_its_limit_or_when_its_texts_get_too_long(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], limit: int, ids: list[int], next_cursor: int | None
) -> None:
    monkeypatch.setattr(schemas, "MAX_PAGE_CHARACTERS", 10)
    items = [Item(id=number, text="x" * length) for number, length in enumerate(lengths, start=1)]
    page = Page[Item].of(items, limit)
    assert ([item.id for item in page.items], page.next_cursor) == (ids, next_cursor)


def test_pages_contain_each_item_once(client: TestClient) -> None:
    title = uuid.uuid4().hex
    made = [client.post("/gizmos", json={"title": title, "content": "x" * 9_000}).json()["id"] for _ in range(30)]
    query: dict[str, str | int] = {"query": title, "limit": 200}
    seen: list[int] = []
    pages = 0
    while True:
        page = client.get("/gizmos", params=query).json()
        seen += [gizmo["id"] for gizmo in page["items"]]
        pages += 1
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert (seen, pages) == (made[::-1], 2)
