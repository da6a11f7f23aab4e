"""The rendered CI workflow: linted for every combination, and evaluated for each registry and event.

`test_publish.py` runs its commands.
"""

import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import actions
from tests.combinations import COMBINATIONS, QUESTIONS, TEMPLATE
from tests.conftest import Bake
from tests.sandbox import SCRIPTS, environment, run

REGISTRIES = {
    "ghcr": "ghcr.io/your-org",
    "ecr": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/your-team",
    "dockerhub": "docker.io/your-name",
    "other": "registry.example.com:5000/your-team/tools",
}


class Event(NamedTuple):
    """What GitHub passes to a run: its trigger and the secrets that it may use."""

    name: str
    ref: str
    secret: bool = True
    fork: bool = False

    def context(self) -> dict[str, Any]:
        kind = "tag" if self.ref.startswith("refs/tags/") else "branch"
        github = {
            "actor": "ann",
            "event": {"repository": {"fork": self.fork}},
            "event_name": self.name,
            "ref": self.ref,
            "ref_name": re.sub("^refs/(heads|tags|pull)/", "", self.ref),
            "ref_type": kind,
            "token": "github-token",
            "workflow": "CI",
        }
        stored = {name: f"{name} as stored" for name in STORED} if self.secret else {}
        return {"github": github, "secrets": stored, "vars": stored}


STORED = ["AWS_ROLE", "DOCKERHUB_USERNAME", "DOCKERHUB_TOKEN", "REGISTRY_USERNAME", "REGISTRY_PASSWORD"]

EVENTS = {
    "pull request": Event("pull_request", "refs/pull/7/merge"),
    "pull request from a fork": Event("pull_request", "refs/pull/7/merge", secret=False),
    "push to the default branch": Event("push", "refs/heads/main"),
    "push to the default branch of a fork": Event("push", "refs/heads/main", secret=False, fork=True),
    "tag": Event("push", "refs/tags/v1.2.3"),
    "schedule": Event("schedule", "refs/heads/main"),
}
PUBLISHED = {
    "push to the default branch": ["sha-{commit}", "latest"],
    "schedule": ["sha-{commit}", "latest"],
    "tag": ["1.2.3", "1.2"],
}


@pytest.fixture(scope="module", params=REGISTRIES)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def project(bake: Bake, kind: str) -> Path:
    return bake(registry=REGISTRIES[kind])


@pytest.fixture(scope="module")
def workflow(project: Path) -> actions.Workflow:
    return actions.load(project / ".github" / "workflows" / "ci.yml")


def jobs_that_run(workflow: actions.Workflow, event: Event) -> dict[str, actions.Job]:
    """The jobs of a run in which nothing fails."""
    jobs: dict[str, actions.Job] = {}
    if actions.starts(workflow, event.name, event.ref):
        for name, job in workflow["jobs"].items():
            if set(job.get("needs", [])) <= set(jobs) and actions.condition(job.get("if", "'always'"), event.context()):
                jobs[name] = job
    return jobs


def uses(folder: Path) -> Iterator[tuple[str, str]]:
    """Each action used by workflows in a folder, and the rest of its line."""
    for file in (folder / ".github" / "workflows").glob("*.yml"):
        yield from re.findall(r"uses: *([^@\s]+)(.*)", file.read_text(encoding="utf-8"))


def distinct(files: Iterable[Path]) -> list[Path]:
    """One file of each content, which depends on only a few answers."""
    return sorted({file.read_bytes(): file for file in files}.values())


def test_linters_find_nothing(bake: Bake) -> None:
    projects = [bake(**combination._asdict()) for combination in COMBINATIONS]
    projects += [bake(registry=registry) for registry in REGISTRIES.values()]
    env = environment(GIT_CONFIG_GLOBAL="/dev/null", PATH=f"{SCRIPTS}:/usr/bin:/bin")  # actionlint calls shellcheck
    workflows = distinct(file for each in projects for file in each.glob(".github/workflows/*.yml"))
    updates = distinct(each / ".github" / "dependabot.yml" for each in projects)
    run("actionlint", *workflows, cwd=TEMPLATE, env=env)
    run("zizmor", "--offline", "--pedantic", "--quiet", *workflows, *updates, cwd=TEMPLATE, env=env)
    for schema, files in (("github-workflows", workflows), ("dependabot", updates)):
        run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files, cwd=TEMPLATE, env=env)


@pytest.mark.parametrize("event", EVENTS)
def test_only_the_default_branch_and_version_tags_are_published(event: str, workflow: actions.Workflow) -> None:
    jobs = jobs_that_run(workflow, EVENTS[event])
    assert list(jobs) == ["check", "image", *(["publish"] if event in PUBLISHED else [])]


@pytest.mark.parametrize("ref", ["heads/feature", "heads/v1.2.3", "tags/latest", "tags/v1.2", "tags/v1.2.3-rc.1"])
def test_a_push_of_anything_else_starts_nothing(ref: str, workflow: actions.Workflow) -> None:
    assert jobs_that_run(workflow, Event("push", f"refs/{ref}")) == {}


@pytest.mark.parametrize("event", PUBLISHED)
def test_tags_match_the_event(event: str, bake: Bake, tmp_path: Path) -> None:
    project = shutil.copytree(bake(registry=REGISTRIES["other"]), tmp_path / "project")
    workflow = actions.load(project / ".github" / "workflows" / "ci.yml")
    git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@example.com"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "first"]):
        run(*git, *command, cwd=project, env=environment(GIT_CONFIG_GLOBAL="/dev/null"))
    commit = run(*git, "rev-parse", "HEAD", cwd=project, env=environment()).stdout[:7]
    env = actions.environment(EVENTS[event].context(), workflow)
    rule = ("--eval", "print-names: ; @echo $(TAGS:%=$(REMOTE_IMAGE):%)", "print-names")
    names = run("make", "--silent", *rule, cwd=project, env=environment(**env)).stdout.split()
    assert names == [f"{REGISTRIES['other']}/task-service:{tag.format(commit=commit)}" for tag in PUBLISHED[event]]


FAKE_DOCKER = """#!/bin/sh
case "$1" in
    version) echo amd64 ;;
    save) touch "$3"; echo "$@" ;;
    *) echo "$@" ;;
esac
"""


@pytest.mark.parametrize(("worker", "suffix"), [("", ""), ("worker-", "-ml")])
def test_one_command_saves_and_pushes_this_machine_s_image(
    worker: str, suffix: str, bake: Bake, tmp_path: Path
) -> None:
    project = shutil.copytree(bake(registry=REGISTRIES["other"], gpu=True), tmp_path / "project")
    (tmp_path / "docker").write_text(FAKE_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    env = environment(PATH=f"{tmp_path}:/usr/bin:/bin")
    tasks = [f"{worker}save", f"{worker}push"]
    called = run("make", "--silent", *tasks, "VERSION=v1.2.3", cwd=project, env=env).stdout.splitlines()
    image = f"task-service{suffix}"
    name = f"{REGISTRIES['other']}/{image}"
    assert called == [
        f"tag {image} {name}:1.2.3-amd64",
        f"save --output {image}.amd64.tar {name}:1.2.3-amd64",
        f"load --input {image}.amd64.tar",
        f"push {name}:1.2.3-amd64",
        f"buildx imagetools create --tag {name}:1.2.3 --tag {name}:1.2 {name}:1.2.3-amd64",
    ]


def test_cached_layers_are_read_or_saved(bake: Bake, tmp_path: Path) -> None:
    project = bake()
    [folder] = actions.load(project / ".github" / "workflows" / "ci.yml")["jobs"]["image"]["env"]
    (tmp_path / "docker").write_text(FAKE_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    command = ["make", "--silent", "image", f"{folder}={tmp_path}/layers"]
    env = environment(PATH=f"{tmp_path}:/usr/bin:/bin")
    cold = run(*command, cwd=project, env=env).stdout
    (tmp_path / "layers" / "image").mkdir(parents=True)
    warm = run(*command, cwd=project, env=env).stdout
    assert re.findall("--cache-[a-z]+", cold + warm) == ["--cache-to", "--cache-from"]


def test_published_images_have_sbom_and_provenance(bake: Bake) -> None:
    jobs = actions.load(bake(gpu=True) / ".github" / "workflows" / "ci.yml")["jobs"]
    builds = [
        step["run"] for step in jobs["image"]["steps"] if re.match(r"make (worker-)?image\b(?!-)", step.get("run", ""))
    ]
    assert len(builds) == 2
    assert all("--sbom=true" in build and "--provenance=mode=max" in build for build in builds)
    for job in ("image", "publish"):  # without it, the engine keeps neither
        assert any("containerd-snapshotter" in step.get("run", "") for step in jobs[job]["steps"])


LOGINS = {
    "ghcr": {"registry": "ghcr.io", "username": "ann", "password": "github-token"},
    "ecr": {"registry": "123456789012.dkr.ecr.eu-central-1.amazonaws.com"},
    "dockerhub": {
        "registry": "docker.io",
        "username": "DOCKERHUB_USERNAME as stored",
        "password": "DOCKERHUB_TOKEN as stored",
    },
    "other": {
        "registry": "registry.example.com:5000",
        "username": "REGISTRY_USERNAME as stored",
        "password": "REGISTRY_PASSWORD as stored",
    },
}


def evaluated_inputs(job: actions.Job, action: str, event: Event) -> list[dict[str, str]]:
    return [
        actions.evaluated(step["with"], event.context())
        for step in job["steps"]
        if step.get("uses", "").startswith(f"{action}@")
    ]


@pytest.mark.parametrize("event", PUBLISHED)
def test_the_login_matches_the_registry(event: str, kind: str, workflow: actions.Workflow) -> None:
    publish = workflow["jobs"]["publish"]
    assert evaluated_inputs(publish, "docker/login-action", EVENTS[event]) == [LOGINS[kind]]


def test_the_pages_list_exactly_what_the_login_needs(project: Path, kind: str) -> None:
    workflow = (project / ".github" / "workflows" / "ci.yml").read_text()
    readme = (project / "docs" / "publish.md").read_text()
    needed = set(re.findall(r"(?:secrets|vars)\.(\w+)", workflow))
    assert {name for name in STORED if f"`{name}`" in readme} == needed
    assert bool(needed) is (kind != "ghcr")


@pytest.mark.parametrize(
    ("host", "role", "region"),
    [
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", "arn:aws:iam::123456789012:role/", "eu-central-1"),
        ("210987654321.dkr.ecr.us-gov-west-1.amazonaws.com", "arn:aws-us-gov:iam::210987654321:role/", "us-gov-west-1"),
    ],
)
def test_the_ecr_host_determines_role_and_region(host: str, role: str, region: str, bake: Bake) -> None:
    workflow = actions.load(bake(registry=f"{host}/team") / ".github" / "workflows" / "ci.yml")
    inputs = evaluated_inputs(workflow["jobs"]["publish"], "aws-actions/configure-aws-credentials", EVENTS["tag"])
    assert inputs == [{"role-to-assume": f"{role}AWS_ROLE as stored", "aws-region": region}]


@pytest.mark.parametrize("event", [event for event in EVENTS if event not in PUBLISHED])
def test_jobs_that_do_not_publish_use_no_secrets_and_can_only_read(event: str, workflow: actions.Workflow) -> None:
    assert workflow["permissions"] == {}
    for job in jobs_that_run(workflow, EVENTS[event]).values():
        assert job["permissions"] == {"contents": "read"}
        assert not re.search(r"(secrets|vars)\.|github\.token", str(job))


def test_jobs_that_publish_have_minimal_permissions(kind: str, workflow: actions.Workflow) -> None:
    packages = {"packages": "write"} if kind == "ghcr" else {}
    assert workflow["jobs"]["publish"]["permissions"] == {"contents": "read", "id-token": "write", **packages}


@pytest.mark.parametrize(("gpu", "prefixes"), [(False, [""]), (True, ["", "worker-"])])
def test_an_image_is_tested_tried_and_scanned_before_it_is_uploaded(gpu: bool, prefixes: list[str], bake: Bake) -> None:
    workflow = actions.load(bake(gpu=gpu) / ".github" / "workflows" / "ci.yml")
    steps = workflow["jobs"]["image"]["steps"]
    commands = [step["run"].split() for step in steps if step.get("run", "").startswith("make ")]
    tasks = [task for _, *tasks in commands for task in tasks]
    for prefix in prefixes:
        made, saved = tasks.index(f"{prefix}image"), tasks.index(f"{prefix}save")
        assert {f"{prefix}smoke", f"{prefix}scan"} < set(tasks[made:saved])
    assert tasks.index("image-test") < tasks.index("save")
    assert steps[-1]["uses"].startswith("actions/upload-artifact@")
    assert workflow["jobs"]["publish"]["needs"] == ["check", "image"]


def test_each_platform_is_built_without_emulation(workflow: actions.Workflow) -> None:
    runners = workflow["jobs"]["image"]["strategy"]["matrix"]["runner"]
    assert {runner.endswith("-arm") for runner in runners} == {True, False}
    assert "qemu" not in str(workflow)


def test_a_newer_push_cancels_only_runs_of_pull_requests(workflow: actions.Workflow) -> None:
    cancels = workflow["concurrency"]["cancel-in-progress"]
    ended = [name for name, event in EVENTS.items() if actions.evaluate(cancels, event.context())]
    assert ended == ["pull request", "pull request from a fork"]
    groups = {actions.evaluate(workflow["concurrency"]["group"], event.context()) for event in EVENTS.values()}
    assert groups == {"CI-refs/pull/7/merge", "CI-refs/heads/main", "CI-refs/tags/v1.2.3"}


def test_every_job_has_a_time_limit(workflow: actions.Workflow) -> None:
    assert all(0 < int(job["timeout-minutes"]) <= 30 for job in workflow["jobs"].values())


@pytest.mark.parametrize(("manager", "count"), [("uv", 1), ("pip", 2), ("venv", 2)])
def test_a_release_uses_no_cache(manager: str, count: int, bake: Bake) -> None:
    workflow = actions.load(bake(package_manager=manager) / ".github" / "workflows" / "ci.yml")
    caches = [
        inputs["lookup-only"]
        for job in workflow["jobs"].values()
        for inputs in evaluated_inputs(job, "actions/cache", EVENTS["tag"])
    ]
    assert caches == ["true"] * count


def test_every_action_is_pinned_to_the_commit_of_one_release(bake: Bake) -> None:
    bakes = [bake(package_manager=manager, registry=registry) for manager, registry in ALL_ACTIONS]
    pins: dict[str, set[str]] = {}
    for folder in (TEMPLATE, *bakes):
        for action, pin in uses(folder):
            if action.startswith("$/"):  # in the same commit
                continue
            assert re.fullmatch(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+", pin), f"{action}{pin}"
            pins.setdefault("/".join(action.split("/")[:2]), set()).add(pin)
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


ALL_ACTIONS = [*product(QUESTIONS["package_manager"], ["ghcr.io/your-org"]), *product(["uv"], REGISTRIES.values())]
