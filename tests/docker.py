"""Containers and images for the tests. All their names have a prefix, and all are removed at the end."""

import functools
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.rendered import ISSUE_KEY
from tests.sandbox import environment, run, wait_until

PREFIX = f"rendered-{os.environ.get('PYTEST_XDIST_TESTRUNUID', uuid.uuid4().hex)[:8]}"
HARDENED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
SECRET = "a-secret-of-the-tests-0123456789abcdef"


@functools.cache
def docker_missing() -> str | None:
    """Why containers cannot run here, or None."""
    if shutil.which("docker") is None:
        return "there is no docker on PATH"
    answer = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return None if answer.returncode == 0 else "docker info found no engine"


def docker(*arguments: str | Path, status: int = 0, timeout: float = 120, stdin: str = "") -> str:
    """Run a command and return its standard output."""
    env = environment()
    return run(
        "docker", *arguments, cwd=Path.cwd(), env=env, status=status, timeout=timeout, stdin=stdin
    ).stdout.strip()


_built: set[str] = set()


def build(folder: Path, target: str, *arguments: str, stdin: str = "") -> str:
    """Build a stage and return the id of its image."""
    image = docker("build", "--quiet", f"--target={target}", *arguments, folder, timeout=900, stdin=stdin)
    _built.add(image)
    return image


def remove_what_was_built() -> None:
    """Remove the images of `build`, except for those that another process has built too and is running."""
    for image in _built:
        subprocess.run(["docker", "image", "rm", image], capture_output=True, check=False)
    _built.clear()


class Answer(NamedTuple):
    status: int
    body: Any


def call(url: str, *, key: str = "", data: object = None, method: str | None = None) -> Answer:
    """Send one HTTP request with JSON, and read JSON; status 0 means no response."""
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    content = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, content, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return Answer(response.status, json.loads(response.read() or "null"))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read().decode())
    except OSError as error:
        return Answer(0, error)


class Container:
    def __init__(self, id: str) -> None:
        self.id = id

    def inspect(self) -> dict[str, Any]:
        [found] = json.loads(docker("inspect", self.id))
        return dict(found)

    def port(self, port: int) -> int:
        return int(docker("port", self.id, f"{port}/tcp").partition("\n")[0].rpartition(":")[2])

    def url(self, port: int = 8000) -> str:
        return f"http://127.0.0.1:{self.port(port)}"

    def logs(self) -> str:
        result = run("docker", "logs", self.id, cwd=Path.cwd(), env=environment())
        return result.stdout + result.stderr

    def exec(self, *command: str, status: int = 0) -> str:
        return docker("exec", self.id, *command, status=status)

    def issue_key(self, name: str = "tests") -> str:
        return self.exec(*ISSUE_KEY, name).splitlines()[-1]

    def is_running(self) -> bool:
        return bool(self.inspect()["State"]["Running"])

    def wait_for_health(self, timeout: float = 60) -> None:
        """Wait for the first 200 on /health."""
        url = f"{self.url()}/health"
        wait_until(lambda: call(url).status == 200, timeout=timeout, what=self.logs)

    def wait_for_end(self, timeout: float = 60) -> int:
        wait_until(lambda: not self.is_running(), timeout=timeout, what=self.logs)
        return int(self.inspect()["State"]["ExitCode"])


@contextmanager
def container(*arguments: str | Path) -> Iterator[Container]:
    """Run a container in the background, and finally remove it with its anonymous volumes."""
    started = Container(docker("run", "--detach", f"--name={PREFIX}-{uuid.uuid4().hex[:8]}", *arguments))
    try:
        yield started
    finally:
        docker("rm", "--force", "--volumes", started.id)


@contextmanager
def volume() -> Iterator[str]:
    name = docker("volume", "create", f"{PREFIX}-{uuid.uuid4().hex[:8]}")
    try:
        yield name
    finally:
        docker("volume", "rm", name)


@contextmanager
def network() -> Iterator[str]:
    name = f"{PREFIX}-{uuid.uuid4().hex[:8]}"
    docker("network", "create", name)
    try:
        yield name
    finally:
        docker("network", "rm", name)
