"""Combinations installed from their lock, checked and tested by their own Makefile, and run as their README says."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import docker, updates
from tests.combinations import WITH_GPU, WITHOUT_GPU, Combination
from tests.conftest import Bake, only, reported
from tests.machine import (
    MCP_CALL,
    PACKAGES,
    SCRIPTS,
    code_blocks,
    environment,
    free_port,
    locked_packages,
    make_path,
    run,
    wait_until,
)

POSTGRES = Combination("postgres", "uv")
# Each package manager, each database, and jobs: at home they meet in nothing. test_images.py has the others as well.
RUN_FOR = [*(each for each in WITHOUT_GPU if each.database == "sqlite"), POSTGRES, WITH_GPU[0]]
once = only(WITHOUT_GPU[0])

UV = SCRIPTS / "uv"

# For machines without it: as much of curl as the services' READMEs use.
CURL = """
import argparse, urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("-H", action="append")
parser.add_argument("-d", type=str.encode)
parser.add_argument("url")
call = parser.parse_args()
headers = dict(header.split(": ", 1) for header in call.H)
with urllib.request.urlopen(urllib.request.Request(call.url, call.d, headers)) as response:
    print(response.read().decode(), end="")
"""


@pytest.fixture(scope="session")
def python(bake: Bake) -> Path:
    """A Python that services run on: the one their Makefile finds or, where there is none, one that uv brings."""
    rule = ("--eval", "print-python: ; @echo $(PYTHON)", "print-python")
    found = run("make", "--silent", *rule, cwd=bake(), env=environment()).stdout.strip()
    if not found:
        run(UV, "python", "install", "3.12", cwd=Path.cwd(), env=environment(), timeout=300)
        found = run(UV, "python", "find", "--managed-python", "3.12", cwd=Path.cwd(), env=environment()).stdout.strip()
    return Path(found)


class Service(NamedTuple):
    """A rendered project, and the environment in which its commands run."""

    folder: Path
    env: dict[str, str]
    ports: tuple[int, int]
    python: Path
    """What the project's packages are installed for."""

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
    """Installed on a machine that has Python 3.12 or newer, but no uv."""
    path = make_path(tmp_path_factory.mktemp("path") / "bin", **{"python3.12": python})
    service = render(bake, combination, path)
    packages = (service.folder / "requirements-dev.txt").read_text().count("==")
    with reported(combination, f"installed the lock of {packages} packages, without uv on PATH"):
        service.make("install")
    yield service
    shutil.rmtree(service.python.parent.parent)


def assert_its_lock_is_installed(service: Service) -> None:
    printed = run(service.python, "-c", PACKAGES, cwd=service.folder, env=service.env).stdout
    python_version, packages = json.loads(printed)
    lock = (service.folder / "requirements-dev.txt").read_text()
    assert packages == locked_packages(lock, python_version)


def test_exactly_the_lock_is_installed_and_stays(installed: Service) -> None:
    assert_its_lock_is_installed(installed)
    assert "Nothing to be done" in installed.make("install")


@only(*(each for each in WITHOUT_GPU if each.database == "sqlite"))
def test_a_dependency_comes_and_goes_with_its_line_in_pyproject(
    bake: Bake, combination: Combination, python: Path, tmp_path: Path
) -> None:
    """In a project of few packages, as pip and venv install all of them anew."""
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


def test_the_lock_for_production_is_part_of_the_one_for_development(installed: Service) -> None:
    production, development = (
        locked_packages((installed.folder / f"requirements{suffix}.txt").read_text(), "3.12.0")
        for suffix in ("", "-dev")
    )
    assert production.items() < development.items()


@pytest.fixture(scope="session")
def staged(installed: Service) -> Service:
    """As a repository that checks each commit, before the first one."""
    author = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    caches = {"PRE_COMMIT_HOME": str(installed.folder.parent / "pre-commit"), "GIT_CONFIG_GLOBAL": "/dev/null"}
    service = installed._replace(env={**installed.env, **author, **caches})
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"], ["make", "git-hook"]):
        run(*command, cwd=service.folder, env=service.env)
    return service


@only(Combination("sqlite", "uv"), POSTGRES)  # test_pipeline.py has pip and jobs
def test_what_is_rendered_passes_its_own_hooks(staged: Service, combination: Combination) -> None:
    """Where this says that locks changed, run `make locks`."""
    with reported(combination, "checked by its own `make hooks`"):
        printed = staged.make("hooks")
    assert "Failed" not in printed
    assert "Skipped" not in printed


# What each hook is there for, in the order of the hooks.
BAD_FILES = {
    "ruff check": ("app/added_default.py", "def added(items: list[int] = []) -> int:\n    return len(items)\n"),
    "ruff format": ("app/added_style.py", "added: int = ( 1 )\n"),
    "mypy": ("app/added_type.py", 'added: int = ""\n'),
    "hadolint": ("Dockerfile.added", "FROM python:3.12-slim\nRUN cd /tmp && pip install six\n"),
    "no conflict left": ("added_conflict.md", "<<<<<<< ours\nAdded\n=======\nChanged\n>>>>>>> theirs\n"),
    "nothing rejected left": ("added.md.rej", "@@ -1 +1 @@\n"),
    "trailing blanks": ("added_blank.md", "Added \n"),
    "one newline at the end": ("added_end.md", "Added"),
    "no secrets": ("added.yaml", f"api_key: {'0123456789abcdef' * 4}\n"),
}


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


@once
def test_in_a_folder_of_a_larger_repository_it_checks_its_own_files(
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
def test_a_lock_that_does_not_fit_is_not_committed_but_mended(staged: Service) -> None:
    files = [staged.folder / name for name in ("pyproject.toml", "requirements.txt", "requirements-dev.txt")]
    before = [file.read_text() for file in files]
    try:
        files[0].write_text(before[0].replace('    "sqlalchemy', '    "six>=1.16",\n    "sqlalchemy'))
        run("git", "add", files[0], cwd=staged.folder, env=staged.env)
        refused = run("git", "commit", "-m", "bad", cwd=staged.folder, env=staged.env, status=1)
        assert re.findall(r"(?m)^(.*?)\.+Failed$", refused.stdout + refused.stderr) == ["locks as pyproject.toml asks"]
        assert all("\nsix==" in file.read_text() for file in files[1:])
    finally:
        for file, text in zip(files, before, strict=True):
            file.write_text(text)
        run("git", "add", "--all", cwd=staged.folder, env=staged.env)


WITH_PGBOUNCER = "tests/test_postgres.py::test_a_pooler_in_transaction_mode_serves_many_connections_with_few"


def test_its_own_tests_pass(installed: Service, combination: Combination) -> None:
    """All of them where there is no Docker: with it, test_images.py runs them for each combination, but has no PgBouncer."""
    chosen = f"ARGS=-n0 tests/test_rest.py {WITH_PGBOUNCER if combination == POSTGRES else ''}"
    if not os.environ.get("REQUIRE_DOCKER") and docker.lacks():
        chosen = "ARGS=--numprocesses=2"
    with reported(combination, "tested by its own `make test`") as details:
        details += re.findall(r"=+ (\d+ passed.*) in ", installed.make("test", chosen, timeout=900))
        assert details


@only(WITH_GPU[0])
def test_its_style_and_types_are_clean_after_changes_and_an_update(
    installed: Service, updated: Path, combination: Combination, tmp_path: Path
) -> None:
    changed = shutil.copytree(updated, tmp_path / updated.name)
    with reported(combination, "changed by its user, updated, and checked by its own `make lint`"):
        make = ["make", "lint", f"BIN={installed.python.parent}", "--old-file=install"]
        run(*make, cwd=changed, env=installed.env, timeout=300)


def borrow(installed: Service, project: Path) -> Path:
    """Let a project of the same combination use what is installed: linked file by file, as PostgreSQL opens its folders."""
    shutil.copytree(installed.folder / ".venv", project / ".venv", symlinks=True, copy_function=os.link)
    (project / ".venv" / "installed").touch()
    return project


ROWS = """
import sys
from sqlalchemy import create_engine, insert
from app.models import ApiKey, Base, Priority, Status, Task, utc_now

engine = create_engine("sqlite:///tasks.backup")
Base.metadata.create_all(engine)
with engine.begin() as connection:
    for title, status in (("It's \\u4efb\\u52a1", Status.DONE), ("", Status.TODO)):
        connection.execute(insert(Task).values(title=title, description=title, status=status, priority=Priority.HIGH))
    connection.execute(insert(ApiKey).values(name="ann", digest="d", revoked_at=utc_now()))
"""


@only(POSTGRES)
def test_the_readme_leads_from_sqlite_to_postgresql(installed: Service, baked: Path, tmp_path: Path) -> None:
    project = borrow(installed, shutil.copytree(baked, tmp_path / "task-service"))
    run(installed.python, "-c", ROWS, cwd=project, env=installed.env)
    with sqlite3.connect(project / "tasks.backup") as old:
        expected = old.execute("SELECT id, title, description, status, priority FROM tasks ORDER BY id").fetchall()
    [block] = code_blocks(project / "README.md", "Data from SQLite", "sh")
    run("sh", "-ec", block, cwd=project, env=installed.env)
    python = installed.python
    printed = run(python, "-m", "tests.postgres", python, "-c", QUERY, cwd=project, env=installed.env).stdout
    assert [tuple(row) for row in json.loads(printed.splitlines()[0])] == expected
    assert printed.splitlines()[1:] == ["3", "1"]


QUERY = """
import asyncio, json
from sqlalchemy import func, insert, select
from app.database import create_engine
from app.models import ApiKey, Task
from app.settings import load_settings

async def main():
    async with create_engine(load_settings().migration_url).begin() as database:
        columns = (Task.id, Task.title, Task.description, Task.status, Task.priority)
        print(json.dumps([list(row) for row in await database.execute(select(*columns).order_by(Task.id))]))
        print((await database.execute(insert(Task).values(title="next").returning(Task.id))).scalar_one())
        print((await database.execute(select(func.count(ApiKey.revoked_at)))).scalar_one())

asyncio.run(main())
"""


@only(Combination("sqlite", "uv"), Combination("sqlite", "uv", gpu=True))
def test_the_readme_says_what_becomes_of_migrations_when_jobs_come_or_go(
    installed: Service, combination: Combination, github: Path, tmp_path: Path
) -> None:
    env = {**installed.env, **updates.user(github, tmp_path), "PATH": installed.env["PATH"]}
    project = borrow(installed, updates.render(tmp_path / "project", env, **combination._asdict()))
    updates.add_column(project)
    updates.commit(project, env)
    [row] = [line for line in (project / "README.md").read_text().splitlines() if '`{"gpu": ' in line]
    answers, *commands = re.findall("`([^`]+)`", row)
    run("make", "migrate", cwd=project, env=env)
    run("make", "template-update", f"ARGS=--variables-to-update '{answers}'", cwd=project, env=env)
    for command in [*commands, "make migrate", "make migration NAME='nothing left'"]:
        run("sh", "-ec", command, cwd=project, env=env)
    [drafted] = (project / "migrations" / "versions").glob("*nothing_left.py")
    assert re.findall("op\\..*", drafted.read_text()) == []


class Running(NamedTuple):
    """A service that runs as its README says, and what the README's first call gave."""

    service: Service
    process: subprocess.Popen[bytes]
    key: str
    first_task: dict[str, object]

    def stop(self) -> None:
        """What Ctrl-C does at a terminal."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=20)


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
    """Follow the README to a first call: from nothing on a machine that has uv, which only one that uses uv can notice."""
    folder = tmp_path_factory.mktemp("run")
    path = make_path(folder / "bin", **{"uv": UV, "python3.12": python})
    if not Path(path, "curl").exists():
        Path(path, "curl").write_text(f"#!{python}\n{CURL}")
        Path(path, "curl").chmod(0o755)
    if combination == WITHOUT_GPU[0]:
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
            # These tests ignore SIGINT where a shell runs them in the background; a terminal's programs do not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process,
    ):
        try:
            with reported(combination, "followed its README to a first call"):
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
    assert json.loads(answer)["items"] == [running.first_task]


def test_it_reloads_when_a_file_changes(running: Running) -> None:
    file = running.service.folder / "app" / "health.py"
    source = file.read_text()
    file.write_text(source.replace('"healthy"', '"changed"'))
    port = running.service.ports[0]
    wait_until(lambda: health(port) == "changed", timeout=60, what=lambda: f"/health changes from {health(port)}")
    file.write_text(source)
    wait_until(lambda: health(port) == "healthy", timeout=60, what=lambda: f"/health changes from {health(port)}")


@only(WITH_GPU[0])
def test_the_readme_leads_to_a_first_job(running: Running) -> None:
    [block] = code_blocks(running.service.folder / "README.md", "Jobs", "sh")
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
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=30)


def test_ctrl_c_ends_it(running: Running) -> None:
    running.stop()
    ports = running.service.ports
    wait_until(lambda: not any(map(health, ports)), timeout=10, what=lambda: f"nothing answers any more at {ports}")


@only(POSTGRES)
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
    """Whether a process of this process group has not ended."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


PYTHON_ANYWHERE = [
    (["python3.12"], [], "{path}/python3.12 -m venv"),
    (["python3"], [], "{path}/python3 -m venv"),
    ([], ["3.12.7"], "{pyenv}/versions/3.12.7/bin/python -m venv"),
    (["uv"], ["3.13.1"], "{path}/uv venv --quiet --python '{pyenv}/versions/3.13.1/bin/python'"),
    (["uv"], [], "{path}/uv venv --quiet --python '3.12'"),
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
def test_without_an_interpreter_the_lack_is_named(package_manager: str, needs: str, bake: Bake, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    path = make_path(tmp_path / "bin", python3=old)
    env = environment(PATH=path, PYENV_ROOT=str(tmp_path))
    project = bake(package_manager=package_manager)
    assert f"make: needs {needs}" in run("make", "install", cwd=project, env=env, status=2).stderr
