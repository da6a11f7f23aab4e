"""Updates of rendered projects: what cruft and `make template-update` bring, what they leave alone, and what they refuse."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest

from tests import updates
from tests.combinations import COMBINATIONS, QUESTIONS, Combination
from tests.machine import SCRIPTS, environment, files, run
from tests.updates import ADDRESS, RELEASE, REMOVED, change, commit, reformat, render, tree, user


@pytest.fixture(scope="session")
def github(template_clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("github")
    updates.serve(template_clone, folder)
    return folder


@pytest.fixture
def env(github: Path, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return user(github, tmp_path / "home")


def cruft(project: Path, env: Mapping[str, str], *arguments: str, status: int = 0) -> str:
    printed = run(SCRIPTS / "cruft", *arguments, cwd=project, env=env, status=status)
    return printed.stdout + printed.stderr


def template_update(project: Path, env: Mapping[str, str], arguments: str = "", status: int = 0) -> str:
    """Run the project's own task with the tools of these tests."""
    command = ["make", "template-update", f"BIN={SCRIPTS}", f"ARGS={arguments}"]
    printed = run(*command, cwd=project, env={**env, "UV_PYTHON": sys.executable}, status=status)
    return printed.stdout + printed.stderr


def git(project: Path, env: Mapping[str, str], *arguments: str) -> str:
    return run("git", *arguments, cwd=project, env=env).stdout


def conflicts(project: Path, env: Mapping[str, str]) -> list[str]:
    return git(project, env, "diff", "--name-only", "--diff-filter=U").splitlines()


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_an_update_brings_what_is_new_and_keeps_what_was_changed(
    combination: Combination, env: dict[str, str], tmp_path: Path
) -> None:
    project = render(tmp_path / "project", env, "--checkout", RELEASE, **combination._asdict())
    change(project)
    commit(project, env)
    newest = render(tmp_path / "newest", env, **combination._asdict())
    change(newest)
    expected = tree(newest)
    assert tree(project) != expected

    cruft(project, env, "update", "--skip-apply-ask")
    reformat(project)
    assert tree(project) == expected
    assert conflicts(project, env) == []

    # Where one file cannot be merged, all others are.
    git(project, env, "reset", "--quiet", "--hard")
    (project / REMOVED[0]).write_text("ours = True\n")
    commit(project, env)
    assert re.findall("^app/.*", template_update(project, env, status=2), re.MULTILINE) == [REMOVED[0]]
    assert (project / REMOVED[0]).read_text() == "ours = True\n"
    (project / REMOVED[0]).unlink()
    reformat(project)
    assert tree(project) == expected
