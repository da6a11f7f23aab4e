"""The worker in containers: its CUDA image, on machines without a GPU, and in the production stack."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.combinations import POSTGRES_PIP_GPU, SQLITE_UV_GPU, Combination
from tests.conftest import Bake, only
from tests.docker import HARDENED, PREFIX, call, docker
from tests.rendered import ADD_MANY_TASKS, CUDA_CHECK, FIND_DEVICE
from tests.sandbox import environment, free_port, run, wait_until
from tests.test_compose import Stack, fill_in, stack, url

pytestmark = pytest.mark.docker

# CUDA is installed by uv or by pip, also with `venv`, and in the same way for both databases.
RUN_FOR = [SQLITE_UV_GPU, POSTGRES_PIP_GPU]
once = only(SQLITE_UV_GPU)

SIZE_LIMIT = 1_300_000_000
"""Bytes written by `docker export`."""
ALONE = ["--rm", "--network=none", *HARDENED]
ARCHITECTURES = ["75", "80", "86", "89", "90", "100", "120"]


class Images(NamedTuple):
    folder: Path
    service: str
    worker: str


def build(folder: Path, *arguments: str, status: int = 0) -> str:
    """Build an image and return the output."""
    command = ["docker", "build", "--progress=plain", *arguments, "."]
    return run(*command, cwd=folder, env=environment(), status=status, timeout=900).stderr


@pytest.fixture(scope="module")
def images(bake: Bake, combination: Combination) -> Iterator[Images]:
    """Both images, under the names in the Compose files."""
    registry = f"registry.invalid/{PREFIX}/{combination}"
    folder = bake(**combination._asdict(), registry=registry)  # with other ports, layers of a gigabyte would differ
    names = [service["image"].partition(":")[0] for service in (production_of(folder), worker_on_a_gpu(folder))]
    images = Images(folder, *(f"{name}:one" for name in names))
    printed = build(folder, f"--tag={images.service}")
    assert "[builder " in printed
    assert "[cuda " not in printed, "a build without GPU downloaded CUDA"
    build(folder, "--build-arg=ENABLE_GPU=true", f"--tag={images.worker}")
    yield images
    docker("rmi", images.service, images.worker)


def production_of(folder: Path) -> Any:
    return yaml.safe_load((folder / "compose.prod.yaml").read_text())["x-service"]


def worker_on_a_gpu(folder: Path) -> Any:
    return yaml.safe_load((folder / "compose.gpu.yaml").read_text())["services"]["worker"]


def config(image: str) -> Any:
    return json.loads(docker("image", "inspect", image))[0]


@once
def test_a_change_of_the_code_changes_only_the_last_two_layers(images: Images, tmp_path: Path) -> None:
    """Not those below with CUDA and other packages, a gigabyte that each push and pull would transfer."""
    folder = shutil.copytree(images.folder, tmp_path / "changed")
    with (folder / "app" / "worker.py").open("a") as code:
        code.write("# A change.\n")
    changed = docker("build", "--quiet", "--build-arg=ENABLE_GPU=true", folder, timeout=300)
    try:
        before, after = (config(image)["RootFS"]["Layers"] for image in (images.worker, changed))
    finally:
        docker("rmi", changed)
    assert after[:-2] == before[:-2]
    assert after[-1] != before[-1]


@once
def test_its_size_is_within_the_limit(images: Images) -> None:
    created = docker("create", images.worker)
    try:
        counted = run("sh", "-c", f"docker export {created} | wc -c", cwd=images.folder, env=environment()).stdout
    finally:
        docker("rm", "--volumes", created)
    assert int(counted) <= SIZE_LIMIT


@once
def test_the_service_s_image_has_no_cuda(images: Images) -> None:
    find = "import importlib.util as u; print([n for n in ('celery', 'cuda', 'cupy', 'nvidia') if u.find_spec(n)])"
    assert docker("run", *ALONE, images.service, "python", "-c", find) == "['celery']"
    assert "NVIDIA" not in json.dumps(config(images.service)["Config"])


@once
@pytest.mark.parametrize("value", ["ture", "yes", "True", ""])
def test_an_invalid_argument_ends_the_build_with_the_allowed_values(images: Images, value: str) -> None:
    printed = build(images.folder, f"--build-arg=ENABLE_GPU={value}", status=1)
    assert "ENABLE_GPU must be true or false" in printed


def test_kernels_compile_for_every_architecture(images: Images) -> None:
    script = (images.folder / CUDA_CHECK).read_text()
    printed = docker("run", *ALONE, "--user=12345:0", "--interactive", images.worker, "python", "-", stdin=script)
    assert re.findall(r"^sm_(\d+): [1-9]\d* bytes$", printed, re.MULTILINE) == ARCHITECTURES


DEVELOPMENT = ["--env=ENVIRONMENT=development", "--env=DATABASE_URL="]


@once
def test_a_worker_that_requires_a_gpu_ends_without_one_and_says_what_to_check(images: Images) -> None:
    command = ["docker", "run", *ALONE, *DEVELOPMENT, "--env=DEVICE=cuda", images.worker]
    printed = run(*command, cwd=images.folder, env=environment(), status=1).stderr
    assert "DEVICE=cuda, but no CUDA device can be used" in printed
    assert "NVIDIA_VISIBLE_DEVICES" in printed


@once
def test_by_default_it_uses_the_cpu_if_there_is_no_gpu(images: Images) -> None:
    assert docker("run", *ALONE, *DEVELOPMENT, images.worker, *FIND_DEVICE) == "cpu"


@pytest.fixture(scope="module")
def production(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The production stack, with the worker's image on the CPU."""
    override = tmp_path_factory.mktemp("compose") / "compose.cpu.yaml"
    override.write_text(f"services: {{worker: {{image: {images.worker}}}}}\n")
    publish = {"PUBLISH_API": str(free_port()), "PUBLISH_MCP": str(free_port())}
    with stack(images.folder, images.folder / "compose.prod.yaml", override, TAG="one", **publish) as made:
        fill_in(images.folder)
        made.compose("up", "--detach", "--wait")
        yield made


def submit(rest: str, key: str) -> str:
    """Submit a job and return its URL."""
    accepted = call(f"{rest}/duplicates", key=key, data={})
    assert accepted.status == 202, accepted
    return f"{rest}/jobs/{accepted.body['id']}"


def wait_for(stack: Stack, job: str, key: str, state: str) -> None:
    wait_until(
        lambda: call(job, key=key).body["state"] == state,
        timeout=60,
        what=lambda: f"{call(job, key=key).body}: {stack.compose('logs', 'worker')}",
    )


@only(POSTGRES_PIP_GPU)
def test_the_stack_runs_jobs_and_a_stopped_worker_releases_its_job(production: Stack) -> None:
    rest = url(production)
    key = production.issue_key("jobs")
    for _ in range(2):
        assert call(f"{rest}/tasks", key=key, data={"title": "Fix the login bug"}).status == 201
    job = submit(rest, key)
    wait_for(production, job, key, "succeeded")
    [pair] = call(job.replace("/jobs/", "/duplicates/"), key=key).body["items"]
    assert pair["similarity"] == 1

    production.compose("exec", "-T", "api", "python", "-c", ADD_MANY_TASKS)
    job = submit(rest, key)
    wait_for(production, job, key, "running")
    [worker] = production.containers("worker")
    worker.exec("sh", "-c", worker.inspect()["Config"]["Healthcheck"]["Test"][1])
    production.compose("stop", "worker")
    assert worker.inspect()["State"]["ExitCode"] == 0
    left = call(job, key=key).body
    assert (left["state"], left["attempts"]) == ("queued", 0)
    production.compose("start", "worker")
    wait_for(production, job, key, "running")


@once
def test_development_has_a_worker_as_well(images: Images, tmp_path: Path) -> None:
    override = tmp_path / "compose.ports.yaml"
    override.write_text('services: {api: {ports: !override ["127.0.0.1::8000"]}}\n')
    with stack(images.folder, images.folder / "compose.yaml", override) as dev:
        dev.compose("up", "--build", "--detach", "--wait")
        key = dev.issue_key("developer")
        job = submit(f"http://{dev.compose('port', 'api', '8000').strip()}", key)
        wait_for(dev, job, key, "succeeded")
        for service in ("worker", "valkey"):
            [found] = dev.containers(service)
            assert not found.inspect()["HostConfig"]["PortBindings"], service
