"""Probes and metrics: what orchestrators and monitoring see."""

import asyncio
import os
import re
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app import database, metrics
from app.database import Database
from app.main import OPEN_PATHS, create_app
from app.settings import Settings
from tests.conftest import MCP_URL, REST_URL, execute, visitor
from tests.server import Server, fetch, wait_until

METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "other"}


def test_health_answers_in_a_tenth_of_a_second(server: Server) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        response = client.get("/health")
        assert (response.status_code, response.json()) == (200, {"status": "healthy"})
        return time.perf_counter() - started

    with httpx2.Client(base_url=server.url, verify=False) as client:
        assert min(seconds() for _ in range(10)) < 0.1


def test_only_readiness_asks_the_database(settings: Settings, unreachable_database: str) -> None:
    app = create_app(settings.model_copy(update={"database_url": SecretStr(unreachable_database)}))
    with TestClient(app, REST_URL) as rest:
        for response in (rest.get("/live"), rest.get("/health"), visitor(rest, url=MCP_URL).get("/health")):
            assert (response.status_code, response.json()) == (200, {"status": "healthy"})
        refused = rest.get("/ready")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["detail"]


@pytest.mark.parametrize(("base", "path"), [(REST_URL, "/tasks"), (MCP_URL, "/mcp")])
def test_without_a_database_both_doors_ask_to_come_back(
    settings: Settings, unreachable_database: str, key: str, base: str, path: str
) -> None:
    app = create_app(settings.model_copy(update={"database_url": SecretStr(unreachable_database)}))
    with TestClient(app, base, headers={"X-API-Key": key}) as client:
        response = client.post(path, json={})
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert response.headers["Content-Type"] == "application/problem+json"


def test_readiness_waits_for_the_migrations(client: TestClient, database_url: str) -> None:
    execute(database_url, "ALTER TABLE alembic_version RENAME TO alembic_version_away")
    try:
        refused = client.get("/ready")
    finally:
        execute(database_url, "ALTER TABLE alembic_version_away RENAME TO alembic_version")
    assert refused.status_code == 503
    assert refused.json()["detail"] == "the schema is missing or old: run the migrations"
    assert client.get("/ready").status_code == 200


def test_readiness_gives_up_on_a_database_that_does_not_answer(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def hang(_database: Database) -> AsyncIterator[None]:
        await asyncio.sleep(60)
        yield

    monkeypatch.setattr(Database, "read", hang)
    monkeypatch.setattr(database, "PING_TIMEOUT", 0.1)
    started = time.monotonic()
    response = client.get("/ready")
    assert response.status_code == 503
    assert response.json()["detail"].startswith("no answer within")
    assert time.monotonic() - started < 5


def samples(server: Server) -> Counter[str]:
    """Each time series and its value."""
    lines = fetch("GET", f"{server.url}/metrics").text.splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return Counter({series: float(value) for series, _, value in pairs})


def series(metric: str, **labels: str) -> str:
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def requests(door: str, method: str, route: str, status: str) -> str:
    return series("http_requests_total", door=door, method=method, route=route, status=status)


def test_counts_and_durations_are_exact_over_both_workers_even_after_a_kill(server: Server, key: str) -> None:
    answers = {"/tasks": ("/tasks", "200"), "/tasks/999999": ("/tasks/{task_id}", "404")}
    before = samples(server)
    first_line = len(server.logs())
    sent = 0

    def send() -> None:
        nonlocal sent
        for path in answers:
            fetch("GET", server.url + path, headers={"X-API-Key": key})
        sent += 1

    def counted() -> set[float]:
        """How often each of the answers was counted, in both ways; an answer leaves before it is counted."""
        increase = samples(server) - before
        durations = "http_request_duration_seconds_count"
        counts = [requests("rest", "GET", route, status) for route, status in answers.values()]
        counts += [series(durations, door="rest", method="GET", route=route) for route, _ in answers.values()]
        return {increase[count] for count in counts}

    def both_workers_answered() -> bool:
        send()
        pids = {line["pid"] for line in server.logs()[first_line:] if line["logger"] == "app.access"}
        return pids == set(server.workers())

    wait_until(both_workers_answered, timeout=20, what="both workers answer")
    wait_until(lambda: counted() == {sent}, timeout=5, what="each request is counted once")
    seconds = series("http_request_duration_seconds_sum", door="rest", method="GET", route="/tasks")
    assert 0 < (samples(server) - before)[seconds] < 60

    killed = server.workers()[0]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in server.workers() and len(server.workers()) == 2, timeout=20, what="a new worker")
    assert counted() == {sent}
    for _ in range(10):
        send()
    wait_until(lambda: counted() == {sent}, timeout=5, what="each request is counted once")


def test_a_worker_that_was_killed_as_it_began_to_count_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    (tmp_path / "counter_1.db").touch()
    assert metrics.render() == b""


def test_requests_in_progress_are_forgotten_with_their_worker(server: Server, key: str) -> None:
    def in_progress() -> float:
        return samples(server)[series("http_requests_in_progress", door="rest")] - 1  # without the one that asks

    unfinished = f"POST /tasks HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Length: 9\r\n\r\n"
    with ExitStack() as connections:
        for _ in range(6):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(unfinished.encode())
        wait_until(lambda: in_progress() == 6, timeout=10, what="six requests are in progress")
        killed = set(server.workers())
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(server.workers()) - killed) == 2, timeout=20, what="two new workers")
    assert in_progress() == 0


def test_no_request_can_invent_a_time_series(server: Server, client: TestClient, key: str) -> None:
    def after_odd_requests() -> set[str]:
        """The time series there are."""
        with httpx2.Client(verify=False) as stranger:
            for port in (server.port, server.mcp_port):
                for headers in ({}, {"X-API-Key": key}):
                    for method in ("GET", "PROPFIND", "PURGE"):
                        for path in ("", "/tasks", "/mcp"):
                            url = f"http://127.0.0.1:{port}{path}/{uuid.uuid4()}"
                            assert stranger.request(method, url, headers=headers).status_code >= 400
        return set(samples(server))

    after_odd_requests()
    there_are = after_odd_requests()
    assert after_odd_requests() == there_are
    labels = re.findall(r'(method|route)="(.*?)"', "\n".join(there_are))
    routes = {"/mcp", "unmatched", *OPEN_PATHS, *client.get("/openapi.json").json()["paths"]}
    assert {value for name, value in labels if name == "route"} <= routes
    assert {value for name, value in labels if name == "method"} <= METHODS


def test_errors_are_counted_by_their_status(server: Server, key: str, corrupt_task: int) -> None:
    before = samples(server)
    fetch("GET", f"{server.url}/tasks")
    fetch("POST", f"{server.url}/tasks", json={}, headers={"X-API-Key": key})
    fetch("GET", f"{server.url}/tasks/{corrupt_task}", headers={"X-API-Key": key})
    fetch("GET", server.mcp_url, headers={"X-API-Key": key})
    expected = {
        requests("rest", "GET", "unmatched", "401"),
        requests("rest", "POST", "/tasks", "422"),
        requests("rest", "GET", "/tasks/{task_id}", "500"),
        requests("mcp", "GET", "/mcp", "405"),
    }
    wait_until(lambda: expected <= (samples(server) - before).keys(), timeout=5, what="all four errors are counted")
