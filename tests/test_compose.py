"""The Compose stacks with each database: development with reload, and production with rollouts and backups."""

import json
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.combinations import EACH_DATABASE, POSTGRES_UV, Combination
from tests.conftest import Bake, only
from tests.docker import PREFIX, SECRET, Answer, Container, build, call, container, docker
from tests.rendered import ISSUE_KEY, MCP, PROBES
from tests.sandbox import code_blocks, environment, free_port, run, wait_until

pytestmark = pytest.mark.docker

RUN_FOR = EACH_DATABASE  # test_gpu_images.py runs workers in a stack

RETRY_SECONDS = 60.0
REPLICAS = 3

PROXY = """
FROM python:3.12-slim AS proxy
RUN apt-get update && apt-get install --yes --no-install-recommends haproxy
COPY haproxy.cfg /etc/haproxy/haproxy.cfg
CMD ["haproxy", "-f", "/etc/haproxy/haproxy.cfg"]
"""

HOST = """
FROM python:3.12-slim AS host
RUN apt-get update && apt-get install --yes --no-install-recommends docker-cli docker-compose systemd
# It has the engine of the machine that it runs on.
RUN printf '[Service]\\nExecStart=/bin/sleep infinity\\n' > /etc/systemd/system/docker.service
CMD ["/lib/systemd/systemd"]
"""

PROXY_CONFIGURATION = """
resolvers docker
  nameserver dns 127.0.0.11:53
  hold valid 1s
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  default-server init-addr none resolvers docker check inter 500ms fall 1 rise 1
  option httpchk GET /health
frontend api
  bind :8000
  default_backend api
backend api
  server-template api 6 NAME:API_PORT
"""


class Stack(NamedTuple):
    """A rendered project whose Compose files run under a unique project name."""

    folder: Path
    files: list[Path]
    env: dict[str, str]
    image: str = ""

    def compose(self, *arguments: str, status: int = 0, stdin: str = "") -> str:
        """Run a command, and return its output and errors."""
        files = [f"--file={file}" for file in self.files]
        command = ["docker", "compose", *files, *arguments]
        result = run(*command, cwd=self.folder, env=self.env, status=status, timeout=600, stdin=stdin)
        return result.stdout + result.stderr

    def sh(self, script: str) -> str:
        return run("sh", "-ec", script, cwd=self.folder, env=self.env, timeout=300).stdout

    def containers(self, service: str) -> list[Container]:
        return [Container(id) for id in self.compose("ps", "--all", "--quiet", service).split()]

    def issue_key(self, name: str) -> str:
        return self.compose("exec", "-T", "api", *ISSUE_KEY, name).splitlines()[-1]


@contextmanager
def stack(folder: Path, *files: Path, **variables: str) -> Iterator[Stack]:
    """Finally removes everything, including volumes."""
    name = f"{PREFIX}-{uuid.uuid4().hex[:8]}"
    made = Stack(folder, list(files), environment(COMPOSE_PROJECT_NAME=name, **variables))
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--rmi=local", "--timeout=20", "--remove-orphans")


def render(bake: Bake, combination: Combination) -> Path:
    return bake(
        **combination._asdict(),
        api_port=free_port(),
        mcp_port=free_port(),
        registry=f"registry.invalid/{PREFIX}/{combination}",
    )


@pytest.fixture(scope="module")
def project(bake: Bake, combination: Combination) -> Path:
    return render(bake, combination)


def ports(folder: Path) -> list[int]:
    dockerfile = (folder / "Dockerfile").read_text()
    return [int(port) for port in re.findall(r"^EXPOSE (\d+) (\d+)$", dockerfile, re.MULTILINE)[0]]


def wait_for_health(stack: Stack, expected: str) -> None:
    """Wait until both ports report this health."""

    def found() -> list[object]:
        answers = [call(f"http://127.0.0.1:{port}/health") for port in ports(stack.folder)]
        return [answer.body["status"] if answer.status == 200 else answer.status for answer in answers]

    wait_until(lambda: found() == [expected] * 2, timeout=90, what=lambda: f"{found()}: {stack.compose('logs')}")


def test_development_serves_and_reloads_on_both_ports(bake: Bake, combination: Combination) -> None:
    project = render(bake, combination)
    run("chmod", "--recursive", "go=", project, cwd=project, env=environment())  # as with a umask of 077
    with stack(project, project / "compose.yaml") as dev:
        dev.compose("up", "--build", "--detach", "--wait")
        wait_for_health(dev, "healthy")
        *_, with_docker = code_blocks(project / "README.md", "First run", "sh")
        key = dev.sh(with_docker.replace(" exec ", " exec -T ")).strip()  # because there is no terminal here
        tasks = f"http://127.0.0.1:{ports(project)[0]}/tasks"
        created = call(tasks, key=key, data={"title": "A task"})
        assert created.status == 201
        [api] = dev.containers("api")
        published = api.inspect()["NetworkSettings"]["Ports"]
        assert {binding["HostIp"] for bindings in published.values() for binding in bindings} == {"127.0.0.1"}

        for file in (project / PROBES, project / MCP):
            file.write_text(file.read_text().replace('"healthy"', '"changed"'))
        wait_for_health(dev, "changed")
        assert call(f"{tasks}/{created.body['id']}", key=key).body == created.body


@pytest.fixture(scope="module")
def image(project: Path) -> Iterator[str]:
    """The name of production's image, of which there are two different versions: the tags `one` and `two`."""
    name = yaml.safe_load((project / "compose.prod.yaml").read_text())["x-service"]["image"].partition(":")[0]
    made = build(project, "production")
    docker("tag", made, f"{name}:one")
    changed = f"FROM {name}:one\nLABEL changed=yes\n"
    docker("build", "--quiet", f"--tag={name}:two", "-", stdin=changed)
    yield name
    docker("rmi", f"{name}:one", f"{name}:two")


def fill_in(project: Path) -> None:
    """Fill in the required values of `.env.prod`: those that are empty, as the page says."""
    copy, _ = code_blocks(project / "docs" / "operate.md", "Production with Docker Compose", "sh")
    run("sh", "-ec", copy, cwd=project, env=environment())
    filled = re.sub(r"^(\w+)=$", rf"\1={SECRET}", (project / ".env.prod").read_text(), flags=re.MULTILINE)
    (project / ".env.prod").write_text(filled)


@pytest.fixture(scope="module")
def production(project: Path, image: str) -> Iterator[Stack]:
    publish = {"PUBLISH_API": str(free_port()), "PUBLISH_MCP": str(free_port())}
    with stack(project, project / "compose.prod.yaml", TAG="one", **publish) as made:
        fill_in(project)
        made.compose("up", "--detach", "--wait")
        yield made._replace(image=image)


def test_production_names_what_is_missing(project: Path, image: str, combination: Combination) -> None:
    with stack(project, project / "compose.prod.yaml", TAG="one") as made:
        (project / ".env.prod").unlink(missing_ok=True)
        assert ".env.prod not found" in made.compose("up", "--detach", status=1)
        fill_in(project)
    with stack(project, project / "compose.prod.yaml", TAG="one") as made:
        (project / ".env.prod").write_text((project / ".env.prod.example").read_text())
        printed = made.compose("up", status=1)
        missing = {"API_KEY_SECRET"} | ({"DATABASE_URL"} if combination.database == "postgres" else set())
        assert set(re.findall(r"^check-1 +\|   ([A-Z_]+): ", printed, re.MULTILINE)) == missing, printed
        assert (
            made.containers("database" if combination.database == "postgres" else "api")[0].inspect()["State"]["Status"]
            == "created"
        )


@only(POSTGRES_UV)
def test_the_database_and_the_service_always_have_the_same_password(
    bake: Bake, combination: Combination, tmp_path: Path
) -> None:
    project = shutil.copytree(bake(**combination._asdict()), tmp_path / "project")
    fill_in(project)
    (project / ".env").write_text("POSTGRES_PASSWORD=another\n")
    command = ["docker", "compose", "--file=compose.prod.yaml", "config", "--format=json"]
    printed = run(*command, cwd=project, env=environment(POSTGRES_PASSWORD="other")).stdout
    services = json.loads(printed)["services"]
    assert services["database"]["environment"]["POSTGRES_PASSWORD"] == SECRET
    for service in ("api", "check", "migrate"):
        assert f":{SECRET}@database" in services[service]["environment"]["DATABASE_URL"], service


def url(stack: Stack, which: str = "PUBLISH_API") -> str:
    return f"http://127.0.0.1:{stack.env[which]}"


def test_production_serves_on_both_ports(production: Stack) -> None:
    key = production.issue_key("both-ports")
    assert call(f"{url(production)}/tasks", key=key, data={"title": "A task"}).status == 201
    assert call(f"{url(production)}/ready").status == 200
    assert call(f"{url(production, 'PUBLISH_MCP')}/health").status == 200
    assert call(f"{url(production, 'PUBLISH_MCP')}/mcp", data={}).status == 401


def test_no_container_has_an_anonymous_volume_which_would_outlive_it(production: Stack) -> None:
    containers = [Container(id).inspect() for id in production.compose("ps", "--all", "--quiet").split()]
    volumes = {mount["Name"] for each in containers for mount in each["Mounts"] if mount["Type"] == "volume"}
    assert all(volume.startswith(production.env["COMPOSE_PROJECT_NAME"]) for volume in volumes), volumes


def test_a_nightly_backup_can_be_restored_into_an_empty_stack(production: Stack, tmp_path: Path) -> None:
    page = production.folder / "docs" / "operate.md"
    _, start = code_blocks(page, "Production with Docker Compose", "sh")
    save, restore = code_blocks(page, "Backup", "sh")
    key = production.issue_key("backup")
    tasks = f"{url(production)}/tasks"
    kept = call(tasks, key=key, data={"title": "Kept"}).body
    production.sh(save)
    back_up_by_systemd(production, tmp_path)

    production.compose("down", "--volumes")
    production.sh(start)
    assert call(tasks, key=key).status == 401
    later = production.issue_key("later")
    assert call(tasks, key=later, data={"title": "Later"}).status == 201
    production.sh(restore)
    wait_until(
        lambda: call(tasks, key=key).status == 200 and call(tasks, key=later).status == 401,
        timeout=30,
        what=lambda: production.compose("logs"),
    )
    restored = [each["id"] for each in call(tasks, key=key).body["items"]]
    assert kept["id"] in restored
    assert call(f"{tasks}/{kept['id']}", key=key).body == kept
    assert call(tasks, key=key, data={"title": "Afterwards"}).status == 201


def back_up_by_systemd(production: Stack, folder: Path) -> None:
    """Run what the systemd timer starts each night, and what the page has in a crontab. Writes `app.backup`."""
    name = production.folder.name
    units = production.folder / "deploy" / "systemd"
    [crontab] = code_blocks(production.folder / "docs" / "operate.md", "Backup", "crontab")
    command = re.sub(r"^(\S+ ){5}", "", crontab.strip())
    assert f"ExecStart=/bin/{command}\n" in (units / f"{name}-backup.service").read_text()
    (folder / "Dockerfile").write_text(HOST)
    of_tests = f"[Service]\nEnvironment=COMPOSE_PROJECT_NAME={production.env['COMPOSE_PROJECT_NAME']}\n"
    (folder / "tests.conf").write_text(of_tests)
    mounts = ["--volume=/var/run/docker.sock:/docker.sock", f"--volume={production.folder}:/opt/{name}:ro"]
    mounts += ["--volume=/sys/fs/cgroup:/sys/fs/cgroup", "--cgroupns=host", "--tmpfs=/run", "--tmpfs=/tmp"]
    with container("--privileged", "--env=container=docker", *mounts, build(folder, "host")) as host:

        def has_started() -> bool:
            command = ["docker", "exec", host.id, "systemctl", "is-active", "--quiet", "multi-user.target"]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        wait_until(has_started, timeout=60, what=host.logs)
        host.exec("ln", "-s", "/docker.sock", "/run/docker.sock")
        docker("cp", f"{units}/.", f"{host.id}:/etc/systemd/system")
        host.exec("mkdir", f"/etc/systemd/system/{name}-backup.service.d")
        docker("cp", folder / "tests.conf", f"{host.id}:/etc/systemd/system/{name}-backup.service.d")
        host.exec("systemctl", "daemon-reload")
        host.exec("systemctl", "enable", "--now", f"{name}-backup.timer")
        host.exec("sh", "-c", f"systemctl start {name}-backup || {{ journalctl --unit={name}-backup; exit 1; }}")
        docker("cp", f"{host.id}:/var/lib/{name}-backups/.", folder / "backups")
    [backup] = (folder / "backups").iterdir()
    backup.rename(production.folder / "app.backup")


@pytest.fixture
def proxy(production: Stack, tmp_path: Path) -> Iterator[int]:
    """The port of a reverse proxy in another container, which finds the API containers by name."""
    name = production.folder.name
    configuration = PROXY_CONFIGURATION.replace("NAME", name).replace("API_PORT", str(ports(production.folder)[0]))
    (tmp_path / "haproxy.cfg").write_text(configuration)
    (tmp_path / "Dockerfile").write_text(PROXY)
    image = build(tmp_path, "proxy")
    network = f"{production.env['COMPOSE_PROJECT_NAME']}_edge"
    publish = "--publish=127.0.0.1::8000"
    proxy = Container(docker("run", "--detach", f"--network={network}", publish, image))
    try:
        yield proxy.port(8000)
    finally:
        docker("rm", "--force", proxy.id)


class Client(threading.Thread):
    """Creates tasks one after another, and retries each until it succeeds."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__()
        self.url = url
        self.key = key
        self.created: list[int] = []
        self.lost: list[Answer] = []
        self.seen: set[int] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            deadline = time.monotonic() + RETRY_SECONDS
            while (answer := call(self.url, key=self.key, data={"title": "A task"})).status != 201:
                self.seen.add(answer.status)
                if answer.status not in (0, 502, 503, 504) or time.monotonic() > deadline:
                    self.lost.append(answer)
                    return
                time.sleep(0.1)
            self.created.append(answer.body["id"])


@contextmanager
def clients(url: str, key: str) -> Iterator[list[Client]]:
    """Two clients that work until the end of the block. None of their requests may be lost."""
    working = [Client(url, key) for _ in range(2)]
    for client in working:
        client.start()
    try:
        yield working
    finally:
        for client in working:
            client.ended.set()
        for client in working:
            client.join()
    assert [client.lost for client in working] == [[], []]


def test_several_containers_serve_behind_a_proxy_and_a_rollout_loses_no_request(production: Stack, proxy: int) -> None:
    key = production.issue_key("proxy")
    tasks = f"http://127.0.0.1:{proxy}/tasks"
    scaled = production._replace(env={**production.env, "PUBLISH_API": "", "PUBLISH_MCP": ""})
    scaled.compose("up", "--detach", "--wait", f"--scale=api={REPLICAS}")
    wait_until(lambda: call(tasks, key=key).status == 200, timeout=60, what=lambda: scaled.compose("logs"))
    assert len(scaled.containers("api")) == REPLICAS

    updated = scaled._replace(env={**scaled.env, "TAG": "two"})
    with clients(tasks, key) as working:
        wait_until(lambda: all(client.created for client in working), timeout=60, what=lambda: scaled.compose("logs"))
        updated.compose("up", "--detach", "--wait", f"--scale=api={REPLICAS}")
        containers = updated.containers("api")
        wait_until(
            lambda: all('"path": "/tasks"' in each.logs() for each in containers),
            timeout=60,
            what=lambda: "each serves",
        )
    created = [id for client in working for id in client.created]
    assert [each.inspect()["Config"]["Image"].rpartition(":")[2] for each in containers] == ["two"] * REPLICAS
    stored = {task for task in created if call(f"{tasks}/{task}", key=key).status == 200}
    assert stored == set(created)
