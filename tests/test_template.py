"""The template itself: its code, its Makefile on a bare machine, its locks and its README."""

import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.combinations import QUESTIONS, TEMPLATE
from tests.sandbox import SCRIPTS, broken_links, code_blocks, environment, make_path, run

PYTHON = Path(getattr(sys, "_base_executable", sys.executable))


@pytest.fixture
def clone(template_clone: Path, tmp_path: Path) -> Path:
    run("git", "clone", "--quiet", template_clone, "template", cwd=tmp_path, env=environment())
    return tmp_path / "template"


@pytest.mark.parametrize("check", ["ruff check", "ruff format --check", "mypy"])
def test_its_own_code_is_clean(check: str) -> None:
    tool, *arguments = check.split()
    run(SCRIPTS / tool, *arguments, cwd=TEMPLATE, env=environment())


def test_make_new_renders_next_to_the_clone_and_installs_only_cookiecutter(clone: Path, tmp_path: Path) -> None:
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    path = make_path(tmp_path / "bin", python3=PYTHON)
    env = environment(PATH=path, PYENV_ROOT=str(tmp_path), HOME=str(tmp_path), XDG_CACHE_HOME=cache)
    run("make", "new", "ARGS=--no-input", cwd=clone, env=env, timeout=300)
    assert (tmp_path / "task-service" / "Makefile").exists()
    assert (clone / ".venv" / "bin" / "cookiecutter").exists()
    assert not (clone / ".venv" / "bin" / "pytest").exists()

    elsewhere = ["OUTPUT=else where", "ARGS=--no-input project_slug=tasks"]
    printed = run("make", "new", *elsewhere, cwd=clone, env=env).stdout
    assert "pip install" not in printed
    assert (clone / "else where" / "tasks" / "Makefile").exists()
    assert run("git", "status", "--porcelain", cwd=clone, env=env).stdout == '?? "else where/"\n'


@pytest.mark.parametrize(
    ("python", "missing"),
    [
        ("exit 1", "needs Python 3.11 or newer"),
        ('case "$*" in *ensurepip*) exit 1 ;; esac', "cannot make virtual environments: install its venv package"),
    ],
)
def test_missing_programs_are_named(python: str, missing: str, clone: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n{python}\n")
    script.chmod(0o755)
    env = environment(PATH=make_path(tmp_path / "bin", python3=script), PYENV_ROOT=str(tmp_path))
    assert missing in run("make", "new", cwd=clone, env=env, status=2).stderr


@pytest.mark.parametrize(("required", "status", "outcome"), [("", 0, "SKIPPED"), ("1", 1, "ERROR")])
def test_without_docker_its_tests_are_skipped_or_fail_if_it_is_required(
    required: str, status: int, outcome: str, tmp_path: Path
) -> None:
    env = environment(PATH=make_path(tmp_path / "bin"), REQUIRE_DOCKER=required)
    tests = ["tests/test_images.py", "--numprocesses=0", "-p", "no:cacheprovider", "-k", "sqlite-uv-cpu and no_warning"]
    printed = run(sys.executable, "-m", "pytest", *tests, cwd=TEMPLATE, env=env, status=status).stdout
    assert f"\n{outcome} " in printed
    assert "there is no docker on PATH" in printed


@pytest.mark.nightly
def test_its_lock_is_up_to_date(clone: Path) -> None:
    env = environment(UV_PYTHON=sys.executable)
    run("make", "lock", "--old-file=.venv/requirements-dev", f"BIN={SCRIPTS}", cwd=clone, env=env)
    assert run("git", "diff", "--stat", cwd=clone, env=env).stdout == "", "run `make lock`"


@pytest.mark.nightly
def test_the_services_locks_are_updated_from_their_dependencies(clone: Path) -> None:
    project = clone / "{{cookiecutter.project_slug}}" / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = [\n", 'dependencies = [\n    "six>=1.16",\n', 1))
    refreshed = run(sys.executable, "scripts/refresh_locks.py", cwd=clone, env=environment()).stdout
    for lock in ("sqlite.txt", "sqlite-dev.txt", "postgres.txt", "postgres-dev.txt"):
        content = (clone / "templates" / "locks" / lock).read_text()
        assert f"\n{lock:18} six " in refreshed
        assert "\nsix==" in content
        assert "# via {{ cookiecutter.project_slug }} (pyproject.toml)" in content


def test_the_readme_lists_the_files_that_are_rendered(clone: Path) -> None:
    run(sys.executable, "-m", "scripts.tree", cwd=clone, env=environment())
    assert run("git", "diff", "--stat", cwd=clone, env=environment()).stdout == "", "run `make tree`"


def test_the_recording_is_small_and_ends_with_an_assistant_s_call() -> None:
    recording = (TEMPLATE / "docs" / "recording.svg").read_bytes()
    assert len(recording) < 300_000
    texts = [
        element.text or "" for element in ElementTree.fromstring(recording).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert "$ cookiecutter gh:your-org/cookiecutter-fastapi-mcp" in texts
    assert any(text.endswith('"isError":false}}') for text in texts)
    assert [text for text in texts if re.search(r"/(home|root|tmp|work)/", text)] == []


PAGES = sorted(path.relative_to(TEMPLATE).as_posix() for path in (*TEMPLATE.glob("*.md"), *TEMPLATE.glob("docs/*.md")))


@pytest.mark.parametrize("page", PAGES)
def test_no_link_within_the_template_is_broken(page: str) -> None:
    assert broken_links(TEMPLATE / page) == []


def test_every_guide_is_linked_from_the_readme() -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    assert [page for page in PAGES if page not in ("CHANGELOG.md", "README.md") and f"]({page})" not in readme] == []


def test_the_owner_is_replaced_by_the_commands_in_contributing(clone: Path) -> None:
    [block] = code_blocks(clone / "CONTRIBUTING.md", "Publish it", "sh")
    run("sh", "-ec", block, cwd=clone, env=environment())
    left = run("git", "grep", "-lE", "your-org/cookiecutter|@your-org", cwd=clone, env=environment()).stdout
    assert left.split() == ["CONTRIBUTING.md", "docs/recording.svg", "tests/test_template.py", "tests/updates.py"]


def test_the_readme_explains_every_question() -> None:
    rows = [line for line in (TEMPLATE / "README.md").read_text().splitlines() if line.startswith("| `")]
    asked = [question for question in QUESTIONS if not question.startswith("_")]
    assert [row.split("`")[1] for row in rows][: len(asked)] == asked
    for question, row in zip(asked, rows, strict=False):
        default = QUESTIONS[question]
        values = default if isinstance(default, list) else []
        assert all(f"`{value}`" in row for value in values)
