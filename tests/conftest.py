"""Fixtures that render the combinations, and hooks that select and group tests by combination and marks."""

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from pytest_cookies.plugin import Cookies

from tests import docker, updates
from tests.combinations import COMBINATIONS, TEMPLATE, Combination
from tests.sandbox import SCRIPTS, environment, run

# Each start of pytest makes the folder that all of a user's runs share inaccessible to other users. If the tests run as
# root, PostgreSQL runs as another user and needs access to its data, so this run has its own folder.
own_folder = None if "PYTEST_DEBUG_TEMPROOT" in os.environ else tempfile.mkdtemp()
if own_folder:
    os.environ["PYTEST_DEBUG_TEMPROOT"] = own_folder

Bake = Callable[..., Path]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that take a combination for `RUN_FOR` of their module, or for all, unless they use `only`."""
    said = any("combination" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "combination" in metafunc.fixturenames and not said:
        run_for = getattr(metafunc.module, "RUN_FOR", COMBINATIONS)
        metafunc.parametrize("combination", run_for, ids=str, indirect=True, scope="session")


def only(*combinations: Combination) -> pytest.MarkDecorator:
    """Run a test for only these combinations."""
    return pytest.mark.parametrize("combination", combinations, ids=str, indirect=True, scope="session")


def group(item: pytest.Item) -> str:
    """The module and, if there is one, the combination of a test."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return f"{item.path.stem}-{parameters['combination']}" if "combination" in parameters else ""


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Run the tests of a group in order and in one process, which installs or builds only once."""
    written = {id(item): number for number, item in enumerate(items)}
    for item in items:
        if group(item):
            item.add_marker(pytest.mark.xdist_group(group(item)))
    yield
    items.sort(key=lambda item: (str(item.path), group(item), written[id(item)] if group(item) else 0))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need Docker if there is none, or fail them if `REQUIRE_DOCKER` is set."""
    if item.get_closest_marker("docker") and (reason := docker.docker_missing()):
        (pytest.fail if os.environ.get("REQUIRE_DOCKER") else pytest.skip)(reason)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if own_folder and not session.testsfailed and not hasattr(session.config, "workerinput"):
        shutil.rmtree(own_folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def remove_images() -> Iterator[None]:
    yield
    docker.remove_what_was_built()


@pytest.fixture(scope="session")
def bake(cookies_session: Cookies) -> Bake:
    """Render the template with these answers, once; read-only."""

    @functools.cache
    def bake(**answers: object) -> Path:
        result = cookies_session.bake(extra_context=answers, template=str(TEMPLATE))
        assert result.exception is None, result.exception
        return Path(result.project_path)

    return bake


@pytest.fixture(scope="session")
def combination(request: pytest.FixtureRequest) -> Combination:
    """Do not override this in a module: session fixtures that depend on it would keep the value of another module."""
    found: Combination = request.param
    return found


@pytest.fixture(scope="session")
def baked(bake: Bake, combination: Combination) -> Path:
    """The rendered combination; read-only."""
    return bake(**combination._asdict())


@pytest.fixture(scope="session")
def python(bake: Bake) -> Path:
    """A Python for services: the one that their Makefile finds or, if there is none, one from uv."""
    rule = ("--eval", "print-python: ; @echo $(PYTHON)", "print-python")
    found = run("make", "--silent", *rule, cwd=bake(), env=environment()).stdout.strip()
    if not found:
        run(SCRIPTS / "uv", "python", "install", "3.12", cwd=Path.cwd(), env=environment(), timeout=300)
        found = run(
            SCRIPTS / "uv", "python", "find", "--managed-python", "3.12", cwd=Path.cwd(), env=environment()
        ).stdout.strip()
    return Path(found)


@pytest.fixture(scope="session")
def template_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as it is now, committed to a new repository."""
    folder = tmp_path_factory.mktemp("clone") / TEMPLATE.name
    env = environment(GIT_CONFIG_GLOBAL="/dev/null")
    for name in run("git", "ls-files", "-coz", "--exclude-standard", cwd=TEMPLATE, env=env).stdout.split("\0"):
        if name and (TEMPLATE / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TEMPLATE / name, folder / name)
    author = ["-c", "user.name=tests", "-c", "user.email=tests@example.com"]
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "as it is"]):
        run("git", *command, cwd=folder, env=env)
    return folder


@pytest.fixture(scope="session")
def github(template_clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands in for GitHub. Its template has a release before the current state: see `tests/updates.py`."""
    folder = tmp_path_factory.mktemp("github")
    updates.serve(template_clone, folder)
    return folder


@pytest.fixture(scope="session")
def updated(combination: Combination, github: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project from the previous release, changed in every module and then updated; read-only."""
    folder = tmp_path_factory.mktemp("updated")
    env = updates.user(github, folder)
    project = updates.render(folder / "project", env, "--checkout", updates.RELEASE, **combination._asdict())
    updates.change(project)
    updates.commit(project, env)
    run(SCRIPTS / "cruft", "update", "--skip-apply-ask", cwd=project, env=env)
    updates.reformat(project)
    return project
