"""Metrics: they are exact over all workers."""

import asyncio
import os
import re
import signal
import socket
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.db.database import Database, Pool, open_database
from app.settings import Settings
from app.web import metrics
from tests.conftest import MCP_URL, REST_URL, CallTool, client_with
from tests.gizmos import create_app, keep_busy, list_gizmos
from tests.server import Server, fetch, wait_until

METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "other"}


def samples(text: str) -> Counter[str]:
    """The value of each time series."""
    pairs = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return Counter({series: float(value) for series, _, value in pairs if "_created" not in series})


def scrape(server: Server) -> Counter[str]:
    return samples(fetch("GET", f"{server.url}/metrics").text)


def series(metric: str, **labels: str) -> str:
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def requests(interface: str, method: str, route: str, status: str) -> str:
    return series("http_requests_total", interface=interface, method=method, route=route, status=status)


def test_requests_are_counted_by_route_and_status(
    admin: TestClient, client: TestClient, mcp_client: TestClient
) -> None:
    before = samples(client.get("/metrics").text)
    client_with(admin).get("/gizmos")
    client.post("/gizmos", json={})
    client.get("/gizmos/999999")
    client.get("/gizmos/broken/code")
    mcp_client.get("/mcp")
    increase = samples(client.get("/metrics").text) - before
    for counted in (
        requests("rest", "GET", "unmatched", "401"),
        requests("rest", "POST", "/gizmos", "422"),
        requests("rest", "GET", "/gizmos/{gizmo_id}", "404"),
        requests("rest", "GET", "/gizmos/broken/code", "500"),
        requests("mcp", "GET", "/mcp", "405"),
        series("http_request_duration_seconds_count", interface="rest", method="GET", route="/gizmos/{gizmo_id}"),
    ):
        assert increase[counted] == 1, counted


def test_tool_calls_are_counted_by_outcome(client: TestClient, call_tool: CallTool, fail_tool: CallTool) -> None:
    before = samples(client.get("/metrics").text)
    call_tool("create_gizmo", title="x")
    fail_tool("create_gizmo", title="")
    fail_tool("get_gizmo", gizmo_id=999_999)
    fail_tool("get_gizmo", number=1)
    fail_tool("break_gizmo")
    fail_tool(f"no_such_tool_{uuid.uuid4().hex}")
    increase = samples(client.get("/metrics").text) - before
    assert {name: value for name, value in increase.items() if name.startswith("mcp_tool_calls_total")} == {
        series("mcp_tool_calls_total", outcome="succeeded", tool="create_gizmo"): 1,
        series("mcp_tool_calls_total", outcome="refused", tool="create_gizmo"): 1,
        series("mcp_tool_calls_total", outcome="refused", tool="get_gizmo"): 2,
        series("mcp_tool_calls_total", outcome="failed", tool="break_gizmo"): 1,
        series("mcp_tool_calls_total", outcome="refused", tool="unknown"): 1,
    }
    assert increase[series("mcp_tool_call_duration_seconds_count", tool="get_gizmo")] == 2


def test_no_request_can_invent_a_time_series(admin: TestClient, key: str) -> None:
    def after_odd_requests() -> set[str]:
        """The names and labels of all time series."""
        for port in (client_with(admin), client_with(admin, url=MCP_URL)):
            for headers in ({}, {"X-API-Key": key}):
                for method in ("GET", "PROPFIND", "PURGE"):
                    for path in ("", "/gizmos", "/mcp"):
                        answer = port.request(method, f"{path}/{uuid.uuid4()}", headers=headers)
                        assert answer.status_code >= 400
        return set(samples(admin.get("/metrics").text))

    there_are = after_odd_requests()
    assert after_odd_requests() == there_are
    labels = re.findall(r'(method|route)="(.*?)"', "\n".join(there_are))
    assert not [value for _, value in labels if re.search(r"[0-9a-f]{8}-", value)]
    assert {value for name, value in labels if name == "method"} <= METHODS


@pytest.mark.parametrize("unit_of_work", ["read", "write"])
def test_requests_that_wait_for_the_database_are_counted(unit_of_work: str, database_url: str) -> None:
    async def use(database: Database) -> Pool:
        work = getattr(database, unit_of_work)
        pool = database.pools[0 if unit_of_work == "read" else -1]
        busy = [asyncio.create_task(work(keep_busy, 60)) for _ in range(pool.size)]
        late = asyncio.create_task(work(list_gizmos, None, 1, None))
        impatient = asyncio.create_task(work(list_gizmos, None, 1, None))
        await asyncio.sleep(0)  # lets each start
        assert (pool.in_use, pool.waiting) == (pool.size, 2)
        impatient.cancel()
        await asyncio.wait({impatient})
        assert (pool.in_use, pool.waiting, pool.waits, pool.timeouts) == (pool.size, 1, 1, 1)
        for each in busy:
            each.cancel()
        await asyncio.wait({*busy, late})
        assert not late.exception()
        await database.close()
        return pool

    pool = asyncio.run(use(open_database(database_url, pool_size=2)))
    assert (pool.in_use, pool.waiting, pool.waits, pool.timeouts) == (0, 0, 2, 1)
    assert 0 < pool.wait_seconds < 60


def test_pools_are_reported_with_their_sizes(client: TestClient, settings: Settings) -> None:
    pools = open_database(settings.database_url.get_secret_value(), pool_size=settings.database_pool_size).pools
    shown = samples(client.get("/metrics").text)
    for pool in pools:
        assert shown[series("db_pool_size", pool=pool.name)] == pool.size
        for name in ("in_use", "waiting", "waits_total", "wait_seconds_total", "timeouts_total"):
            assert series(f"db_pool_{name}", pool=pool.name) in shown, name


def test_metrics_of_a_feature_are_shown_if_the_database_answers(
    client: TestClient, settings: Settings, unreachable_database: str
) -> None:
    before = samples(client.get("/metrics").text)["gizmos"]
    client.post("/gizmos", json={"title": "One more"})
    assert samples(client.get("/metrics").text)["gizmos"] == before + 1
    elsewhere = settings.model_copy(update={"database_url": SecretStr(unreachable_database)})
    with TestClient(create_app(elsewhere), REST_URL) as without_database:
        answer = without_database.get("/metrics")
    assert answer.status_code == 200
    assert "gizmos" not in samples(answer.text)
    assert "http_requests_total" in answer.text


def test_an_empty_file_of_a_killed_worker_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    (tmp_path / "counter_1.db").touch()
    assert metrics.render() == b""


@pytest.mark.slow
def test_counts_and_durations_are_exact_over_both_workers_even_after_a_kill(server: Server, key: str) -> None:
    answers = {"/gizmos": ("/gizmos", "200"), "/gizmos/999999": ("/gizmos/{gizmo_id}", "404")}
    before = scrape(server)
    first_line = len(server.logs())
    sent = 0

    def send() -> None:
        nonlocal sent
        for path in answers:
            fetch("GET", server.url + path, headers={"X-API-Key": key})
        sent += 1

    def counted() -> set[float]:
        """How often both metrics counted each of the responses. A response is counted just after it is sent."""
        increase = scrape(server) - before
        durations = "http_request_duration_seconds_count"
        counts = [requests("rest", "GET", route, status) for route, status in answers.values()]
        counts += [series(durations, interface="rest", method="GET", route=route) for route, _ in answers.values()]
        return {increase[count] for count in counts}

    def both_workers_answered() -> bool:
        send()
        pids = {line["pid"] for line in server.logs()[first_line:] if line["logger"] == "app.access"}
        return pids == set(server.workers())

    wait_until(both_workers_answered, timeout=20, what="both workers answer")
    wait_until(lambda: counted() == {sent}, timeout=5, what="each request is counted once")
    seconds = series("http_request_duration_seconds_sum", interface="rest", method="GET", route="/gizmos")
    assert 0 < (scrape(server) - before)[seconds] < 60

    killed = server.workers()[0]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in server.workers() and len(server.workers()) == 2, timeout=20, what="a new worker")
    assert counted() == {sent}
    for _ in range(10):
        send()
    wait_until(lambda: counted() == {sent}, timeout=5, what="each request is counted once")


@pytest.mark.slow
def test_gauges_forget_a_worker_that_was_killed(server: Server, key: str) -> None:
    def in_progress() -> float:
        return scrape(server)[series("http_requests_in_progress", interface="rest")] - 1  # not counting the scrape

    def reading() -> float:
        return sum(value for name, value in scrape(server).items() if re.match("db_pool_(in_use|waiting){", name))

    unfinished = f"GET /gizmos/slow/read?seconds=60 HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n"
    with ExitStack() as connections:
        for _ in range(3):  # fewer than a worker's database connections, as /metrics may need one too
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(unfinished.encode())
        wait_until(lambda: in_progress() == reading() == 3, timeout=20, what="three requests are in progress and read")
        killed = set(server.workers())
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(server.workers()) - killed) == 2, timeout=20, what="two new workers")
    wait_until(lambda: in_progress() == reading() == 0, timeout=20, what="nothing is in progress and read")
