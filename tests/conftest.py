"""Fixtures to bake the combinations, and the report of what was rendered, installed and run."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_cookies.plugin import Cookies
from xdist.scheduler import LoadScopeScheduling

from tests import docker, updates
from tests.combinations import COMBINATIONS, TEMPLATE, Combination
from tests.sandbox import SCRIPTS, environment, run

# Each start of pytest closes the folder that all runs of a user share to everybody else. As root, PostgreSQL runs as
# another user and needs its data open: so this run, with all its processes, has a folder of its own.
own_folder = None if "PYTEST_DEBUG_TEMPROOT" in os.environ else tempfile.mkdtemp()
if own_folder:
    os.environ["PYTEST_DEBUG_TEMPROOT"] = own_folder

Bake = Callable[..., Path]
Step = tuple[str, str, float]

steps: list[Step] = []


@contextmanager
def reported(combination: Combination, what: str) -> Iterator[list[str]]:
    """Put this into the report, with its time and the details that are added meanwhile."""
    started = time.monotonic()
    details: list[str] = []
    yield details
    steps.append((str(combination), ": ".join([what, *details]), time.monotonic() - started))


# The workflows, which take most of the disk, while there is little else on it; then the combinations that take longest, so
# that the processes end together: those with jobs have twice the tests, and those with uv have also what runs once.
LONGEST_FIRST = sorted(COMBINATIONS, key=lambda each: (not each.gpu, each.package_manager != "uv"))
FIRST = ["test_pipeline.py", *map(str, LONGEST_FIRST)]


def place(nodeid: str) -> int:
    """Where in `FIRST` a test is, or behind all of these."""
    found = (number for number, name in enumerate(FIRST) if re.search(rf"[/\[-]{name}[:\]-]", nodeid))
    return next(found, len(FIRST))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a combination, the stacks last: they keep the cores busy until the end, while the tests inside an image wait."""
    items.sort(key=lambda item: (place(item.nodeid), item.path.name == "test_compose.py"))


class ByCombination(LoadScopeScheduling):  # type: ignore[misc]
    """Runs all tests of a combination in one process, which installs it once; any other test where there is room."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if place(nodeid) in (0, len(FIRST)) else FIRST[place(nodeid)]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByCombination:
    config.option.loadscopereorder = False
    return ByCombination(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    docker.remove_what_was_built()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["steps"] = steps
    elif own_folder and not session.testsfailed:
        shutil.rmtree(own_folder, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    steps.extend(getattr(node, "workeroutput", {}).get("steps", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("combinations")
    if reason := docker.docker_missing():
        terminalreporter.write_line(f"No image was built and no container started: {reason}.")
    for combination, what, seconds in sorted(steps, key=lambda step: step[0]):
        terminalreporter.write_line(f"{combination:16} {seconds:6.1f} s  {what}")


@pytest.fixture(scope="session")
def bake(cookies_session: Cookies) -> Bake:
    """Render the template with these answers."""

    def bake(template: Path = TEMPLATE, **answers: object) -> Path:
        result = cookies_session.bake(extra_context=answers, template=str(template))
        assert result.exception is None, result.exception
        return Path(result.project_path)

    return bake


@pytest.fixture(scope="session")
def combination(request: pytest.FixtureRequest) -> Combination:
    """The only fixture of this name. Were it overridden in a module, what depends on it would stay that of another module."""
    found: Combination = request.param
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a combination for those in `RUN_FOR` of its module, or for all, unless it says for which."""
    said = any("combination" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "combination" in metafunc.fixturenames and not said:
        run_for = getattr(metafunc.module, "RUN_FOR", COMBINATIONS)
        metafunc.parametrize("combination", run_for, ids=str, indirect=True, scope="session")


def only(*combinations: Combination) -> pytest.MarkDecorator:
    """Run a test for these combinations alone."""
    return pytest.mark.parametrize("combination", combinations, ids=str, indirect=True, scope="session")


@pytest.fixture(scope="session")
def baked(bake: Bake, combination: Combination) -> Path:
    """The combination as rendered; to be read only."""
    with reported(combination, "rendered"):
        return bake(**combination._asdict())


@pytest.fixture(scope="session")
def template_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as it is now, committed in a repository of its own."""
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
    """The folder in which the template is, with a release before what it is now: see `tests/updates.py`."""
    folder = tmp_path_factory.mktemp("github")
    updates.serve(template_clone, folder)
    return folder


@pytest.fixture(scope="session")
def updated(combination: Combination, github: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project from the release before, changed in every module, and then updated; to be read only."""
    folder = tmp_path_factory.mktemp("updated")
    env = updates.user(github, folder)
    project = updates.render(folder / "project", env, "--checkout", updates.RELEASE, **combination._asdict())
    updates.change(project)
    updates.commit(project, env)
    run(SCRIPTS / "cruft", "update", "--skip-apply-ask", cwd=project, env=env)
    updates.reformat(project)
    return project
