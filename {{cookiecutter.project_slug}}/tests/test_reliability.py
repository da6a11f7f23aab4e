"""What happens to requests when workers are killed, hang, are stopped, or have too much to do."""

import asyncio
import os
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from app.database import is_sqlite
from tests.conftest import execute
from tests.load import Load
from tests.server import SLOW_APP, SLOW_REQUEST_STARTED, Server, fetch, wait_until

KILLS = 3


def test_fifty_writers_lose_nothing_while_workers_are_killed(tmp_path: Path, empty_database_url: str) -> None:
    with Server(tmp_path, DATABASE_URL=empty_database_url) as server:
        load = Load(server, server.issue_key("load"))

        def killed() -> int:
            return server.log_file.read_text().count("was sent SIGKILL")

        def kill_worker() -> None:
            before = killed()
            os.kill(server.workers()[0], signal.SIGKILL)
            wait_until(lambda: killed() > before, timeout=10, what="the master notices")

        async def kill_workers(_client: httpx2.AsyncClient) -> None:
            for _ in range(KILLS):
                await asyncio.sleep(1.5)
                await asyncio.to_thread(kill_worker)

        asyncio.run(load.run(5, meanwhile=kill_workers))
        load.check()
    assert len(load.created) > 50
    assert load.cut, "no kill hit a request"
    assert killed() == KILLS
    assert not [line for line in server.logs() if "exception" in line or line["logger"] == "app.database"]
    if is_sqlite(empty_database_url):
        assert execute(empty_database_url, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_shutdown_lets_requests_finish_and_tells_those_that_cannot(
    tmp_path: Path, database_url: str, number: signal.Signals
) -> None:
    with (
        Server(tmp_path, app=SLOW_APP, DATABASE_URL=database_url) as server,
        server.client(server.issue_key(uuid.uuid4().hex)) as client,
        ThreadPoolExecutor() as threads,
    ):
        short, long = (threads.submit(client.get, "/slow/wait", params={"seconds": seconds}) for seconds in (3, 60))
        wait_until(
            lambda: server.log_file.read_text().count(SLOW_REQUEST_STARTED) == 2, timeout=10, what="both are in flight"
        )
        started = time.monotonic()
        assert server.stop(number) == 0
        assert time.monotonic() - started < 15
        assert short.result().status_code == 200
        assert (long.result().status_code, long.result().headers["Connection"]) == (503, "close")
        assert long.result().json()["detail"] == "The service is shutting down; try again."
        assert "SIGKILL" not in server.log_file.read_text()


def test_requests_that_take_too_long_get_504_and_leave_the_pool_healthy(
    tmp_path: Path, empty_database_url: str
) -> None:
    # More than two workers have connections; on SQLite only one can write.
    kinds = ["write", *["read"] * 11] if is_sqlite(empty_database_url) else ["write", "read"] * 6
    with (
        Server(tmp_path, app=SLOW_APP, DATABASE_URL=empty_database_url, DATABASE_POOL_SIZE="2") as server,
        server.client(server.issue_key("client")) as client,
        ThreadPoolExecutor(len(kinds)) as threads,
    ):
        for response in threads.map(lambda kind: client.get(f"/slow/{kind}", params={"seconds": 35}), kinds):
            assert response.status_code == 504, response.text
            assert response.headers["Content-Type"] == "application/problem+json"
            assert 24.5 < response.elapsed.total_seconds() < 27.5
        afterwards = list(threads.map(lambda _: client.post("/tasks", json={"title": "A task"}), range(40)))
        assert {response.status_code for response in afterwards} == {201}
        assert max(response.elapsed.total_seconds() for response in afterwards) < 5
        if not is_sqlite(empty_database_url):
            assert execute(empty_database_url, OPEN_TRANSACTIONS) == []


OPEN_TRANSACTIONS = """
    SELECT state, query FROM pg_stat_activity
    WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
"""


def test_a_worker_that_hangs_is_killed_and_replaced_while_the_other_answers(tmp_path: Path, database_url: str) -> None:
    with (
        Server(tmp_path, app=SLOW_APP, DATABASE_URL=database_url) as server,
        server.client(server.issue_key(uuid.uuid4().hex)) as client,
        ThreadPoolExecutor() as threads,
    ):
        wait_until(lambda: len(server.workers()) == 2, timeout=10, what="both workers run")
        before = server.workers()
        hanging = threads.submit(client.get, "/slow/block", params={"seconds": 60})
        wait_until(lambda: SLOW_REQUEST_STARTED in server.log_file.read_text(), timeout=10, what="the worker hangs")
        started = time.monotonic()
        while not hanging.done():
            assert fetch("GET", f"{server.url}/health").status_code == 200
            time.sleep(0.5)
        assert 27 < time.monotonic() - started < 33
        with pytest.raises(httpx2.TransportError):
            hanging.result()
        wait_until(
            lambda: len(server.workers()) == 2 and len(set(server.workers()) & set(before)) == 1,
            timeout=10,
            what="one worker is replaced",
        )
