"""A rendered project's Makefile works whatever users have configured, and in any folder."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.combinations import QUESTIONS
from tests.conftest import Bake
from tests.sandbox import make_path, run
from tests.updates import commit, tree, user

# Variables that pip and Python would follow.
SET_BY_USERS = {
    "PIP_USER": "1",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_NO_DEPS": "1",
    "PIP_DRY_RUN": "1",
    "PIP_CONSTRAINT": "none.txt",
    "PIP_TARGET": "elsewhere",
    "PYTHONPATH": "elsewhere",
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return user(tmp_path / "nowhere", tmp_path)


@pytest.fixture(scope="module")
def rendered(bake: Bake) -> Path:
    return bake()


@pytest.fixture
def project(rendered: Path, tmp_path: Path) -> Path:
    """In a folder whose name has characters that are special in make, shells, regular expressions and YAML."""
    return shutil.copytree(rendered, tmp_path / "o'brien (1)+ 100%c" / "task-service")


def lock_only(package: str, project: Path) -> None:
    lock = project / "requirements-dev.txt"
    text = lock.read_text(encoding="utf-8")
    start = text.index(f"\n{package}==") + 1
    lock.write_text(text[start : text.index("# via", start)] + "# via -\n", encoding="utf-8")


@pytest.mark.parametrize("package_manager", QUESTIONS["package_manager"])
def test_users_settings_for_pip_and_python_change_nothing(
    package_manager: str, bake: Bake, env: dict[str, str], tmp_path: Path
) -> None:
    project = shutil.copytree(bake(package_manager=package_manager), tmp_path / "with a blank" / "task-service")
    package = "uv" if package_manager == "uv" else "iniconfig"  # uv is missing here, and is installed first
    lock_only(package, project)
    path = make_path(tmp_path / "bin", uv=Path("/nonexistent"))  # a broken shim
    found = run("make", "--eval", "print: ; @echo $(PYTHON)", "print", cwd=project, env=env).stdout.splitlines()[-1]
    arguments = ["install", f"PYTHON={found}"]
    run("make", *arguments, cwd=project, env=env | SET_BY_USERS | {"PATH": path})
    python = project / (".local" if package_manager == "pip" else ".venv") / "bin" / "python"
    printed = run(python, "-c", f"import {package}; print({package}.__file__)", cwd=project, env=env).stdout
    assert str(python.parent.parent) in printed
    assert not (project / "elsewhere").exists()


@pytest.mark.parametrize("package_manager", QUESTIONS["package_manager"])
def test_packages_are_installed_again_if_their_python_is_gone(
    package_manager: str, bake: Bake, env: dict[str, str], tmp_path: Path
) -> None:
    """As with an environment from outside a development container, which test_run.py tries."""
    project = shutil.copytree(bake(package_manager=package_manager), tmp_path / "task-service")
    environment = project / (".local" if package_manager == "pip" else ".venv")
    (environment / "bin").mkdir(parents=True)
    (environment / "installed").touch()
    for target, is_new in (("/nonexistent/python", True), (sys.executable, False)):
        (environment / "bin" / "python").unlink(missing_ok=True)
        (environment / "bin" / "python").symlink_to(target)
        printed = run("make", "--dry-run", "install", cwd=project, env=env).stdout
        assert ("--require-hashes" in printed, "Nothing to be done" in printed) == (is_new, not is_new)


# Stands in for the project's Python, and prints its arguments.
ECHO = """#!/bin/sh
printf '%s\\n' "$@"
"""


@pytest.mark.parametrize("name", ["o'brien", '--help "b" `id` \\ ; Größe'])
@pytest.mark.parametrize(("task", "argument"), [("key", "--\n{}"), ("migration", "--message={}")])
def test_a_name_may_be_any_text(task: str, argument: str, name: str, project: Path, env: dict[str, str]) -> None:
    (project / "bin").mkdir()
    for tool in ("python", "ruff"):
        (project / "bin" / tool).write_text(ECHO)
        (project / "bin" / tool).chmod(0o755)
    make = ["make", "--silent", task, f"NAME={name}", "BIN=bin", "--old-file=install"]
    assert f"\n{argument.format(name)}\n" in run(*make, cwd=project, env=env).stdout


# Stands in for make, and prints the folder for which git's hook calls it.
MAKE = """#!/bin/sh
echo "$PWD: make $*" >&2
exit 1
"""


def commits(folder: Path, env: dict[str, str], tmp_path: Path) -> str:
    """Commit everything, and return what that prints."""
    (tmp_path / "make").mkdir(exist_ok=True)
    (tmp_path / "make" / "make").write_text(MAKE)
    (tmp_path / "make" / "make").chmod(0o755)
    with_make = env | {"PATH": f"{tmp_path / 'make'}:{os.environ['PATH']}"}
    run("git", "add", "--all", cwd=folder, env=env)
    return run("git", "commit", "--message", "-", cwd=folder, env=with_make, status=1).stderr


@pytest.mark.parametrize(
    ("place", "hooks_path"),
    [
        *(("repository", ""), ("repository", "{folder}/.hooks")),
        *(("subfolder", ""), ("subfolder", ".hooks"), ("worktree", ""), ("worktree", ".hooks")),
    ],
)
def test_the_git_hook_is_installed_in_the_right_folder(
    place: str, hooks_path: str, project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    top = project.parent if place == "subfolder" else project
    run("git", "init", "--quiet", "--template=", cwd=top, env=env)
    commit(top, env)
    if place == "worktree":
        top = tmp_path / "work-tree"
        run("git", "worktree", "add", "--quiet", top, cwd=project, env=env)
    if hooks_path:
        run("git", "config", "core.hooksPath", hooks_path.format(folder=top), cwd=top, env=env)
    folder = top / "task-service" if place == "subfolder" else top
    for _ in range(2):
        run("make", "git-hook", cwd=folder, env=env)
        (folder / "changed").touch()
        within = "task-service/" if place == "subfolder" else ""
        called = commits(top, env, tmp_path)
        assert called == f"{top}: make --silent -C ./{within} hooks FILES= PROJECT={within}\n"


@pytest.mark.parametrize("theirs", ["pre-commit", "core.hooksPath"])
def test_the_git_hook_overwrites_no_other_hook_and_says_what_to_add(
    theirs: str, project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    run("git", "init", "--quiet", cwd=project, env=env)
    if theirs == "pre-commit":
        (project / ".git" / "hooks" / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    else:
        run("git", "config", "core.hooksPath", tmp_path / "for all repositories", cwd=project, env=env)
    before = tree(project)
    refused = run("make", "git-hook", cwd=project, env=env, status=2).stderr
    assert "\n  make --silent -C './' hooks FILES= PROJECT=''\n" in refused
    assert tree(project) == before
    assert not (tmp_path / "for all repositories").exists()


def test_no_git_hook_is_installed_outside_a_repository(project: Path, env: dict[str, str]) -> None:
    env["GIT_CEILING_DIRECTORIES"] = str(project.parent)
    assert "Create one with: git init" in run("make", "git-hook", cwd=project, env=env, status=2).stderr
