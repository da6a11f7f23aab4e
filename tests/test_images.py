"""The image of each combination: built, inspected, started hardened, and called over REST and MCP."""

import functools
import json
import re
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.combinations import (
    EACH_DATABASE,
    EACH_PACKAGE_MANAGER,
    POSTGRES_PIP_GPU,
    SQLITE_UV,
    SQLITE_VENV,
    TEMPLATE,
    Combination,
)
from tests.conftest import Bake, only
from tests.docker import (
    HARDENED,
    SECRET,
    Container,
    build,
    call,
    container,
    docker,
    network,
    volume,
)
from tests.rendered import HEALTHCHECK, MIGRATE, PROBES
from tests.sandbox import MCP_CALL, PACKAGES, environment, locked_packages, run, wait_until

BASE = "python:3.12-slim"
SIZE_LIMITS = {False: 165_000_000, True: 220_000_000}
"""Bytes, without and with jobs."""
MEMORY_LIMITS = {False: 120, True: 140}
"""MiB after `REQUESTS` requests, without and with jobs."""
REQUESTS = 2000
ATTACK = 40
"""Seconds; idle connections are closed after 20."""
MEMORY_UNDER_ATTACK = 300_000_000
"""Bytes."""
SLOWEST = 15.0
"""Seconds for a request during the attack; most take less than a tenth of one."""
LARGEST_PAGE = 200
LARGE_TASK = {"title": "Large", "description": "\1" * 10_000}
"""Each character is six bytes in JSON."""
STOP_LIMIT = 15.0
"""Seconds, with a request in flight."""
# Paths that the image may add to its base. Packages have bytecode, data and metadata.
PACKAGE = r"opt/(venv|user)/lib/python3\.\d+/site-packages/"
ALLOWED = [
    rf"{PACKAGE}[\w./+-]+\.(pyc|so|pth|pem|json|mako|cfg|txt)",
    rf"{PACKAGE}[\w.+-]+\.dist-info/[\w./-]+",
    rf"{PACKAGE}(alembic/templates/\w+/README|jsonschema_specifications/schemas/[\w/-]+)",
    rf"{PACKAGE}fastapi_offline/static/[\w.-]+\.(css|js|png)",
    rf"{PACKAGE}(celery/utils/static/celery_128\.png|dateutil/zoneinfo/dateutil-zoneinfo\.tar\.gz)",
    rf"{PACKAGE}numpy/([\w./-]+\.(a|build|md|pc|rst|template)|ma/LICENSE)",
    r"opt/(venv|user)/bin/[\w.-]+",
    r"opt/venv/(pyvenv\.cfg|lib64|\.gitignore)",  # the last one by `python -m venv` since Python 3.13
    r"opt/bytecode/(usr/local/lib/python3\.\d+|srv)/[\w./-]+\.pyc",
    r"srv/(alembic\.ini|gunicorn\.conf\.py|pyproject\.toml)",
    r"srv/(app|migrations)(/\w+)?/\w+\.py",
    r"srv/migrations/script\.py\.mako",
    r"etc/(passwd|group|shadow|gshadow|subuid|subgid)-?",
    r"\.dockerenv|dev/console|etc/(hostname|hosts|mtab|resolv\.conf)",  # put there by the engine
]


pytestmark = pytest.mark.docker

# What differs by database alone, by package manager alone, or by nothing.
each_database = only(*EACH_DATABASE)
each_package_manager = only(*EACH_PACKAGE_MANAGER)
once = only(SQLITE_UV)

JUNK = [".env", "README.md", "app/__pycache__/main.cpython-312.pyc", "app/.env", "app/notes.md", "migrations/.DS_Store"]

HOSTILE_NAME = 'It\'s "$HOME" \\ `id` 任务'


class Project(NamedTuple):
    combination: Combination
    folder: Path
    image: str

    @property
    def uses_sqlite(self) -> bool:
        return self.combination.database == "sqlite"


@pytest.fixture(scope="session")
def project(bake: Bake, combination: Combination) -> Project:
    # With the same slug as in other tests, so that the locks and the layers with packages are the same.
    folder = bake(**combination._asdict(), project_name=HOSTILE_NAME, project_slug="task-service")
    run("chmod", "--recursive", "go=", folder, cwd=folder, env=environment())  # as with umask 077
    return Project(combination, folder, build(folder, "production"))


@pytest.fixture(scope="session")
def options(project: Project) -> Iterator[list[str]]:
    """The options of `docker run` that the service needs: none with SQLite."""
    if project.uses_sqlite:
        yield []
        return
    database = ["--env=POSTGRES_PASSWORD=tests", "postgres:18"]
    with network() as net, container(f"--network={net}", "--network-alias=database", *database) as server:
        ready = ["pg_isready", "--host=127.0.0.1", "--username=postgres"]
        wait_until(lambda: _succeeds(server, *ready), timeout=60, what=server.logs)
        url = "postgresql://postgres:tests@database:5432/postgres"
        options = [f"--network={net}", f"--env=DATABASE_URL={url}", f"--env=API_KEY_SECRET={SECRET}"]
        docker("run", "--rm", *options, project.image, *MIGRATE)
        yield options


def _succeeds(container: Container, *command: str) -> bool:
    try:
        container.exec(*command)
    except AssertionError:
        return False
    return True


@contextmanager
def service(project: Project, options: list[str], *more: str, image: str = "") -> Iterator[Container]:
    """Run the service hardened, and wait for its first 200."""
    publish = ["--publish=127.0.0.1::8000", "--publish=127.0.0.1::8051"]
    with container(*HARDENED, *publish, *options, *more, image or project.image) as started:
        started.wait_for_health()
        yield started


@pytest.fixture(scope="session")
def running(project: Project, options: list[str]) -> Iterator[Container]:
    limits = ["--cpus=2", "--memory=512m", "--memory-swap=512m"]
    with service(project, options, *limits) as started:
        yield started


@pytest.fixture(scope="session")
def key(running: Container) -> str:
    return running.issue_key()


@only(SQLITE_VENV)  # test_own_tests.py builds its stage `ci` with that
def test_another_version_of_python_can_be_chosen(project: Project) -> None:
    image = build(project.folder, "production", "--build-arg=PYTHON_VERSION=3.13")
    assert strays(image, "python:3.13-slim") == []
    with service(project, [], image=image) as started:
        assert started.exec("python", "--version").startswith("Python 3.13.")
        key = started.issue_key()
        assert call(f"{started.url()}/tasks", key=key, data={"title": "A task"}).status == 201


def test_the_build_has_no_warning(project: Project) -> None:
    assert "no warnings found" in docker("build", "--check", project.folder)


def test_its_configuration_is_right(project: Project) -> None:
    [image] = json.loads(docker("image", "inspect", project.image))
    config = image["Config"]
    assert config["User"] == "1000"
    assert config["Cmd"] == ["python", "-m", "app"]
    assert not config.get("Entrypoint")
    assert config["ExposedPorts"].keys() == {"8000/tcp", "8051/tcp"}
    assert (config.get("Volumes") or {}).keys() == ({"/data"} if project.uses_sqlite else set())
    assert config["Labels"]["org.opencontainers.image.title"] == HOSTILE_NAME
    assert config["Labels"]["org.opencontainers.image.description"].startswith("Manage tasks")
    second = 1_000_000_000
    health = config["Healthcheck"]
    assert health["Interval"] == 30 * second
    assert 3 * second <= health["Timeout"] <= 10 * second
    assert health["Retries"] == 3
    assert health["StartPeriod"] > 0


def test_its_size_is_within_the_limit(project: Project) -> None:
    assert size_of(project.image) <= SIZE_LIMITS[project.combination.gpu]


def size_of(image: str) -> int:
    return int(docker("image", "inspect", "--format={{.Size}}", image))


@functools.cache
def file_system(image: str) -> dict[str, tarfile.TarInfo]:
    created = docker("create", image)
    try:
        with (
            subprocess.Popen(["docker", "export", created], stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as archive,
        ):
            return {member.name: member for member in archive}
    finally:
        docker("rm", "--volumes", created)


def strays(image: str, base_image: str = BASE) -> list[str]:
    """The files that are neither in the base image nor allowed."""
    base = file_system(base_image)
    found = file_system(image)
    new = [name for name, member in found.items() if not member.isdir() and not _same(member, base.get(name))]
    return [name for name in new if not any(re.fullmatch(pattern, name) for pattern in ALLOWED)]


def _same(member: tarfile.TarInfo, other: tarfile.TarInfo | None) -> bool:
    return other is not None and (member.size, member.mtime, member.mode) == (other.size, other.mtime, other.mode)


def test_it_contains_no_stray_file(project: Project) -> None:
    assert strays(project.image) == []


def test_its_user_owns_the_service_but_cannot_change_it(project: Project) -> None:
    files = {name: member for name, member in file_system(project.image).items() if name.startswith("srv/")}
    assert {"srv/app/main.py", "srv/migrations/env.py"} < files.keys()
    assert {(member.uid, member.gid) for member in files.values()} == {(1000, 0)}
    assert [name for name, member in files.items() if member.mode & 0o222] == []


def test_its_user_can_only_write_to_the_data(project: Project, running: Container) -> None:
    assert running.exec("id", "-un") == "appuser"
    search = "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' 2>/dev/null || true"
    open_to_all = {"/tmp", "/var/tmp", "/run/lock"}
    writable = docker("run", "--rm", "--entrypoint=sh", project.image, "-c", search).splitlines()
    assert set(writable) - open_to_all == ({"/data"} if project.uses_sqlite else set())


def test_exactly_the_lock_for_production_is_installed(project: Project) -> None:
    version, packages = json.loads(docker("run", "--rm", project.image, "python", "-c", PACKAGES))
    assert version.startswith("3.12.")
    assert packages == locked_packages((project.folder / "requirements.txt").read_text(), version)
    assert packages.keys().isdisjoint({"pytest", "ruff", "mypy", "watchfiles", "uv", "schemathesis"})


def test_it_contains_no_build_tools(project: Project) -> None:
    tools = ["cc", "gcc", "g++", "make", "uv", "git", "curl"]
    find = f"command -v python && for tool in {' '.join(tools)}; do command -v $tool || true; done"
    assert len(docker("run", "--rm", project.image, "sh", "-c", find).splitlines()) == 1


@each_database
def test_its_health_check_passes(running: Container) -> None:
    wait_until(
        lambda: running.inspect()["State"]["Health"]["Status"] == "healthy",
        timeout=60,
        what=lambda: str(running.inspect()["State"]["Health"]),
    )


@once
@pytest.mark.parametrize("port", ["PORT", "MCP_PORT"])
def test_the_health_check_fails_if_a_port_does_not_answer_200(port: str, running: Container) -> None:
    running.exec(*HEALTHCHECK)
    docker("exec", f"--env={port}=9", running.id, *HEALTHCHECK, status=1)


def test_rest_and_mcp_serve_the_same_tasks(running: Container, project: Project, key: str) -> None:
    created = call(f"{running.url()}/tasks", key=key, data={"title": "From REST"})
    assert created.status == 201
    server = {"url": f"{running.url(8051)}/mcp", "headers": {"Authorization": f"Bearer {key}"}}
    answer = docker(
        *("run", "--rm", "--interactive", "--network=host", project.image, "python", "-c", MCP_CALL),
        stdin=json.dumps(server),
    )
    [listed] = json.loads(answer)["items"]
    assert listed.items() <= created.body.items()


@once
def test_each_port_has_one_interface(running: Container, key: str) -> None:
    assert call(f"{running.url(8051)}/tasks", key=key).status == 404
    assert call(f"{running.url()}/mcp", key=key, data={}).status == 404


@each_database
def test_a_killed_worker_is_replaced(running: Container, key: str) -> None:
    workers = [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", running.logs())]
    assert len(workers) == 2
    running.exec("python", "-c", f"import os; os.kill({workers[0]}, 9)")
    booted = "Booting worker with pid"
    wait_until(lambda: running.logs().count(booted) == 3, timeout=60, what=running.logs)
    wait_until(
        lambda: all(call(f"{running.url()}/tasks", key=key).status == 200 for _ in range(10)),
        timeout=60,
        what=running.logs,
    )


@once
def test_a_process_out_of_memory_is_killed_and_the_service_continues(running: Container, key: str) -> None:
    running.exec("python", "-c", "b'x' * 800_000_000", status=137)
    answer = call(f"{running.url()}/tasks", key=key, data={"title": "Still there"})
    assert answer.status == 201
    assert running.inspect()["RestartCount"] == 0
    assert running.is_running()


def stop_during_a_request(started: Container, key: str, rest_after: float | None) -> bytes:
    """Send a part of a request, stop the service, send the rest after some seconds or never, and return the response."""
    body = json.dumps({"title": "Sent slowly"}).encode()
    with socket.create_connection(("127.0.0.1", started.port(8000)), timeout=30) as connection:
        lines = ["POST /tasks HTTP/1.1", "Host: localhost", f"X-API-Key: {key}", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, "Content-Type: application/json", "Expect: 100-continue", "", ""])
        connection.sendall(head.encode() + body[:5])
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue"), "the request is in flight"
        began = time.monotonic()
        with ThreadPoolExecutor() as pool:
            stopped = pool.submit(docker, "stop", "--time=60", started.id)
            if rest_after is not None:
                time.sleep(rest_after)
                connection.sendall(body[5:])
            stopped.result()
        assert time.monotonic() - began < STOP_LIMIT
        assert started.inspect()["State"]["ExitCode"] == 0
        return connection.recv(1000)


@pytest.mark.alone
@each_database
def test_a_stop_lets_the_request_in_flight_finish(project: Project, options: list[str]) -> None:
    with service(project, options) as started:
        assert stop_during_a_request(started, started.issue_key(), rest_after=2).startswith(b"HTTP/1.1 201 ")


@pytest.mark.alone
@once
def test_an_endless_request_does_not_delay_a_stop(project: Project, options: list[str]) -> None:
    with service(project, options) as started:
        assert stop_during_a_request(started, started.issue_key(), rest_after=None).startswith(b"HTTP/1.1 503 ")


@each_package_manager
def test_it_runs_as_an_arbitrary_user_and_compiles_nothing(project: Project, options: list[str]) -> None:
    """Compiling would take seconds on a quarter of a CPU. The memory is what the README recommends to start with."""
    limits = ["--memory=256m", "--memory-swap=256m"]
    with service(project, options, "--user=12345:0", "--env=PYTHONVERBOSE=1", *limits) as started:
        logs = started.logs()
        key = started.issue_key("arbitrary")
        assert call(f"{started.url()}/tasks", key=key, data={"title": "A task"}).status == 201
    assert "# code object from '/opt/bytecode/srv/app/main." in logs
    assert re.findall(r"^# code object from (\S+\.py)$", logs, re.MULTILINE) == []


@each_database
def test_it_starts_on_a_quarter_of_a_cpu(project: Project, options: list[str]) -> None:
    with service(project, options, "--cpus=0.25", "--memory=512m", "--memory-swap=512m") as started:
        assert call(f"{started.url()}/ready").status == 200


@only(*EACH_DATABASE, POSTGRES_PIP_GPU)
def test_its_memory_stays_within_the_limit(project: Project, options: list[str]) -> None:
    with service(project, options, "--memory=512m") as started:
        key = started.issue_key("counter")
        load = [REQUESTS_SCRIPT, f"{started.url()}/tasks", key, str(REQUESTS)]
        docker("run", "--rm", "--network=host", project.image, "python", "-c", *load)
        used = docker("stats", "--no-stream", "--format={{.MemUsage}}", started.id).partition("MiB ")[0]
        assert float(used) <= MEMORY_LIMITS[project.combination.gpu]


REQUESTS_SCRIPT = """
import sys
import httpx2

_, url, key, number = sys.argv
with httpx2.Client(headers={"X-API-Key": key}, verify=False) as client:
    for _ in range(int(number) // 2):
        created = client.post(url, json={"title": "A task"})
        assert client.get(f"{url}/{created.json()['id']}").json() == created.json()
"""


@pytest.mark.alone
@once
def test_under_attack_others_are_served_and_its_memory_stays_within_the_limit(
    project: Project, options: list[str]
) -> None:
    with service(project, options, "--cpus=2", "--memory=512m", "--memory-swap=512m") as started:
        key = started.issue_key("attacked")
        for _ in range(LARGEST_PAGE):
            assert call(f"{started.url()}/tasks", key=key, data=LARGE_TASK).status == 201
        inside = ["--interactive", f"--network=container:{started.id}", "--ulimit=nofile=4096:4096", BASE]
        with ThreadPoolExecutor() as threads:
            memory = threads.submit(docker, "exec", started.id, "python", "-c", MEASURE_MEMORY, str(ATTACK))
            attack = ["run", "--rm", *inside, "python", "-", key, str(ATTACK)]
            outcome = json.loads(docker(*attack, stdin=(TEMPLATE / "tests" / "attack.py").read_text(encoding="utf-8")))
        closed = re.findall(r'^http_connections_closed_total{reason="(\w+)"}', metrics_of(started), re.MULTILINE)
        assert sorted(closed) == ["large_headers", "not_read", "slow_headers", "too_many"]
        assert outcome["refused"] == []
        assert outcome["answered"] >= 20
        assert outcome["slowest"] < SLOWEST
        assert int(memory.result()) < MEMORY_UNDER_ATTACK
        assert started.logs().count("Booting worker") == 2


def metrics_of(started: Container) -> str:
    with urllib.request.urlopen(f"{started.url()}/metrics", timeout=30) as answer:
        return str(answer.read(), "utf-8")


# The peak of memory within some seconds, without reclaimable pages, as `docker stats` counts it.
MEASURE_MEMORY = """
import sys, time
from pathlib import Path

end = time.monotonic() + float(sys.argv[1])
group = Path("/sys/fs/cgroup")
usage, inactive = group / "memory.current", "inactive_file"
if not usage.exists():
    group /= "memory"
    usage, inactive = group / "memory.usage_in_bytes", "total_inactive_file"
most = 0
while time.monotonic() < end:
    parts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    most = max(most, int(usage.read_text()) - int(parts[inactive]))
    time.sleep(0.1)
print(most)
"""


@each_database
def test_without_settings_it_works_or_lists_what_is_missing(project: Project) -> None:
    publish = ["--publish=127.0.0.1::8000", "--publish=127.0.0.1::8051"]
    with container(*publish, project.image) as started:
        if project.uses_sqlite:
            started.wait_for_health()
            key = started.issue_key()
            assert call(f"{started.url()}/tasks", key=key, data={"title": "A task"}).status == 201
            assert call(f"{started.url(8051)}/health").status == 200
        else:
            assert started.wait_for_end() != 0
            assert re.findall(r"^  ([A-Z_]+): required in production", started.logs(), re.MULTILINE) == [
                "DATABASE_URL",
                "API_KEY_SECRET",
            ]


@once
def test_app_env_sets_the_environment(project: Project) -> None:
    image = build(project.folder, "production", "--build-arg=APP_ENV=development")
    assert docker("run", "--rm", image, "printenv", "ENVIRONMENT") == "development"
    assert docker("run", "--rm", project.image, "printenv", "ENVIRONMENT") == "production"


@pytest.fixture
def source(project: Project, tmp_path: Path) -> Path:
    """A copy of the project to change."""
    return Path(shutil.copytree(project.folder, tmp_path / "source"))


@each_package_manager
def test_a_change_of_the_source_does_not_install_packages_again(source: Path) -> None:
    (source / PROBES).write_text((source / PROBES).read_text() + "\n# changed\n")
    command = ["docker", "build", "--progress=plain", "--output=type=cacheonly", "."]
    log = run(*command, cwd=source, env=environment()).stderr
    steps = re.findall(r"^#(\d+) \[(?:packages|builder) \d", log, re.MULTILINE)
    assert steps
    assert all(f"\n#{step} CACHED\n" in log for step in steps), log


@once
def test_without_a_dockerignore_nothing_else_is_copied(source: Path) -> None:
    (source / ".dockerignore").unlink()
    for name in JUNK:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("junk")
    assert strays(build(source, "production")) == []


@each_package_manager
def test_a_package_with_another_hash_is_rejected(source: Path) -> None:
    lock = source / "requirements.txt"
    lock.write_text(re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", lock.read_text()))
    docker("build", "--quiet", "--target=builder", source, status=1, timeout=300)


@once
def test_data_outlives_the_container_in_a_named_volume(project: Project) -> None:
    with volume() as data:
        mount = [f"--volume={data}:/data"]
        assert_kept(project, mount, mount)


@once
@pytest.mark.parametrize(("user", "next_user"), [("1000:1000", "1000:1000"), ("12345:0", "23456:0")])
def test_data_outlives_the_container_in_a_folder_of_the_host(
    user: str, next_user: str, project: Project, tmp_path: Path
) -> None:
    folder = host_folder(tmp_path, owner="1000:0", mode="770")
    mount = f"--volume={folder}:/data"
    assert_kept(project, [mount, f"--user={user}"], [mount, f"--user={next_user}"])


def host_folder(tmp_path: Path, owner: str, mode: str) -> Path:
    """A folder with this owner, created by a container because these tests may not run as root."""
    folder = tmp_path / "data"
    folder.mkdir()
    change = f"chown {owner} /data && chmod {mode} /data"
    docker("run", "--rm", "--user=0", f"--volume={folder}:/data", BASE, "sh", "-c", change)
    return folder


def assert_kept(project: Project, options: list[str], next_options: list[str]) -> None:
    with service(project, options) as first:
        key = first.issue_key()
        task = call(f"{first.url()}/tasks", key=key, data={"title": "Kept"}).body
    with service(project, next_options) as second:
        assert call(f"{second.url()}/tasks/{task['id']}", key=key).body == task


@once
def test_a_read_only_folder_is_a_clear_error(project: Project, tmp_path: Path) -> None:
    folder = host_folder(tmp_path, owner="0:0", mode="755")
    with container(*HARDENED, f"--volume={folder}:/data", project.image) as started:
        assert started.wait_for_end() == 1
        logs = started.logs()
    assert "/data" in logs.splitlines()[-1]
    assert "user id 1000" in logs.splitlines()[-1]
    assert "Traceback" not in logs
