"""The image of each combination: every stage built, its own tests run inside, production started hardened and probed."""

import functools
import json
import re
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.combinations import AS_IMAGES, ON_NEWER_PYTHON, TESTED_INSIDE, Combination
from tests.conftest import Bake, only, reported
from tests.docker import (
    HARDENED,
    PREFIX,
    SECRET,
    Container,
    build,
    call,
    container,
    docker,
    network,
    remove_what_was_built,
    require_docker,
    volume,
)
from tests.machine import MCP_CALL, PACKAGES, environment, locked_packages, run, wait_until

BASE = "python:3.12-slim"
STAGES = ["base", "builder", "dev", "ci", "production"]
SIZE_LIMITS = {False: 165_000_000, True: 220_000_000}
"""Bytes, without and with what jobs need."""
MEMORY_LIMITS = {False: 120, True: 140}
"""MiB after `REQUESTS` requests, without and with what jobs need."""
REQUESTS = 2000
STOP_LIMIT = 15.0
"""Seconds, with a request in flight."""
AT_ONCE = ["--cpu-shares=262144"]
"""For what has deadlines and needs little: CPU time before all others, so that it is as fast as on an idle machine."""
BEFORE_BUILDS = ["--cpu-shares=2048"]
"""For what has deadlines and needs much: twice the CPU time that a build or a stack has."""

# What a file of the image that is not the base's may be called. Packages have bytecode, data and what identifies them.
PACKAGE = r"opt/(venv|user)/lib/python3\.\d+/site-packages/"
ALLOWED = [
    rf"{PACKAGE}[\w./+-]+\.(pyc|so|pth|pem|json|mako|cfg|txt)",
    rf"{PACKAGE}[\w.+-]+\.dist-info/[\w./-]+",
    rf"{PACKAGE}(alembic/templates/\w+/README|jsonschema_specifications/schemas/[\w/-]+)",
    rf"{PACKAGE}(celery/utils/static/celery_128\.png|dateutil/zoneinfo/dateutil-zoneinfo\.tar\.gz)",
    rf"{PACKAGE}numpy/([\w./-]+\.(a|build|md|pc|rst|template)|ma/LICENSE)",
    r"opt/(venv|user)/bin/[\w.-]+",
    r"opt/venv/(pyvenv\.cfg|lib64|\.gitignore)",  # the last one from `python -m venv` of Python 3.13 and newer
    r"opt/bytecode/(usr/local/lib/python3\.\d+|srv)/[\w./-]+\.pyc",
    r"srv/(alembic\.ini|gunicorn\.conf\.py|pyproject\.toml)",
    r"srv/(app|migrations|migrations/versions)/\w+\.py",
    r"srv/migrations/script\.py\.mako",
    r"etc/(passwd|group|shadow|gshadow|subuid|subgid)-?",
    r"\.dockerenv|dev/console|etc/(hostname|hosts|mtab|resolv\.conf)",  # put there by the engine
]


RUN_FOR = AS_IMAGES
# What does not differ by package manager.
with_uv = only(*(each for each in AS_IMAGES if each.package_manager == "uv"))
# What does not differ by database.
on_sqlite = only(*(each for each in AS_IMAGES if each.database == "sqlite"))
once = only(AS_IMAGES[0])

JUNK = [".env", "README.md", "app/__pycache__/main.cpython-312.pyc", "app/.env", "app/notes.md", "migrations/.DS_Store"]

HOSTILE_NAME = 'It\'s "$HOME" \\ `id` 任务'


class Project(NamedTuple):
    combination: Combination
    folder: Path
    stages: dict[str, str]
    """The image of each stage."""

    @property
    def image(self) -> str:
        return self.stages["production"]

    @property
    def uses_sqlite(self) -> bool:
        return self.combination.database == "sqlite"


@pytest.fixture(scope="session")
def project(bake: Bake, combination: Combination) -> Iterator[Project]:
    require_docker()
    # With the slug of every other test, so that the locks are the same, and with them the layers that hold the packages.
    folder = bake(**combination._asdict(), project_name=HOSTILE_NAME, project_slug="task-service")
    run("chmod", "--recursive", "go=", folder, cwd=folder, env=environment())  # as with a umask of 077
    stages = {}
    for stage in STAGES:
        with reported(combination, f"built the stage {stage}"):
            stages[stage] = build(folder, stage)
    yield Project(combination, folder, stages)
    remove_what_was_built()


@pytest.fixture(scope="session")
def options(project: Project) -> Iterator[list[str]]:
    """What `docker run` has to be told so that the service starts: nothing on SQLite."""
    if project.uses_sqlite:
        yield []
        return
    database = ["--env=POSTGRES_PASSWORD=tests", "postgres:18"]
    with network() as net, container(f"--network={net}", "--network-alias=database", *database) as server:
        ready = ["pg_isready", "--host=127.0.0.1", "--username=postgres"]
        wait_until(lambda: _succeeds(server, *ready), timeout=60, what=server.logs)
        url = "postgresql://postgres:tests@database:5432/postgres"
        options = [f"--network={net}", f"--env=DATABASE_URL={url}", f"--env=API_KEY_SECRET={SECRET}"]
        docker("run", "--rm", *options, project.image, "python", "-m", "app.migrate")
        yield options


def _succeeds(container: Container, *command: str) -> bool:
    try:
        container.exec(*command)
    except AssertionError:
        return False
    return True


@contextmanager
def service(project: Project, options: list[str], *more: str, image: str = "") -> Iterator[Container]:
    """The service, started hardened, from its first 200 on."""
    publish = ["--publish=127.0.0.1::8000", "--publish=127.0.0.1::8051"]
    with container(*HARDENED, *AT_ONCE, *publish, *options, *more, image or project.image) as started:
        started.wait_for_health()
        yield started


@pytest.fixture(scope="session")
def running(project: Project, options: list[str]) -> Iterator[Container]:
    with started_on("2", project, options) as started:
        yield started


@contextmanager
def started_on(cpus: str, project: Project, options: list[str]) -> Iterator[Container]:
    """The service with little, and in the report the seconds until its first 200, migrations included.

    scripts/benchmark_images.py says how many those should be.
    """
    with ExitStack() as until_the_end:
        with reported(project.combination, f"started on {cpus} CPUs"):
            limits = [f"--cpus={cpus}", "--memory=512m", "--memory-swap=512m"]
            started = until_the_end.enter_context(service(project, options, *limits))
        yield started


@pytest.fixture(scope="session")
def key(running: Container) -> str:
    return running.issue_key()


UPDATED = """
FROM {} AS updated
COPY --chown=1000 . /updated
WORKDIR /updated
"""


@only(*(each for each in TESTED_INSIDE if each in RUN_FOR and each != ON_NEWER_PYTHON))
def test_its_own_tests_pass_inside_after_changes_and_an_update(project: Project, updated: Path) -> None:
    """In the stage `ci`, with the source of the updated project: that one has the same packages."""
    locks = [(folder / "requirements-dev.txt").read_text() for folder in (updated, project.folder)]
    assert locked_packages(locks[0], "3.12.0") == locked_packages(locks[1], "3.12.0")
    name = f"{PREFIX}-ci-{project.combination}"
    docker("tag", project.stages["ci"], name)
    try:
        image = build(updated, "updated", "--file=-", stdin=UPDATED.format(name))
    finally:
        docker("rmi", name)
    run_tests_inside(image, project.combination)


# test_run.py has the test that is skipped, as it needs what Debian brings.
WITHOUT_PGBOUNCER: dict[str, list[str]] = {
    "sqlite": [],
    "postgres": ["pgbouncer is missing: apt-get install pgbouncer"],
}


def run_tests_inside(image: str, combination: Combination) -> None:
    """Without coverage, which test_pipeline.py has, and with its files in memory, as builds keep the disk busy.

    One process takes least CPU time; but those of jobs wait so long that one would take a quarter of an hour.
    """
    command: list[str] = json.loads(docker("image", "inspect", "--format={{json .Config.Cmd}}", image))
    command[command.index("--cov")] = f"--numprocesses={2 if combination.gpu else 0}"
    with reported(combination, "tested inside the stage ci") as details:
        options = ["--rm", "--tmpfs=/tmp:exec", *BEFORE_BUILDS, f"--name={PREFIX}-ci-{combination}"]
        printed = docker("run", *options, image, *command, timeout=900)
        details += re.findall(r"=+ (\d+ passed.*) in ", printed)
        assert details
    assert re.findall(r"^SKIPPED \[1\] \S+ (.*)", printed, re.MULTILINE) == WITHOUT_PGBOUNCER[combination.database]


@only(ON_NEWER_PYTHON)
def test_another_version_of_python_can_be_chosen(project: Project) -> None:
    arguments = ["--build-arg=PYTHON_VERSION=3.13"]
    with reported(project.combination, "built, tested and started on Python 3.13"):
        stages = {stage: build(project.folder, stage, *arguments) for stage in STAGES}
        run_tests_inside(stages["ci"], project.combination)
        assert strays(stages["production"], "python:3.13-slim") == []
        with service(project, [], image=stages["production"]) as started:
            assert started.exec("python", "--version").startswith("Python 3.13.")
            key = started.issue_key()
            assert call(f"{started.url()}/tasks", key=key, data={"title": "A task"}).status == 201


@once
def test_an_updated_project_builds_and_serves_what_was_added(updated: Path, combination: Combination) -> None:
    require_docker()
    with container(*HARDENED, "--publish=127.0.0.1::8000", build(updated, "production")) as started:
        started.wait_for_health()
        key = started.issue_key()
        task = call(f"{started.url()}/tasks", key=key, data={"title": "New"}).body
        assert call(f"{started.url()}/tasks/{task['id']}/again", key=key).body == task


def test_the_build_has_no_warning(project: Project) -> None:
    assert "no warnings found" in docker("build", "--check", project.folder)


def test_its_configuration_is_that_of_a_service(project: Project) -> None:
    [image] = json.loads(docker("image", "inspect", project.image))
    config = image["Config"]
    assert config["User"] == "1000"
    assert config["Cmd"] == ["gunicorn"]
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
    with reported(project.combination, "size of the image") as details:
        sizes = [size_of(image) for image in (project.image, BASE)]
        details.append(f"{sizes[0] / 1e6:.0f} MB, {(sizes[0] - sizes[1]) / 1e6:.0f} MB over its base")
    assert sizes[0] <= SIZE_LIMITS[project.combination.gpu]


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
    """The files that are neither the base's nor allowed."""
    base = file_system(base_image)
    found = file_system(image)
    new = [name for name, member in found.items() if not member.isdir() and not _same(member, base.get(name))]
    return [name for name in new if not any(re.fullmatch(pattern, name) for pattern in ALLOWED)]


def _same(member: tarfile.TarInfo, other: tarfile.TarInfo | None) -> bool:
    return other is not None and (member.size, member.mtime, member.mode) == (other.size, other.mtime, other.mode)


def test_it_holds_no_stray_file(project: Project) -> None:
    assert strays(project.image) == []


def test_the_service_belongs_to_its_user_who_may_not_change_it(project: Project) -> None:
    files = {name: member for name, member in file_system(project.image).items() if name.startswith("srv/")}
    assert {"srv/app/main.py", "srv/migrations/env.py"} < files.keys()
    assert {(member.uid, member.gid) for member in files.values()} == {(1000, 0)}
    assert [name for name, member in files.items() if member.mode & 0o222] == []


def test_its_user_can_write_to_the_data_and_nothing_else(project: Project, running: Container) -> None:
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


def test_it_holds_no_tool_of_the_build(project: Project) -> None:
    tools = ["cc", "gcc", "g++", "make", "uv", "git", "curl"]
    find = f"command -v python && for tool in {' '.join(tools)}; do command -v $tool || true; done"
    assert len(docker("run", "--rm", project.image, "sh", "-c", find).splitlines()) == 1


def test_the_engine_finds_it_healthy(running: Container) -> None:
    wait_until(
        lambda: running.inspect()["State"]["Health"]["Status"] == "healthy",
        timeout=60,
        what=lambda: str(running.inspect()["State"]["Health"]),
    )


@with_uv
@pytest.mark.parametrize("port", ["PORT", "MCP_PORT"])
def test_the_health_check_fails_if_a_port_does_not_answer_200(port: str, running: Container) -> None:
    check = ["python", "-m", "app.healthcheck"]
    running.exec(*check)
    docker("exec", f"--env={port}=9", running.id, *check, status=1)


def test_rest_and_mcp_serve_the_same_tasks(running: Container, project: Project, key: str) -> None:
    created = call(f"{running.url()}/tasks", key=key, data={"title": "From REST"})
    assert created.status == 201
    server = {"url": f"{running.url(8051)}/mcp", "headers": {"Authorization": f"Bearer {key}"}}
    answer = docker(
        *("run", "--rm", "--interactive", "--network=host", project.image, "python", "-c", MCP_CALL),
        stdin=json.dumps(server),
    )
    assert created.body in json.loads(answer)["items"]


def test_each_port_has_one_door(running: Container, key: str) -> None:
    assert call(f"{running.url(8051)}/tasks", key=key).status == 404
    assert call(f"{running.url()}/mcp", key=key, data={}).status == 404


def test_a_killed_worker_is_replaced(running: Container, key: str) -> None:
    workers = [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", running.logs())]
    assert len(workers) == 2
    running.exec("python", "-c", f"import os; os.kill({workers[0]}, 9)")
    booted = "Booting worker with pid"
    wait_until(lambda: running.logs().count(booted) == 3, timeout=20, what=running.logs)
    wait_until(
        lambda: all(call(f"{running.url()}/tasks", key=key).status == 200 for _ in range(10)),
        timeout=20,
        what=running.logs,
    )


def test_what_takes_too_much_memory_is_killed_and_the_service_goes_on(running: Container, key: str) -> None:
    running.exec("python", "-c", "b'x' * 800_000_000", status=137)
    answer = call(f"{running.url()}/tasks", key=key, data={"title": "Still there"})
    assert answer.status == 201
    assert running.inspect()["RestartCount"] == 0
    assert running.is_running()


def stop_during_a_request(started: Container, key: str, rest_after: float | None) -> tuple[bytes, float]:
    """What a request is answered whose body is sent in part, and the rest so many seconds after the stop, or never; and
    the seconds that the stop took."""
    body = json.dumps({"title": "Sent slowly"}).encode()
    with socket.create_connection(("127.0.0.1", started.port(8000)), timeout=30) as connection:
        lines = ["POST /tasks HTTP/1.1", "Host: localhost", f"X-API-Key: {key}", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, "Content-Type: application/json", "", ""])
        connection.sendall(head.encode() + body[:5])
        time.sleep(1)
        began = time.monotonic()
        with ThreadPoolExecutor() as pool:
            stopped = pool.submit(docker, "stop", "--time=60", started.id)
            if rest_after is not None:
                time.sleep(rest_after)
                connection.sendall(body[5:])
            stopped.result()
        took = time.monotonic() - began
        assert started.inspect()["State"]["ExitCode"] == 0
        return connection.recv(1000), took


def assert_stops(started: Container, key: str, rest_after: float | None, answer: bytes) -> None:
    """Builds may hold up a stop: what is slow three times is slow by itself. The container may have been stopped before."""
    took: list[float] = []
    while not took or took[-1] >= STOP_LIMIT:
        assert len(took) < 3, f"stops took {took} s"
        docker("start", started.id)
        started.wait_for_health()
        answered, seconds = stop_during_a_request(started, key, rest_after)
        assert answered.startswith(answer)
        took.append(seconds)


def test_a_stop_lets_the_request_in_flight_finish(running: Container, key: str) -> None:
    """This ends the container that the tests above share."""
    assert_stops(running, key, rest_after=2, answer=b"HTTP/1.1 201 ")


@once
def test_a_request_that_never_ends_does_not_hold_up_a_stop(running: Container, key: str) -> None:
    assert_stops(running, key, rest_after=None, answer=b"HTTP/1.1 503 ")


def test_as_an_arbitrary_user_it_runs_and_a_start_compiles_nothing(project: Project, options: list[str]) -> None:
    """To compile would take seconds on a quarter of a CPU. The memory is what the README calls enough to begin with."""
    limits = ["--memory=256m", "--memory-swap=256m"]
    with service(project, options, "--user=12345:0", "--env=PYTHONVERBOSE=1", *limits) as started:
        logs = started.logs()
        key = started.issue_key("arbitrary")
        assert call(f"{started.url()}/tasks", key=key, data={"title": "A task"}).status == 201
    assert "# code object from '/opt/bytecode/srv/app/main." in logs
    assert re.findall(r"^# code object from (\S+\.py)$", logs, re.MULTILINE) == []


def test_it_starts_on_a_quarter_of_a_cpu(project: Project, options: list[str]) -> None:
    with started_on("0.25", project, options) as started:
        assert call(f"{started.url()}/ready").status == 200


@only(*(each for each in AS_IMAGES if each.package_manager == "uv" or each.gpu))
def test_its_memory_stays_within_the_limit(project: Project, options: list[str]) -> None:
    with service(project, options, "--memory=512m") as started:
        key = started.issue_key("counter")
        url = f"{started.url()}/tasks"
        with reported(project.combination, f"memory after {REQUESTS} requests") as details:
            load = [REQUESTS_SCRIPT, url, key, str(REQUESTS)]
            docker("run", "--rm", "--network=host", project.image, "python", "-c", *load)
            used = docker("stats", "--no-stream", "--format={{.MemUsage}}", started.id).partition("MiB ")[0]
            details.append(f"{used} MiB")
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


@with_uv
def test_without_settings_it_works_on_sqlite_and_names_what_postgres_needs(project: Project) -> None:
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
def test_app_env_is_the_environment_of_the_image(project: Project) -> None:
    image = build(project.folder, "production", "--build-arg=APP_ENV=development")
    assert docker("run", "--rm", image, "printenv", "ENVIRONMENT") == "development"
    assert docker("run", "--rm", project.image, "printenv", "ENVIRONMENT") == "production"


@pytest.fixture
def source(project: Project, tmp_path: Path) -> Path:
    """A copy of the project to change."""
    return Path(shutil.copytree(project.folder, tmp_path / "source"))


@on_sqlite
def test_a_change_of_the_source_builds_no_package_again(source: Path, project: Project) -> None:
    (source / "app" / "health.py").write_text((source / "app" / "health.py").read_text() + "\n# changed\n")
    with reported(project.combination, "rebuilt after a change of the source"):
        command = ["docker", "build", "--progress=plain", "--output=type=cacheonly", "."]
        log = run(*command, cwd=source, env=environment()).stderr
    steps = re.findall(r"^#(\d+) \[(?:packages|builder) \d", log, re.MULTILINE)
    assert steps
    assert all(f"\n#{step} CACHED\n" in log for step in steps), log


@once
def test_without_a_dockerignore_nothing_else_gets_in(source: Path, project: Project) -> None:
    (source / ".dockerignore").unlink()
    for name in JUNK:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("junk")
    assert strays(build(source, "production")) == []


@on_sqlite
def test_a_package_that_does_not_match_its_hash_is_refused(source: Path) -> None:
    lock = source / "requirements.txt"
    lock.write_text(re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", lock.read_text()))
    docker("build", "--quiet", "--target=builder", source, status=1, timeout=300)


@once
def test_data_outlives_the_container_in_a_named_volume(project: Project) -> None:
    with volume() as data:
        assert_kept(project, [f"--volume={data}:/data"])


@once
@pytest.mark.parametrize("user", ["1000:1000", "12345:0"])
def test_data_outlives_the_container_in_a_folder_of_the_host(user: str, project: Project, tmp_path: Path) -> None:
    folder = host_folder(tmp_path, owner="1000:0", mode="770")
    assert_kept(project, [f"--volume={folder}:/data", f"--user={user}"])


def host_folder(tmp_path: Path, owner: str, mode: str) -> Path:
    """A folder with that owner, made by a container because these tests may not run as root."""
    folder = tmp_path / "data"
    folder.mkdir()
    change = f"chown {owner} /data && chmod {mode} /data"
    docker("run", "--rm", "--user=0", f"--volume={folder}:/data", BASE, "sh", "-c", change)
    return folder


def assert_kept(project: Project, options: list[str]) -> None:
    with service(project, options) as first:
        key = first.issue_key()
        task = call(f"{first.url()}/tasks", key=key, data={"title": "Kept"}).body
    with service(project, options) as second:
        assert call(f"{second.url()}/tasks/{task['id']}", key=key).body == task


@once
def test_a_folder_that_it_cannot_write_is_a_clear_error(project: Project, tmp_path: Path) -> None:
    folder = host_folder(tmp_path, owner="0:0", mode="755")
    with container(*HARDENED, f"--volume={folder}:/data", project.image) as started:
        assert started.wait_for_end() == 1
        logs = started.logs()
    assert "/data" in logs.splitlines()[-1]
    assert "user id 1000" in logs.splitlines()[-1]
    assert "Traceback" not in logs
