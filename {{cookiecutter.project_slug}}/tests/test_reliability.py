"""What happens to requests if workers are killed, hang, are stopped, or have too much to do."""

import asyncio
import os
import socket
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.database_url import is_sqlite
from app.db.migrate import migrate
from app.settings import ROOT, Settings
from tests.conftest import REST_URL, execute
from tests.gizmos import GIZMOS_APP, SLOW_REQUEST_STARTED, create_app, create_gizmos_table
from tests.load import Load
from tests.server import ADMIN_KEY, Server, fetch, free_port, wait_until

KILLS = 3


@pytest.mark.slow
def test_requests_that_take_too_long_get_504_and_leave_nothing_behind(
    settings: Settings, empty_database_url: str
) -> None:
    """More requests than connections: if one of them kept its connection, later requests would have to wait."""
    settings = settings.model_copy(update={"request_timeout": 3, "database_url": SecretStr(empty_database_url)})
    migrate(settings)
    create_gizmos_table(empty_database_url)
    kinds = ["write", *["read"] * 9]
    with (
        TestClient(create_app(settings), REST_URL) as client,
        ThreadPoolExecutor(len(kinds)) as threads,
    ):
        issued = client.post("/admin/api-keys", json={"name": "patient"}, headers={"X-API-Key": ADMIN_KEY})
        client.headers["X-API-Key"] = issued.json()["key"]
        for response in threads.map(lambda kind: client.get(f"/gizmos/slow/{kind}", params={"seconds": 60}), kinds):
            assert response.status_code == 504, response.text
            assert response.headers["Content-Type"] == "application/problem+json"
            assert response.json()["detail"] == "The request timed out after 3 s."
        for _ in range(10):
            assert client.post("/gizmos", json={"title": "x"}).status_code == 201
            assert client.get("/gizmos", params={"limit": 1}).status_code == 200
    if not is_sqlite(empty_database_url):
        wait_until(lambda: execute(empty_database_url, OPEN_TRANSACTIONS) == [], timeout=5, what="all transactions end")


OPEN_TRANSACTIONS = """
    SELECT state, query FROM pg_stat_activity
    WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
"""


@pytest.mark.slow
def test_fifty_writers_lose_nothing_while_workers_are_killed(tmp_path: Path, empty_database_url: str) -> None:
    with Server(tmp_path, app=GIZMOS_APP, DATABASE_URL=empty_database_url) as server:
        load = Load(server, server.issue_key("load"))

        async def kill_workers(_client: httpx2.AsyncClient) -> None:
            for _ in range(KILLS):
                await load.progress()
                await asyncio.to_thread(server.kill_worker)
            await load.progress()

        asyncio.run(load.run(meanwhile=kill_workers))
        load.check()
    assert load.cut, "no kill hit a request"
    assert server.killed() == KILLS
    assert not [line for line in server.logs() if "exception" in line or "unavailable" in line["message"]]
    if is_sqlite(empty_database_url):
        assert execute(empty_database_url, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.slow
def test_a_shutdown_lets_requests_finish_and_sends_503_to_those_that_cannot(tmp_path: Path, database_url: str) -> None:
    with (
        Server(tmp_path, app=GIZMOS_APP, options=["--graceful-timeout", "5"], DATABASE_URL=database_url) as server,
        server.client(server.issue_key(uuid.uuid4().hex)) as client,
        ThreadPoolExecutor() as threads,
    ):
        short, long = (
            threads.submit(client.get, "/gizmos/slow/wait", params={"seconds": seconds}) for seconds in (2, 60)
        )
        wait_until(
            lambda: server.log_file.read_text().count(SLOW_REQUEST_STARTED) == 2, timeout=10, what="both are in flight"
        )
        assert server.stop() == 0
        assert short.result().status_code == 200
        assert (long.result().status_code, long.result().headers["Connection"]) == (503, "close")
        assert long.result().json()["detail"] == "The service is shutting down; try again."
        assert "SIGKILL" not in server.log_file.read_text(), "gunicorn's grace period was over"


@pytest.mark.slow
def test_workers_end_with_their_master_and_free_its_ports(tmp_path: Path, database_url: str) -> None:
    with (
        Server(tmp_path, app=GIZMOS_APP, DATABASE_URL=database_url) as server,
        server.client(server.issue_key(uuid.uuid4().hex)) as client,
        ThreadPoolExecutor() as threads,
    ):
        in_flight = threads.submit(client.get, "/gizmos/slow/wait", params={"seconds": 2})
        wait_until(lambda: SLOW_REQUEST_STARTED in server.log_file.read_text(), timeout=10, what="it is in flight")
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not server.workers(), timeout=20, what="the workers end")
        assert in_flight.result().status_code == 200
        for port in (server.port, server.mcp_port):
            socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.slow
def test_a_port_that_is_in_use_ends_the_start_with_one_clear_message(tmp_path: Path, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        environment = {**os.environ, "DATABASE_URL": database_url, "HOST": "127.0.0.1"}
        environment |= {"PORT": str(port), "MCP_PORT": str(free_port()), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-m", "app"]
        run = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert run.returncode == 1
    assert run.stderr.startswith(f"Cannot listen on 127.0.0.1:{port}: Address already in use.")
    assert "ERROR" not in run.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed_and_replaced_while_the_other_answers(tmp_path: Path, database_url: str) -> None:
    with (
        Server(tmp_path, app=GIZMOS_APP, options=["--timeout", "3"], DATABASE_URL=database_url) as server,
        server.client(server.issue_key(uuid.uuid4().hex)) as client,
        ThreadPoolExecutor() as threads,
    ):
        wait_until(lambda: len(server.workers()) == 2, timeout=10, what="both workers run")
        before = server.workers()
        hanging = threads.submit(client.get, "/gizmos/slow/block", params={"seconds": 60})
        wait_until(lambda: SLOW_REQUEST_STARTED in server.log_file.read_text(), timeout=10, what="the worker hangs")

        def is_killed() -> bool:
            assert fetch("GET", f"{server.url}/health").status_code == 200
            return hanging.done()

        wait_until(is_killed, timeout=20, what="the worker is killed")
        with pytest.raises(httpx2.TransportError):
            hanging.result()
        assert "WORKER TIMEOUT" in server.log_file.read_text()
        wait_until(
            lambda: len(server.workers()) == 2 and len(set(server.workers()) & set(before)) == 1,
            timeout=10,
            what="one worker is replaced",
        )
