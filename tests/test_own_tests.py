"""A project's own tests, in the image's stage for them.

Package managers install the same packages, so a few combinations are enough.
"""

import json
import re
from pathlib import Path

import pytest

from tests.combinations import POSTGRES_PIP_GPU, SQLITE_UV, SQLITE_VENV, Combination
from tests.conftest import Bake, only
from tests.docker import HARDENED, build, call, container, docker

pytestmark = pytest.mark.docker

QUICK = ["-m", "not slow"]
SLOW = ["-m", "slow"]
"""The tests with deadlines."""
NEWER_PYTHON = "--build-arg=PYTHON_VERSION=3.13"


def run_tests_inside(image: str, *options: str) -> None:
    """Run tests without coverage, which takes time, and with files in memory, because builds keep the disk busy."""
    command: list[str] = json.loads(docker("image", "inspect", "--format={{json .Config.Cmd}}", image))
    command.remove("--cov")
    printed = docker("run", "--rm", "--tmpfs=/tmp:exec", image, *command, *options, timeout=1200)
    skipped = re.findall(r"^SKIPPED \[1\] \S+ (.*)", printed, re.MULTILINE)
    assert " passed" in printed
    assert [reason for reason in skipped if "pgbouncer" not in reason] == []  # test_run.py runs that test


@only(POSTGRES_PIP_GPU)
def test_quick_tests_pass_on_postgresql_with_jobs(bake: Bake, combination: Combination) -> None:
    run_tests_inside(build(bake(**combination._asdict()), "ci"), "-m", "not slow and not gpu")


@pytest.mark.alone
@only(POSTGRES_PIP_GPU)
def test_slow_tests_pass_on_postgresql_with_jobs(bake: Bake, combination: Combination) -> None:
    run_tests_inside(build(bake(**combination._asdict()), "ci"), "-m", "slow and not gpu")


@only(SQLITE_VENV)
def test_quick_tests_pass_on_a_newer_python(bake: Bake, combination: Combination) -> None:
    run_tests_inside(build(bake(**combination._asdict()), "ci", NEWER_PYTHON), *QUICK)


@pytest.mark.alone
@only(SQLITE_VENV)
def test_slow_tests_pass_on_a_newer_python(bake: Bake, combination: Combination) -> None:
    run_tests_inside(build(bake(**combination._asdict()), "ci", NEWER_PYTHON), *SLOW)


@only(SQLITE_UV)
def test_quick_tests_pass_after_changes_and_an_update(updated: Path) -> None:
    run_tests_inside(build(updated, "ci"), *QUICK)


@only(SQLITE_UV)
def test_an_updated_project_serves_its_own_route(updated: Path) -> None:
    with container(*HARDENED, "--publish=127.0.0.1::8000", build(updated, "production")) as started:
        started.wait_for_health()
        key = started.issue_key()
        task = call(f"{started.url()}/tasks", key=key, data={"title": "New"}).body
        assert call(f"{started.url()}/tasks/{task['id']}/again", key=key).body == task
