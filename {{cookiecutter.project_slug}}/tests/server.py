"""The service as in production: gunicorn with two worker processes."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx2

from app.settings import ROOT

ADMIN_KEY = "admin-key-for-tests-0123456789abcdef"
START_TIMEOUT = 60.0
# Below the ephemeral ports: an outgoing connection might take one of those before it is used.
PORTS = iter(random.sample(range(20_000, 30_000), 10_000))


def free_port() -> int:
    """A port that was not returned before: a service needs two different ones."""
    while True:
        port = next(PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], *, timeout: float, what: str) -> float:
    """Wait until `condition` holds, and return how many seconds that took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout:
            raise AssertionError(f"{what}: not within {timeout:g} s")
        time.sleep(0.1)
    return time.monotonic() - started


def fetch(method: str, url: str, **options: Any) -> httpx2.Response:
    """Send one request on a new connection, without loading TLS certificates, which would take 40 ms of CPU."""
    return httpx2.request(method, url, verify=False, **options)


class Server:
    """A context manager. `app` is what gunicorn loads, `options` are its options, `settings` are environment variables.

    `wrapper` is a command that runs another command, such as `setpriv`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        app: str = "app.main:create_app()",
        options: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        **settings: str,
    ) -> None:
        self.port = free_port()
        self.mcp_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.mcp_url = f"http://127.0.0.1:{self.mcp_port}/mcp"
        self.log_file = folder / f"server-{self.port}.log"
        self._command = [*wrapper, sys.executable, "-m", "gunicorn", *options, app]
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"},
            "ADMIN_API_KEY": ADMIN_KEY,
            # All tests together must stay below PostgreSQL's default limit of 100 connections.
            "DATABASE_POOL_SIZE": "4",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "MCP_PORT": str(self.mcp_port),
            "TMPDIR": str(folder),  # for the metrics' files, which a killed service leaves behind
            **settings,
        }

    def __enter__(self) -> Self:
        self.start()
        try:
            wait_until(self._healthy, timeout=START_TIMEOUT, what="the service starts")
        except AssertionError as error:
            self.__exit__()
            raise AssertionError(f"{error}: {self.log_file.read_text()}") from None
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the master to stop, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def workers(self) -> list[int]:
        """The process ids of the workers that are alive."""
        booted = re.findall(r"Booting worker with pid: (\d+)", self.log_file.read_text())
        return [pid for pid in map(int, booted) if _is_alive(pid)]

    def killed(self) -> int:
        """How many workers were killed, according to the master's log."""
        return self.log_file.read_text().count("was sent SIGKILL")

    def kill_worker(self) -> None:
        before = self.killed()
        os.kill(self.workers()[0], signal.SIGKILL)
        wait_until(lambda: self.killed() > before, timeout=10, what="the master notices")

    def logs(self) -> list[dict[str, Any]]:
        """The log lines of the service; fails if one is not JSON."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def issue_key(self, name: str) -> str:
        headers = {"X-API-Key": ADMIN_KEY}
        response = fetch("POST", f"{self.url}/admin/api-keys", json={"name": name}, headers=headers)
        assert response.status_code == 201, response.text
        key: str = response.json()["key"]
        return key

    def client(self, key: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"X-API-Key": key}, timeout=60, verify=False)

    def _healthy(self) -> bool:
        assert self.process.poll() is None, "the service ended"
        try:
            return fetch("GET", f"{self.url}/health").status_code == 200
        except httpx2.TransportError:
            return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # In a container without an init process, orphans stay zombies.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()
