"""The template's own workflows: they are linted, complete, and executed with a folder that stands in for GitHub."""

import re
import shutil
from pathlib import Path

import pytest

from tests import actions
from tests.combinations import TEMPLATE
from tests.sandbox import SCRIPTS, environment, run

WORKFLOWS = TEMPLATE / ".github" / "workflows"
VERSIONS = ["v1.0.0", "v9.9.9", "v99.0.1", "v99.1.0-rc.1"]
NEWEST = "v99.0.1"

# Stands in for GitHub's command line: a branch has at most one pull request.
GH = """#!/bin/sh
echo "$*" >> "$RUNNER_TEMP/calls"
case "$*" in "pr create"*) [ ! -e "$RUNNER_TEMP/request" ] && touch "$RUNNER_TEMP/request" ;; esac
"""


@pytest.fixture
def clone(template_clone: Path, tmp_path: Path) -> Path:
    """A clone that pushes to a folder, and has what `make` would install."""
    folder = tmp_path / "clone"
    run("git", "clone", "--quiet", "--bare", template_clone, "origin", cwd=tmp_path, env=environment())
    run("git", "clone", "--quiet", "origin", folder, cwd=tmp_path, env=environment())
    (folder / ".venv").mkdir()
    for name in ("bin", "lib"):
        (folder / ".venv" / name).symlink_to(SCRIPTS.parent / name)
    shutil.copy(SCRIPTS.parent / "pyvenv.cfg", folder / ".venv")
    (folder / ".venv" / "requirements-dev").touch()
    return folder


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A runner's environment in which github.com is a folder, and every action has the releases `VERSIONS`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gh").write_text(GH)
    (tmp_path / "bin" / "gh").chmod(0o755)
    author = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = environment(
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_GLOBAL="/dev/null",
        GIT_CONFIG_KEY_0=f"url.{tmp_path}/github/.insteadOf",
        GIT_CONFIG_VALUE_0="https://github.com/",
        PATH=f"{tmp_path}/bin:/usr/bin:/bin",
        RUNNER_TEMP=str(tmp_path),
        **author,
    )
    for action in {action for _, action, _ in pins(TEMPLATE)}:
        folder = tmp_path / "github" / action
        run("git", "init", "--quiet", folder, cwd=tmp_path, env=env)
        for version in VERSIONS:
            run("git", "commit", "--quiet", "--allow-empty", "--message", version, cwd=folder, env=env)
            run("git", "tag", "--annotate", "--message", version, version, cwd=folder, env=env)
    return env


def pins(template: Path) -> list[tuple[str, str, str]]:
    """All pinned actions: file, repository, commit and release."""
    files = [file for file in template.rglob("*.yml") if "workflows" in file.parts or "templates" in file.parts]
    found = r"uses: *([\w.-]+/[\w.-]+)[\w./-]*@([0-9a-f]{40} # v[\d.]+)\n"
    return [(str(file), *pin) for file in files for pin in re.findall(found, file.read_text(encoding="utf-8"))]


def run_job(workflow: str, job: str, clone: Path, env: dict[str, str], ref_name: str = "main", **matrix: str) -> None:
    """Execute the `run` steps of a job."""
    context = {"github": {"ref_name": ref_name, "token": "token"}, "matrix": matrix}
    for script, changes in actions.scripts(actions.load(clone / ".github" / "workflows" / workflow), job, context):
        run("bash", "-e", "-c", script, cwd=clone, env={**env, **changes}, timeout=600)


def test_linters_find_nothing() -> None:
    env = environment(PATH=f"{SCRIPTS}:/usr/bin:/bin")
    files = sorted(WORKFLOWS.glob("*.yml"))
    run("actionlint", *files, cwd=TEMPLATE, env=env)
    run("zizmor", "--offline", "--pedantic", "--quiet", ".github", cwd=TEMPLATE, env=env)
    forms = TEMPLATE / ".github" / "ISSUE_TEMPLATE"
    schemas = {
        "github-workflows": files,
        "github-issue-forms": [forms / "bug.yml", forms / "idea.yml"],
        "github-issue-config": [forms / "config.yml"],
    }
    for schema, checked in schemas.items():
        run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *checked, cwd=TEMPLATE, env=env)


def test_every_slow_test_is_in_exactly_one_job() -> None:
    """Selected by its file and mostly also by the database in its name. `make test` runs all others."""
    command = ["--collect-only", "--quiet", "--numprocesses=0", "-m", "slow or docker or alone"]
    listed = run(SCRIPTS / "pytest", *command, cwd=TEMPLATE, env=environment()).stdout
    matrix = actions.load(WORKFLOWS / "tests.yml")["jobs"]["all"]["strategy"]["matrix"]
    tests = re.findall("^(tests/.*)::(.*)$", listed, re.MULTILINE)
    for_both = {each["file"] for each in matrix["include"]}
    assert {file for file, _ in tests} == {*matrix["file"], *for_both}
    for file, name in tests:
        assert file in for_both or sum(database in name for database in matrix["database"]) == 1, name


def test_actions_are_pinned_to_the_commit_of_their_newest_release(
    clone: Path, env: dict[str, str], tmp_path: Path
) -> None:
    before = pins(clone)
    run(".venv/bin/python", "scripts/refresh_actions.py", cwd=clone, env=env)
    for (file, action, _), (_, _, pin) in zip(before, pins(clone), strict=True):
        commit = run("git", "rev-list", "-1", NEWEST, cwd=tmp_path / "github" / action, env=env).stdout.strip()
        assert pin == f"{commit} # {NEWEST}", file
    changed = run("git", "diff", "--unified=0", cwd=clone, env=env).stdout
    assert all("uses: " in line for line in re.findall("^[+-][^+-].*", changed, re.MULTILINE))


@pytest.mark.nightly
def test_newer_versions_are_proposed_weekly_and_tested(clone: Path, env: dict[str, str], tmp_path: Path) -> None:
    run_job("refresh.yml", "refresh", clone, env)
    body = (tmp_path / "changes.md").read_text()
    assert body.startswith("What changes in rendered projects")
    assert "+        uses: actions/checkout@" in body
    assert f" # {NEWEST}" in body
    assert "--hash=" not in body
    assert len(body) < 65536
    pushed = run("git", "show", "--stat", "refresh", cwd=tmp_path / "origin", env=env).stdout
    assert "github-actions[bot]" in pushed
    assert ".github/workflows/tests.yml" in pushed

    calls = tmp_path / "calls"
    assert re.findall("^(pr create|pr edit|workflow run tests.yml --ref refresh)", calls.read_text(), re.MULTILINE) == [
        "pr create",
        "workflow run tests.yml --ref refresh",
    ]


def test_without_newer_versions_nothing_is_proposed(clone: Path, env: dict[str, str], tmp_path: Path) -> None:
    workflow = actions.load(clone / ".github" / "workflows" / "refresh.yml")
    [_, (propose, changes)] = actions.scripts(workflow, "refresh", {"github": {}})
    run("bash", "-e", "-c", propose, cwd=clone, env={**env, **changes})
    assert not (tmp_path / "calls").exists()


def test_a_second_proposal_replaces_the_first(clone: Path, env: dict[str, str], tmp_path: Path) -> None:
    workflow = actions.load(clone / ".github" / "workflows" / "refresh.yml")
    [_, (propose, changes)] = actions.scripts(workflow, "refresh", {"github": {}})
    for week in ("first", "second"):
        run("git", "clone", "--quiet", "origin", week, cwd=tmp_path, env=env)
        (tmp_path / week / "LICENSE").write_text(week)
        run("bash", "-e", "-c", propose, cwd=tmp_path / week, env={**env, **changes})
        assert run("git", "show", "refresh:LICENSE", cwd=tmp_path / "origin", env=env).stdout == week
    requests = re.findall("^pr (create|edit)", (tmp_path / "calls").read_text(), re.MULTILINE)
    assert requests == ["create", "create", "edit"]


CHANGELOG = """# Changelog

## Unreleased

- This. Upgrading: nothing.

## 1.2.2

- Older.
"""


def prepare(clone: Path, env: dict[str, str], version: str, status: int = 0) -> str:
    return run("make", "--silent", "release", f"VERSION={version}", cwd=clone, env=env, status=status).stderr


def test_a_release_has_the_notes_of_its_version(clone: Path, env: dict[str, str], tmp_path: Path) -> None:
    (clone / "CHANGELOG.md").write_text(CHANGELOG)
    prepare(clone, env, "v1.2.3")
    run("git", "commit", "--quiet", "--all", "--message", "1.2.3", cwd=clone, env=env)
    run_job("release.yml", "release", clone, env, ref_name="v1.2.3")
    assert (tmp_path / "notes.md").read_text().strip() == "- This. Upgrading: nothing."
    expected = f"release create v1.2.3 --verify-tag --title v1.2.3 --notes-file {tmp_path}/notes.md\n"
    assert (tmp_path / "calls").read_text() == expected


def test_preparing_a_release_numbers_the_notes_and_records_the_questions(clone: Path, env: dict[str, str]) -> None:
    (clone / "CHANGELOG.md").write_text(CHANGELOG)
    questions = (clone / "cookiecutter.json").read_text().replace('"gpu": false,', '"gpu": false,\n  "another": true,')
    (clone / "cookiecutter.json").write_text(questions)
    prepare(clone, env, "v1.2.3")
    assert "## Unreleased\n\n## 1.2.3\n\n- This." in (clone / "CHANGELOG.md").read_text()
    assert 'version = "1.2.3"' in (clone / "pyproject.toml").read_text()
    assert (clone / "tests" / "released.json").read_text() == questions


@pytest.mark.parametrize("unprepared", ["CHANGELOG.md", "pyproject.toml", "tests/released.json"])
def test_an_unprepared_release_is_rejected(unprepared: str, clone: Path, env: dict[str, str], tmp_path: Path) -> None:
    before = (clone / unprepared).read_text()
    (clone / "CHANGELOG.md").write_text(CHANGELOG)
    (clone / "cookiecutter.json").write_text((clone / "cookiecutter.json").read_text().replace("8000", "8001"))
    prepare(clone, env, "v1.2.3")
    (clone / unprepared).write_text(before)
    run("git", "commit", "--quiet", "--all", "--message", "1.2.3", cwd=clone, env=env)
    with pytest.raises(AssertionError, match=r"exit status [12]"):
        run_job("release.yml", "release", clone, env, ref_name="v1.2.3")
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("version", "changelog", "reason"),
    [
        ("v1.2", CHANGELOG, "is not a version such as v1.2.3"),
        ("v0.0.9", CHANGELOG, "that follows 0.1.0"),
        ("v1.2.3", CHANGELOG.replace("Upgrading", "Well"), "does not say what 1.2.3 asks of those who update"),
    ],
)
def test_a_release_is_rejected_if_it_goes_back_or_has_no_notes(
    version: str, changelog: str, reason: str, clone: Path, env: dict[str, str]
) -> None:
    (clone / "CHANGELOG.md").write_text(changelog)
    assert reason in prepare(clone, env, version, status=2)
    assert run("git", "diff", "--name-only", cwd=clone, env=env).stdout == "CHANGELOG.md\n"


def test_a_version_without_notes_is_not_released(clone: Path, env: dict[str, str], tmp_path: Path) -> None:
    (clone / "CHANGELOG.md").write_text(CHANGELOG)
    run("make", "--silent", "notes", "VERSION=v1.2", cwd=clone, env=env, status=2)


def test_only_version_tags_are_released_and_only_after_the_tests() -> None:
    release = actions.load(WORKFLOWS / "release.yml")
    assert actions.starts(release, "push", "refs/tags/v1.2.3")
    assert not actions.starts(release, "push", "refs/heads/main")
    assert not actions.starts(release, "push", "refs/tags/v1.2.3-rc.1")
    assert release["jobs"]["release"]["needs"] == "tests"
    assert release["jobs"]["tests"]["uses"] == "$/.github/workflows/tests.yml"


def test_a_release_commits_examples_on_top_of_the_previous_version(
    clone: Path, env: dict[str, str], tmp_path: Path
) -> None:
    (clone / ".venv" / "requirements").touch()
    run("git", "init", "--quiet", "--bare", "github/your-org/template", cwd=tmp_path, env=env)
    env |= {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "your-org/template"}
    examples = actions.load(WORKFLOWS / "release.yml")["jobs"]["example"]["strategy"]["matrix"]["include"]
    for version in ("v1.2.3", "v1.2.4"):
        for example in examples:
            run_job("release.yml", "example", clone, env, version, **example)
            shutil.rmtree(tmp_path / "task-service")
    served = tmp_path / "github" / "your-org" / "template"
    for example in examples:
        log = run("git", "log", "--format=%s", example["branch"], cwd=served, env=env).stdout
        assert log.split() == ["v1.2.4", "v1.2.3"]
        names = run("git", "ls-tree", "-r", "--name-only", example["branch"], cwd=served, env=env).stdout.splitlines()
        assert ("app/worker.py" in names, "dev/postgres.py" in names) == ("gpu" in example["branch"],) * 2
        assert "Makefile" in names
        assert f"tree/{example['branch']})" in (TEMPLATE / "README.md").read_text()
