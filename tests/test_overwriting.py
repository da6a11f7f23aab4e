"""Rendering over existing files loses nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.combinations import TEMPLATE
from tests.conftest import Bake
from tests.sandbox import SCRIPTS, run
from tests.updates import commit, tree, user

OVER: list[str | Path] = [
    *(SCRIPTS / "cookiecutter", TEMPLATE, "--no-input", "--overwrite-if-exists"),
    *("database=postgres", "registry=quay.io/a"),
]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return user(tmp_path / "nowhere", tmp_path)


@pytest.fixture
def project(bake: Bake, env: dict[str, str], tmp_path: Path) -> Path:
    """A project with committed changes by its user."""
    folder = shutil.copytree(bake(), tmp_path / "task-service")
    (folder / "app" / "main.py").write_text("Ours.\n")
    (folder / ".env").write_text("Ignored, and not rendered.\n")
    run("git", "init", "--quiet", cwd=folder, env=env)
    commit(folder, env)
    return folder


def changed(project: Path, env: dict[str, str]) -> None:
    (project / "app" / "main.py").write_text("Not committed.\n")


def with_a_new_file(project: Path, env: dict[str, str]) -> None:
    (project / "app" / "ours.py").write_text("Not committed.\n")


def without_git(project: Path, env: dict[str, str]) -> None:
    shutil.rmtree(project / ".git")


def before_the_first_commit(project: Path, env: dict[str, str]) -> None:
    shutil.rmtree(project / ".git")
    run("git", "init", "--quiet", cwd=project, env=env)


def ignored_by_what_is_around_it(project: Path, env: dict[str, str]) -> None:
    shutil.rmtree(project / ".git")
    (project.parent / ".gitignore").write_text("task-service\n")
    run("git", "init", "--quiet", cwd=project.parent, env=env)
    run("git", "add", ".gitignore", cwd=project.parent, env=env)
    run("git", "commit", "--quiet", "--message", "-", cwd=project.parent, env=env)


def where_git_is_led_elsewhere(project: Path, env: dict[str, str]) -> None:
    """As in a hook of another repository, in which everything is committed."""
    changed(project, env)
    other = shutil.copytree(project, project.parent / "other")
    run("git", "restore", ".", cwd=other, env=env)
    env |= {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / ".git" / "index"),
    }


@pytest.mark.parametrize("skip", [[], ["--skip-if-file-exists"]])
@pytest.mark.parametrize(
    "damage",
    [
        *(changed, with_a_new_file, without_git, before_the_first_commit, ignored_by_what_is_around_it),
        where_git_is_led_elsewhere,
    ],
)
def test_uncommitted_files_are_not_overwritten(
    damage: Callable[[Path, dict[str, str]], None], skip: list[str], project: Path, env: dict[str, str]
) -> None:
    damage(project, env)
    before = tree(project)
    refusal = run(*OVER, *skip, cwd=project.parent, env=env, status=1).stderr
    assert f"{project} contains uncommitted files" in refusal
    assert tree(project) == before


def test_committed_files_are_overwritten(project: Path, bake: Bake, env: dict[str, str]) -> None:
    run(*OVER, cwd=project.parent, env=env)
    rendered = tree(bake(database="postgres", registry="quay.io/a"))
    assert tree(project).items() >= rendered.items()
    assert tree(project).keys() - rendered.keys() == {
        ".env",
        "app/db/backup.py",
        "deploy/kubernetes/volume.yaml",
        "tests/test_sqlite.py",
    }


@pytest.mark.parametrize("holds", [[], ["git", "init", "--quiet", "task-service"]])
def test_an_empty_folder_is_used(holds: list[str], env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "task-service").mkdir()
    if holds:
        run(*holds, cwd=tmp_path, env=env)
    run(*OVER, cwd=tmp_path, env=env)
    assert (tmp_path / "task-service" / "dev" / "postgres.py").exists()
