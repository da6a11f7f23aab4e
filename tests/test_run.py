"""Combinations that are installed, checked, tested and run as their README says."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote

import pytest

from tests import browser, updates
from tests.combinations import (
    EACH_PACKAGE_MANAGER,
    POSTGRES_UV,
    SQLITE_PIP,
    SQLITE_UV,
    SQLITE_UV_GPU,
    SQLITE_VENV,
    Combination,
)
from tests.conftest import Bake, only
from tests.docker import docker
from tests.rendered import FILL_SQLITE, HEALTHCHECK, POOLER_TEST, PROBES, QUICK_TESTS, READ_POSTGRES, WITH_POSTGRES
from tests.sandbox import (
    MCP_CALL,
    PACKAGES,
    SCRIPTS,
    code_blocks,
    environment,
    free_port,
    locked_packages,
    make_path,
    npm_install,
    program,
    run,
    wait_until,
)
from tests.test_deploy import caddy, program_running, queries, rules

# Each package manager, each database, and jobs: without Docker they are independent. `make test` runs the first.
slow = pytest.mark.slow
RUN_FOR = [
    SQLITE_UV,
    *(pytest.param(each, marks=slow) for each in (SQLITE_PIP, SQLITE_VENV, POSTGRES_UV, SQLITE_UV_GPU)),
]
once = only(SQLITE_UV)

UV = SCRIPTS / "uv"


class Service(NamedTuple):
    """A rendered project, and the environment of its commands."""

    folder: Path
    env: dict[str, str]
    ports: tuple[int, int]
    python: Path
    """The Python with the project's packages."""

    def make(self, *arguments: str, timeout: float = 600) -> str:
        return run("make", *arguments, cwd=self.folder, env=self.env, timeout=timeout).stdout


def render(bake: Bake, combination: Combination, path: str) -> Service:
    ports = (free_port(), free_port())
    folder = bake(**combination._asdict(), api_port=ports[0], mcp_port=ports[1])
    installed = ".local" if combination.package_manager == "pip" else ".venv"
    env = environment(PATH=path, PYENV_ROOT=str(folder / "none"))
    return Service(folder, env, ports, folder / installed / "bin" / "python")


@pytest.fixture(scope="session")
def installed(
    bake: Bake, combination: Combination, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Installed on a machine with Python 3.12 or newer, but without uv."""
    path = make_path(tmp_path_factory.mktemp("path") / "bin", **{"python3.12": python})
    service = render(bake, combination, path)
    service.make("install")
    yield service
    shutil.rmtree(service.python.parent.parent)


def assert_its_lock_is_installed(service: Service) -> None:
    printed = run(service.python, "-c", PACKAGES, cwd=service.folder, env=service.env).stdout
    python_version, packages = json.loads(printed)
    lock = (service.folder / "requirements-dev.txt").read_text()
    assert packages == locked_packages(lock, python_version)


@slow
def test_exactly_the_lock_is_installed_and_stays(installed: Service) -> None:
    assert_its_lock_is_installed(installed)
    assert "Nothing to be done" in installed.make("install")


@slow
@only(*EACH_PACKAGE_MANAGER)
def test_a_dependency_is_added_and_removed_with_its_line_in_pyproject(
    bake: Bake, combination: Combination, python: Path, tmp_path: Path
) -> None:
    """In a project with few packages, because pip and venv install all again."""
    service = render(bake, combination, make_path(tmp_path / "bin", **{"python3.12": python}))
    pyproject = service.folder / "pyproject.toml"
    few = re.sub(r"(?ms)^(dependencies|dev) = \[\n.*?^]", r"\1 = []", pyproject.read_text())
    few = few.replace("dev = []", 'dev = ["uv"]')
    lock = service.folder / "requirements-dev.txt"
    lock.write_text(re.findall(r"(?ms)^uv==.*?# via.*?\n", lock.read_text())[0])
    for dependencies in ('["six"]', "[]"):
        pyproject.write_text(few.replace("dependencies = []", f"dependencies = {dependencies}", 1))
        service.make("lock")
        service.make("install")
        assert ("\nsix==" in (service.folder / "requirements.txt").read_text()) is ("six" in dependencies)
        assert_its_lock_is_installed(service)


@pytest.fixture(scope="session")
def staged(installed: Service) -> Service:
    """A repository that checks each commit, before the first one."""
    author = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    caches = {"PRE_COMMIT_HOME": str(installed.folder.parent / "pre-commit"), "GIT_CONFIG_GLOBAL": "/dev/null"}
    service = installed._replace(env={**installed.env, **author, **caches})
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"], ["make", "git-hook"]):
        run(*command, cwd=service.folder, env=service.env)
    return service


@slow
@only(SQLITE_PIP, POSTGRES_UV)
def test_a_new_project_passes_its_own_hooks(staged: Service) -> None:
    """If this says that locks changed, run `make locks`."""
    printed = staged.make("hooks")
    assert "Failed" not in printed
    assert "Skipped" not in printed


# What each hook rejects, in the order of the hooks.
BAD_FILES = {
    "ruff check": ("app/added_default.py", "def added(items: list[int] = []) -> int:\n    return len(items)\n"),
    "ruff format": ("app/added_style.py", "added: int = ( 1 )\n"),
    "mypy": ("app/added_type.py", 'added: int = ""\n'),
    "hadolint": ("Dockerfile.added", "FROM python:3.12-slim\nRUN cd /tmp && pip install six\n"),
    "no merge conflicts": ("added_conflict.md", "<<<<<<< ours\nAdded\n=======\nChanged\n>>>>>>> theirs\n"),
    "no rejected hunks": ("added.md.rej", "@@ -1 +1 @@\n"),
    "trailing whitespace": ("added_blank.md", "Added \n"),
    "one newline at the end": ("added_end.md", "Added"),
    "no secrets": ("added.yaml", f"api_key: {'0123456789abcdef' * 4}\n"),
}


@slow
@once
def test_bad_files_are_not_committed(staged: Service) -> None:
    names = [name for name, _ in BAD_FILES.values()]
    try:
        for name, content in BAD_FILES.values():
            (staged.folder / name).write_text(content)
        run("git", "add", *names, cwd=staged.folder, env=staged.env)
        refused = run("git", "commit", "-m", "bad", cwd=staged.folder, env=staged.env, status=1)
        assert re.findall(r"(?m)^(.*?)\.+Failed$", refused.stdout + refused.stderr) == list(BAD_FILES)
    finally:
        run("git", "rm", "--quiet", "--force", *names, cwd=staged.folder, env=staged.env)


@slow
@once
def test_in_a_subdirectory_of_a_larger_repository_it_checks_its_own_files(
    staged: Service, baked: Path, tmp_path: Path
) -> None:
    project = borrow(staged, shutil.copytree(baked, tmp_path / "larger" / "(tasks)"))
    for command in (["git", "init", "--quiet", ".."], ["make", "git-hook"], ["git", "add", "."]):
        run(*command, cwd=project, env=staged.env)
    run("git", "commit", "--quiet", "--no-verify", "--message", "rendered", cwd=project, env=staged.env)
    for folder in (project / "app", project.parent):
        (folder / "added.py").write_text("added: int = ''\n")
        run("git", "add", folder, cwd=project, env=staged.env)
    refused = run("git", "commit", "--message", "bad", cwd=project, env=staged.env, status=1, timeout=300)
    printed = refused.stdout + refused.stderr
    assert re.findall(r"(?m)^(.*?)\.+Failed$", printed) == ["ruff format", "mypy"]
    assert (project.parent / "added.py").read_text() == "added: int = ''\n"


@once
def test_an_outdated_lock_is_updated_instead_of_committed(staged: Service) -> None:
    files = [staged.folder / name for name in ("pyproject.toml", "requirements.txt", "requirements-dev.txt")]
    before = [file.read_text() for file in files]
    try:
        files[0].write_text(before[0].replace('    "sqlalchemy', '    "six>=1.16",\n    "sqlalchemy'))
        run("git", "add", files[0], cwd=staged.folder, env=staged.env)
        refused = run("git", "commit", "-m", "bad", cwd=staged.folder, env=staged.env, status=1)
        assert re.findall(r"(?m)^(.*?)\.+Failed$", refused.stdout + refused.stderr) == ["locks up to date"]
        assert all("\nsix==" in file.read_text() for file in files[1:])
    finally:
        for file, text in zip(files, before, strict=True):
            file.write_text(text)
        run("git", "add", "--all", cwd=staged.folder, env=staged.env)


@slow
@only(SQLITE_UV_GPU, POSTGRES_UV)
def test_its_quick_tests_pass(installed: Service) -> None:
    """With SQLite and without jobs, test_own_tests.py runs them."""
    assert " passed" in installed.make(*QUICK_TESTS)


@slow
@only(SQLITE_PIP, SQLITE_VENV)
def test_pytest_runs_with_each_package_manager(installed: Service) -> None:
    assert " passed" in installed.make(*QUICK_TESTS, "ARGS=tests/test_problems.py")


@slow
@only(POSTGRES_UV)
def test_a_pooler_serves_many_connections_with_few(installed: Service) -> None:
    """The project itself skips this without PgBouncer, unless `REQUIRE_PROGRAMS` is set."""
    installed.make(*POOLER_TEST)


@slow
@only(SQLITE_UV_GPU)
def test_its_style_and_types_are_clean_after_changes_and_an_update(
    installed: Service, updated: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(updated, tmp_path / updated.name)
    make = ["make", "lint", f"BIN={installed.python.parent}", "--old-file=install"]
    run(*make, cwd=changed, env=installed.env, timeout=300)


def borrow(installed: Service, project: Path) -> Path:
    """Link installed packages into a project of the same combination: only files, as PostgreSQL changes folders."""
    shutil.copytree(installed.folder / ".venv", project / ".venv", symlinks=True, copy_function=os.link)
    (project / ".venv" / "installed").touch()
    return project


# Commands in AGENTS.md that other tests run.
RUN_ELSEWHERE = {"dev", "feature", "key", "template-update", "test-all", "worker"}


@slow
@once
def test_the_commands_for_coding_assistants_work(installed: Service, baked: Path, tmp_path: Path) -> None:
    project = borrow(installed, shutil.copytree(baked, tmp_path / "task-service"))
    [block] = code_blocks(project / "AGENTS.md", "Commands", "sh")
    for command in block.splitlines():
        run("sh", "-ec", command, cwd=project, env=installed.env, timeout=600)


@only(SQLITE_UV, SQLITE_UV_GPU)
def test_all_commands_for_coding_assistants_are_tested(baked: Path) -> None:
    [block] = code_blocks(baked / "AGENTS.md", "Commands", "sh")
    named = set(re.findall(r"\bmake ([a-z-]+)", (baked / "AGENTS.md").read_text()))
    assert named - set(re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)) <= RUN_ELSEWHERE


@slow
@only(POSTGRES_UV)
def test_data_moves_to_the_other_database_as_the_page_says(installed: Service, baked: Path, tmp_path: Path) -> None:
    project = borrow(installed, shutil.copytree(baked, tmp_path / "task-service"))
    run(installed.python, "-c", FILL_SQLITE, cwd=project, env=installed.env)
    with sqlite3.connect(project / "app.backup") as old:
        expected = old.execute("SELECT id, title, description, status, priority FROM tasks ORDER BY id").fetchall()
    [block] = code_blocks(project / "docs" / "update.md", "Data from SQLite", "sh")
    run("sh", "-ec", block, cwd=project, env=installed.env)
    python = installed.python
    printed = run(python, *WITH_POSTGRES, python, "-c", READ_POSTGRES, cwd=project, env=installed.env).stdout
    assert [tuple(row) for row in json.loads(printed.splitlines()[0])] == expected
    assert printed.splitlines()[1:] == ["3", "1"]


@slow
@only(SQLITE_UV, SQLITE_UV_GPU)
def test_migrations_follow_the_pages_if_jobs_are_added_or_removed(
    installed: Service, combination: Combination, github: Path, tmp_path: Path
) -> None:
    env = {**installed.env, **updates.user(github, tmp_path), "PATH": installed.env["PATH"]}
    project = borrow(installed, updates.render(tmp_path / "project", env, **combination._asdict()))
    updates.add_column(project)
    updates.commit(project, env)
    [row] = [line for line in (project / "docs" / "update.md").read_text().splitlines() if '`{"gpu": ' in line]
    answers, *commands = re.findall("`([^`]+)`", row)
    run("make", "migrate", cwd=project, env=env)
    run("make", "template-update", f"ARGS=--variables-to-update '{answers}'", cwd=project, env=env)
    for command in [*commands, "make migrate", "make migration NAME='nothing left'"]:
        run("sh", "-ec", command, cwd=project, env=env)
    [drafted] = (project / "migrations" / "versions").glob("*nothing_left.py")
    assert re.findall("op\\..*", drafted.read_text()) == []


class Running(NamedTuple):
    """A service that runs as its README says, and the result of the README's first call."""

    service: Service
    process: subprocess.Popen[bytes]
    key: str
    first_task: dict[str, object]

    def stop(self) -> None:
        """Do what Ctrl-C does in a terminal."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=60)


def health(port: int) -> str | None:
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5) as response:
            status: str = json.load(response)["status"]
            return status
    except OSError:
        return None


@pytest.fixture(scope="module")
def running(
    bake: Bake,
    combination: Combination,
    python: Path,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    """Follow the README to a first call. Projects that use uv start from nothing, on a machine that has it."""
    folder = tmp_path_factory.mktemp("run")
    path = make_path(folder / "bin", **{"uv": UV, "python3.12": python})
    if not Path(path, "curl").exists():
        pytest.skip("the README calls the service with curl, which is missing")
    if combination == SQLITE_UV:
        service = render(bake, combination, path)
    else:
        installed = request.getfixturevalue("installed")
        service = installed._replace(env={**installed.env, "PATH": path})
    start, call, _with_docker = code_blocks(service.folder / "README.md", "First run", "sh")
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["sh", "-c", start],
            cwd=service.folder,
            env=service.env,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # Shells start background jobs, such as these tests, with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process,
    ):
        try:
            wait_until(
                lambda: all(health(port) for port in service.ports),
                timeout=120,
                what=lambda: f"`{start}` serves: {log.read_text()}",
            )
            printed = run("sh", "-ec", f'{call}\necho; echo "$API_KEY"', cwd=service.folder, env=service.env).stdout
            first_task, key = printed.split("\n")[:2]
            yield Running(service, process, key, json.loads(first_task))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)


def test_the_readme_leads_to_a_first_call(running: Running) -> None:
    assert running.first_task["title"] == "Try it"
    assert running.first_task["status"] == "todo"


def test_an_assistant_s_configuration_from_the_readme_works(running: Running) -> None:
    [block] = code_blocks(running.service.folder / "README.md", "Add it to an AI assistant", "json")
    [(name, server)] = json.loads(block.replace("${API_KEY}", running.key))["mcpServers"].items()
    assert name == running.service.folder.name
    service = running.service
    answer = run(service.python, "-c", MCP_CALL, cwd=service.folder, env=service.env, stdin=json.dumps(server)).stdout
    [found] = json.loads(answer)["items"]
    assert found.items() <= running.first_task.items()


@slow
@once
def test_a_read_only_key_is_issued_as_the_page_says(running: Running) -> None:
    service = running.service
    [issue, *_] = code_blocks(service.folder / "docs" / "assistants.md", "With a key", "sh")
    command = issue.replace("python", str(service.python), 1)
    key = run("sh", "-ec", command, cwd=service.folder, env=service.env).stdout.strip()
    url = f"http://localhost:{service.ports[0]}/tasks"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"X-API-Key": key})) as answer:
        assert json.load(answer)["items"] == [running.first_task]
    with pytest.raises(HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(url, b"{}", {"X-API-Key": key}))


@slow
@once
def test_rest_and_mcp_work_through_caddy(running: Running, tmp_path: Path) -> None:
    service = running.service
    headers = {"Authorization": f"Bearer {running.key}"}
    with caddy(service.folder, tmp_path, api="localhost", mcp="127.0.0.1") as port:
        request = urllib.request.Request(f"http://localhost:{port}/tasks", headers=headers)
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["items"] == [running.first_task]
        server = json.dumps({"url": f"http://127.0.0.1:{port}/mcp", "headers": headers})
        printed = run(service.python, "-c", MCP_CALL, cwd=service.folder, env=service.env, stdin=server).stdout
        assert [each["id"] for each in json.loads(printed)["items"]] == [running.first_task["id"]]


# What a development container needs of the image that it names.
DEVELOPMENT_IMAGE = """
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -r /var/lib/apt/lists
RUN useradd --create-home --uid=1000 vscode
LABEL devcontainer.metadata='[{"remoteUser": "vscode"}]'
"""


@contextmanager
def image_to_develop_in(name: str) -> Iterator[None]:
    """The image of this name or, if its registry is unreachable, a stand-in."""
    is_there = subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0
    if not is_there:
        pull = subprocess.run(["docker", "pull", "--quiet", name], capture_output=True, text=True, check=False)
        assert "manifest unknown" not in pull.stderr
        is_there = pull.returncode == 0
    if not is_there:
        docker("build", f"--tag={name}", "-", stdin=DEVELOPMENT_IMAGE, timeout=300)
    try:
        yield
    finally:
        if not is_there:
            docker("image", "rm", name)


@contextmanager
def remove_development_container(project: Path) -> Iterator[None]:
    """Finally remove the container and the image that was built for its user."""
    try:
        yield
    finally:
        label = f"--filter=label=devcontainer.local_folder={project}"
        for line in docker("ps", "--all", "--no-trunc", "--format={{.ID}} {{.Image}}", label).splitlines():
            container, image = line.split()
            docker("rm", "--force", "--volumes", container)
            if image.startswith("vsc-"):
                docker("image", "rm", image)


@slow
@pytest.mark.docker
@once
def test_a_development_container_is_installed_and_serves_on_its_forwarded_ports(baked: Path, tmp_path: Path) -> None:
    """The project was installed before, with a Python that the container lacks. Editors forward a port by connecting to it
    inside the container, as this does."""
    project = shutil.copytree(baked, tmp_path / "task-service")
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to("/nonexistent/python")
    (project / ".venv" / "installed").touch()
    if os.getuid() == 0:  # otherwise the container's user gets our id
        run("chown", "--recursive", "1000:1000", project, cwd=tmp_path, env=environment())
    configuration = json.loads((project / ".devcontainer" / "devcontainer.json").read_text())
    python = configuration["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    env = npm_install(tmp_path / "node", "@devcontainers/cli@0.89.0")
    where = f"--workspace-folder={project}"
    log = tmp_path / "log"
    with image_to_develop_in(configuration["image"]), remove_development_container(project), log.open("w") as output:
        up = ["devcontainer", "up", "--skip-non-blocking-commands", where]
        opened = json.loads(run(*up, cwd=project, env=env, timeout=300).stdout)
        inside = ["docker", "exec", f"--user={opened['remoteUser']}", f"--workdir={opened['remoteWorkspaceFolder']}"]
        inside += [opened["containerId"], python]
        run(*inside, "-m", "mypy", "--version", cwd=project, env=env)
        attach = ["devcontainer", "run-user-commands", where]
        with subprocess.Popen(attach, cwd=project, env=env, stdout=output, stderr=output) as attached:
            try:
                check = [*inside, *HEALTHCHECK[1:3], *map(str, configuration["forwardPorts"])]
                wait_until(
                    lambda: subprocess.run(check, capture_output=True, check=False).returncode == 0,
                    timeout=120,
                    what=log.read_text,
                )
            finally:
                attached.terminate()


PROMETHEUS = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: NAME
    static_configs: [{targets: ["localhost:PORT"]}]
"""


@slow
@once
def test_prometheus_fires_an_alert_under_load_and_fills_the_dashboard(running: Running, tmp_path: Path) -> None:
    service = running.service
    # Within seconds instead of minutes, and at any latency.
    alerts = (service.folder / "deploy" / "prometheus" / "alerts.yml").read_text()
    alerts = re.sub(r"for: \d+m", "for: 0s", alerts).replace("[5m]", "[5s]").replace(") > 1\n", ") > 0\n")
    (tmp_path / "alerts.yml").write_text(alerts)
    scrape = PROMETHEUS.replace("NAME", service.folder.name).replace("PORT", str(service.ports[0]))
    (tmp_path / "prometheus.yml").write_text(scrape)
    server = {"url": f"http://localhost:{service.ports[1]}/mcp", "headers": {"Authorization": f"Bearer {running.key}"}}
    run(service.python, "-c", MCP_CALL, cwd=service.folder, env=service.env, stdin=json.dumps(server))
    port = free_port()

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}") as answer:
            return json.load(answer)["data"]

    def firing_under_load() -> set[tuple[str, str]]:
        for _ in range(20):
            with suppress(HTTPError):  # 401
                urllib.request.urlopen(f"http://localhost:{service.ports[0]}/tasks").close()
        labels = [alert["labels"] for alert in ask("alerts")["alerts"] if alert["state"] == "firing"]
        return {(each["alertname"], each.get("interface", "")) for each in labels}

    def without_data() -> list[str]:
        asked = [query for query in queries(service.folder, "5s") if 'status=~"5' not in query]
        return [query for query in asked if not ask(f"query?query={quote(query)}")["result"]]

    command = [program("prometheus", "prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with program_running(*command, f"--web.listen-address=127.0.0.1:{port}", port=port, folder=tmp_path):
        wait_until(
            lambda: firing_under_load() == {("HighLatency", "rest")}, timeout=60, what=lambda: str(firing_under_load())
        )
        wait_until(lambda: not without_data(), timeout=20, what=lambda: str(without_data()))


@slow
@once
def test_the_docs_work_in_a_browser_without_internet(running: Running) -> None:
    url = f"http://localhost:{running.service.ports[0]}"
    with browser.page() as (page, requests):
        browser.open_redoc(page, url)
        browser.open_swagger_ui(page, url)
        created = browser.try_out(page, running.key, "Create Task", '{"title": "From a browser"}')
    assert created["title"] == "From a browser"
    elsewhere = {request for request in requests if not request.startswith((url, f"blob:{url}", "data:"))}
    assert elsewhere == {"https://cdn.redoc.ly/redoc/logo-mini.svg"}  # blocked by the policy, and hidden


def test_it_reloads_when_a_file_changes(running: Running) -> None:
    file = running.service.folder / PROBES
    source = file.read_text()
    file.write_text(source.replace('"healthy"', '"changed"'))
    port = running.service.ports[0]
    wait_until(lambda: health(port) == "changed", timeout=60, what=lambda: f"/health changes from {health(port)}")
    file.write_text(source)
    wait_until(lambda: health(port) == "healthy", timeout=60, what=lambda: f"/health changes from {health(port)}")


@slow
@only(SQLITE_UV_GPU)
def test_the_readme_leads_to_a_first_job(running: Running) -> None:
    [block] = code_blocks(running.service.folder / "docs" / "jobs.md", "Jobs", "sh")
    worker, *calls = block.splitlines()
    env = {**running.service.env, "API_KEY": running.key}

    def job() -> str:
        return run("sh", "-ec", calls[1], cwd=running.service.folder, env=env).stdout

    with subprocess.Popen(
        ["sh", "-c", worker], cwd=running.service.folder, env=env, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            accepted = run("sh", "-ec", calls[0], cwd=running.service.folder, env=env).stdout
            assert "location: /jobs/1" in accepted.lower()
            wait_until(lambda: json.loads(job())["state"] == "succeeded", timeout=60, what=job)
            assert json.loads(run("sh", "-ec", calls[2], cwd=running.service.folder, env=env).stdout)["items"] == []
            assert without_series(running) == set()
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=30)


def without_series(running: Running) -> set[str]:
    """Time series of jobs and the database that the dashboard and alerts query, but the service does not export."""
    with urllib.request.urlopen(f"http://localhost:{running.service.ports[0]}/metrics") as answer:
        exported = set(re.findall(r"^\w+", answer.read().decode(), re.MULTILINE))
    asked = [*queries(running.service.folder), *(rule["expr"] for rule in rules(running.service.folder))]
    names = {name for query in asked for name in re.findall(r"\b((?:job|db_)\w*)\{", query)}
    assert len(names) > 5
    return names - exported


def test_ctrl_c_ends_it(running: Running) -> None:
    running.stop()
    ports = running.service.ports
    wait_until(lambda: not any(map(health, ports)), timeout=30, what=lambda: f"nothing answers any more at {ports}")


@slow
@only(POSTGRES_UV)
def test_closing_its_terminal_ends_it(installed: Service) -> None:
    log = installed.folder.parent / "closed.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["make", "dev"],
            cwd=installed.folder,
            env=installed.env,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup makes its children ignore it
        ) as process,
    ):
        try:
            wait_until(
                lambda: all(map(health, installed.ports)), timeout=120, what=lambda: log.read_text(encoding="utf-8")
            )
        finally:
            os.killpg(process.pid, signal.SIGHUP)
    wait_until(lambda: not group_lives(process.pid), timeout=20, what=lambda: log.read_text(encoding="utf-8"))
    postmaster = installed.folder / ".postgres" / "postmaster.pid"
    wait_until(lambda: not postmaster.exists(), timeout=20, what=lambda: "PostgreSQL ends with it")


def group_lives(leader: int) -> bool:
    """Whether any process of this group is alive."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


PYTHON_ANYWHERE = [
    (["python3.12"], [], "'{path}/python3.12' -m venv"),
    (["python3"], [], "'{path}/python3' -m venv"),
    ([], ["3.12.7"], "'{pyenv}/versions/3.12.7/bin/python' -m venv"),
    (["uv"], ["3.13.1"], "'{path}/uv' venv --quiet --python '{pyenv}/versions/3.13.1/bin/python'"),
    (["uv"], [], "'{path}/uv' venv --quiet --python '3.12'"),
]


@pytest.mark.parametrize(("on_path", "in_pyenv", "command"), PYTHON_ANYWHERE)
def test_an_interpreter_is_found_on_path_then_in_pyenv_then_by_uv(
    on_path: list[str], in_pyenv: list[str], command: str, bake: Bake, python: Path, tmp_path: Path
) -> None:
    path = make_path(tmp_path / "bin", **{name: UV if name == "uv" else python for name in on_path})
    for version in in_pyenv:
        make_path(tmp_path / "pyenv" / "versions" / version / "bin", python=python)
    env = environment(PATH=path, PYENV_ROOT=str(tmp_path / "pyenv"))
    planned = run("make", "--dry-run", "install", cwd=bake(), env=env).stdout
    assert command.format(path=path, pyenv=tmp_path / "pyenv") in planned


@pytest.mark.parametrize(
    ("package_manager", "needs"),
    [("uv", "uv, or Python 3.12 or newer"), ("pip", "Python 3.12 or newer"), ("venv", "Python 3.12 or newer")],
)
def test_a_missing_interpreter_is_named(package_manager: str, needs: str, bake: Bake, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    path = make_path(tmp_path / "bin", python3=old)
    env = environment(PATH=path, PYENV_ROOT=str(tmp_path))
    project = bake(package_manager=package_manager)
    assert f"make: needs {needs}" in run("make", "install", cwd=project, env=env, status=2).stderr
