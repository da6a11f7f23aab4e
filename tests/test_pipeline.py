"""The rendered CI workflow, executed: each of its `run` steps as it stands, on machines with Docker engines of their own.

What only GitHub or the internet can do is not executed: the identity that signs, and the scanner's database. For the other
platform, which this machine cannot run, stands an image without a program.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests import actions, updates
from tests.combinations import Combination
from tests.conftest import Bake, reported
from tests.docker import Container, require_docker
from tests.github import PASSWORD, USER, GitHub, github, sh
from tests.sandbox import environment, run
from tests.test_workflows import EVENTS, PUBLISHED, jobs_that_run

REGISTRY = "localhost:5000/team"

STYLE = "Check style, types, whitespace and secrets"  # which test_run.py does for SQLite, and for uv
INSIDE = "Test inside the image"
# By event, the jobs and steps that are left out: what they do is done elsewhere, and each step is executed at least once.
RUNS: list[tuple[Combination, dict[str, list[str]]]] = [
    (
        Combination("sqlite", "uv"),
        {"pull request from a fork": [STYLE], "push to the default branch": ["check", INSIDE]},
    ),
    (Combination("postgres", "pip", gpu=True), {"tag": [INSIDE]}),
]

# The workflow runs the service's tests at home and in the image. That it runs them is what matters here: test_images.py runs
# all of them, in several processes.
KEPT = {"test_rest.py"}

OTHER_PLATFORM = """
printf 'FROM scratch\\nCOPY pyproject.toml /\\n' > /tmp/Dockerfile
docker buildx build --platform linux/arm64 --sbom=true --provenance=mode=max -f /tmp/Dockerfile -t $IMAGE .
make save ARCH=arm64
mkdir -p /github/artifacts/image-ARM64
mv $IMAGE.arm64.tar /github/artifacts/image-ARM64
"""


def commit(project: Path) -> str:
    """Make the project a repository with one commit, tagged as version 1.2.3."""
    author = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = environment(GIT_CONFIG_GLOBAL="/dev/null", **author)
    for command in ("init --quiet -b main", "add --all", "commit --quiet -m first", "tag v1.2.3"):
        run("git", *command.split(), cwd=project, env=env)
    return run("git", "rev-parse", "--short=7", "HEAD", cwd=project, env=env).stdout.strip()


def context(event: str) -> dict[str, Any]:
    """What the expressions of a run see; a pull request is one of the branch main here."""
    found = EVENTS[event].context()
    if event not in PUBLISHED:
        found["github"]["ref_name"] = "main"
    found["secrets"] = {"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": PASSWORD} if EVENTS[event].secret else {}
    return found


@pytest.mark.parametrize(("combination", "events"), RUNS, ids=[str(combination) for combination, _ in RUNS])
def test_each_event_checks_tests_and_publishes_what_it_should(
    combination: Combination, events: dict[str, list[str]], bake: Bake, tmp_path: Path
) -> None:
    require_docker()
    project = bake(**combination._asdict(), registry="localhost:5000/team")
    for file in (project / "tests").glob("test_*.py"):
        if file.name not in KEPT:
            file.unlink()
    updates.edit(project / "pyproject.toml", "--numprocesses=4", "--numprocesses=0")
    revision = commit(project)
    workflow = actions.load(project / ".github" / "workflows" / "ci.yml")
    images = ["task-service", *(["task-service-ml"] if combination.gpu else [])]
    with github(project, tmp_path) as hub:
        for number, (event, done) in enumerate(events.items()):
            printed: dict[str, str] = {}
            for job in jobs_that_run(workflow, EVENTS[event]):
                if job in done:
                    continue
                with reported(combination, f"{job} job of its CI workflow on a {event}"):
                    printed |= hub.run_job(workflow, job, context(event), done)
                if job == "image":
                    scan = "grype docker:{} --only-fixed --fail-on high --show-suppressed"
                    assert hub.calls() == [scan.format(image) for image in images]
                    add_other_platform(hub, workflow, event, images)
            tests = [output for step, output in printed.items() if step.startswith("Test")]
            assert bool(tests) is ("check" not in done)
            assert all(" passed" in output and re.search(r"^TOTAL .* \d+%$", output, re.MULTILINE) for output in tests)
            assert has_kept_packages(printed["Build"]) is (number > 0)
            if event in PUBLISHED:
                check_published(hub, [tag.format(commit=revision) for tag in PUBLISHED[event]], images)
            else:
                assert not (tmp_path / "artifacts").exists()


def has_kept_packages(log: str) -> bool:
    """Whether a build took the layers with the packages from the cache."""
    steps = re.findall(r"^#(\d+) \[(?:packages|builder) \d", log, re.MULTILINE)
    assert steps, log
    return all(f"\n#{step} CACHED" in log for step in steps)


def add_other_platform(hub: GitHub, workflow: actions.Workflow, event: str, images: list[str]) -> None:
    """Hand over what the other machine of the matrix would, if this one did."""
    if (hub.folder / "artifacts").exists():
        prepare = next(step["run"] for step in workflow["jobs"]["image"]["steps"] if "systemctl" in step.get("run", ""))
        env = actions.environment(context(event), workflow)
        with hub.machine() as machine:
            sh(machine, f"git clone --quiet file:///github/repository .\n{prepare}", env)
            for image in images:
                sh(machine, OTHER_PLATFORM, {**env, "IMAGE": image})


def check_published(hub: GitHub, tags: list[str], images: list[str]) -> None:
    """Pull each tag on a machine that has never seen the images, and look at what came with them."""
    with hub.machine() as machine:
        sh(machine, f"docker login --username {USER} --password-stdin localhost:5000 <<< {PASSWORD}")
        sh(machine, "git clone --quiet file:///github/repository .")
        names = [f"{REGISTRY}/{image}" for image in images]
        digests = [{inspect(machine, f"{name}:{tag}", "Manifest")["digest"] for tag in tags} for name in names]
        assert hub.calls() == [
            f"cosign sign --yes {name}@{digest}" for name, [digest] in zip(names, digests, strict=True)
        ]
        for name in names:
            for tag in tags:
                sh(machine, f"docker pull --quiet {name}:{tag}")
            if name.endswith("-ml"):
                script = f"docker run --rm --interactive --network none {name}:{tags[-1]} python - < tests/cuda.py"
                assert "sm_120: " in sh(machine, script)
            else:
                assert '"title":"Made over REST"' in sh(machine, f"sh tests/smoke.sh {name}:{tags[-1]}")
        check_attestations(machine, f"{names[0]}:{tags[0]}", {"fastapi", "gunicorn", "mcp"})
        for name in names[1:]:
            check_attestations(machine, f"{name}:{tags[0]}", {"celery", "cupy-cuda13x", "fastapi"})


def check_attestations(machine: Container, image: str, expected: set[str]) -> None:
    platforms = [manifest["platform"] for manifest in inspect(machine, image, "Manifest")["manifests"]]
    assert {(each["os"], each["architecture"]) for each in platforms} >= {("linux", "amd64"), ("linux", "arm64")}
    sbom, provenance = (inspect(machine, image, what) for what in ("SBOM", "Provenance"))
    assert sbom.keys() == provenance.keys() == {"linux/amd64", "linux/arm64"}
    packages = {package["name"].lower() for package in sbom["linux/amd64"]["SPDX"]["packages"]}
    assert expected <= packages
    assert "pytest" not in packages
    assert "python" in str(provenance["linux/amd64"]["SLSA"])


def inspect(machine: Container, image: str, what: str) -> dict[str, Any]:
    printed = sh(machine, f"docker buildx imagetools inspect --format '{{{{json .{what}}}}}' {image}")
    found: dict[str, Any] = json.loads(printed)
    return found
