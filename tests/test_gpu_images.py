"""The worker in containers: its CUDA image, on machines without a GPU, and its part of the production stack."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.combinations import AS_IMAGES, TESTED_INSIDE, WITH_GPU, Combination
from tests.conftest import Bake, only, reported
from tests.docker import HARDENED, PREFIX, call, docker, require_docker
from tests.docker import build as build_stage
from tests.sandbox import environment, free_port, run, wait_until
from tests.test_compose import Stack, fill_in, ports, stack, url
from tests.test_images import run_tests_inside

RUN_FOR = WITH_GPU

# What does not differ by package manager.
for_each_database = only(*WITH_GPU[:2])

SIZE_LIMIT = 1_300_000_000
"""Bytes, as `docker export` writes them."""
ALONE = ["--rm", "--network=none", *HARDENED]
ARCHITECTURES = ["75", "80", "86", "89", "90", "100", "120"]

# More than a second of work on any machine.
MANY_TASKS = """
import asyncio
from sqlalchemy import text
from app.database import Database
from app.settings import load_settings

async def main():
    async with Database(load_settings().database_url.get_secret_value(), pool_size=1).write() as session:
        await session.execute(text('''
            WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 60000)
            INSERT INTO tasks (title, status, priority, created_at, updated_at)
            SELECT 'Task ' || (n * 7919) || ' of ' || (n * 10477), 'todo', 'low', '2030-01-01', '2030-01-01' FROM numbers
        '''))

asyncio.run(main())
"""


class Images(NamedTuple):
    folder: Path
    service: str
    worker: str


def build(folder: Path, *arguments: str, status: int = 0) -> str:
    """What the build printed."""
    command = ["docker", "build", "--progress=plain", *arguments, "."]
    return run(*command, cwd=folder, env=environment(), status=status, timeout=900).stderr


@pytest.fixture(scope="module")
def images(bake: Bake, combination: Combination) -> Iterator[Images]:
    """Both images, under the names that the compose files give them."""
    require_docker()
    registry = f"registry.invalid/{PREFIX}/{combination}"
    folder = bake(**combination._asdict(), api_port=free_port(), mcp_port=free_port(), registry=registry)
    names = [service["image"].partition(":")[0] for service in (production_of(folder), worker_on_a_gpu(folder))]
    images = Images(folder, *(f"{name}:one" for name in names))
    with reported(combination, "built both images"):
        # Where builds of other processes begin a step at the same time, the engine may not find it for the next one.
        for _ in range(3):
            printed = build(folder, f"--tag={images.service}")
            assert "[builder " in printed
            assert "[cuda " not in printed, "a build without GPU downloaded CUDA"
            build(folder, "--build-arg=ENABLE_GPU=true", f"--tag={images.worker}")
            if shares_all_layers(images):
                break
    yield images
    docker("rmi", images.service, images.worker)


@only(*(each for each in TESTED_INSIDE if each not in AS_IMAGES))
def test_its_own_tests_pass_inside_after_changes_and_an_update(updated: Path, combination: Combination) -> None:
    require_docker()
    assert (updated / "requirements-gpu.txt").exists()
    run_tests_inside(build_stage(updated, "ci"), combination)


def production_of(folder: Path) -> Any:
    return yaml.safe_load((folder / "compose.prod.yaml").read_text())["x-service"]


def worker_on_a_gpu(folder: Path) -> Any:
    return yaml.safe_load((folder / "compose.gpu.yaml").read_text())["services"]["worker"]


def config(image: str) -> Any:
    return json.loads(docker("image", "inspect", image))[0]


def shares_all_layers(images: Images) -> bool:
    service, worker = (config(image)["RootFS"]["Layers"] for image in (images.service, images.worker))
    return bool(worker[:-1] == service)


def test_it_is_the_service_s_image_and_one_layer_more(images: Images) -> None:
    assert shares_all_layers(images)


def test_its_size_is_within_the_limit(images: Images, combination: Combination) -> None:
    created = docker("create", images.worker)
    try:
        counted = run("sh", "-c", f"docker export {created} | wc -c", cwd=images.folder, env=environment()).stdout
    finally:
        docker("rm", "--volumes", created)
    with reported(combination, f"size of the worker's image: {int(counted) / 1e6:.0f} MB"):
        assert int(counted) <= SIZE_LIMIT


def test_the_service_s_image_knows_nothing_of_cuda(images: Images) -> None:
    find = "import importlib.util as u; print([n for n in ('celery', 'cuda', 'cupy', 'nvidia') if u.find_spec(n)])"
    assert docker("run", *ALONE, images.service, "python", "-c", find) == "['celery']"
    assert "NVIDIA" not in json.dumps(config(images.service)["Config"])


@only(WITH_GPU[0])
@pytest.mark.parametrize("value", ["ture", "yes", "True", ""])
def test_a_mistyped_argument_ends_the_build_and_says_what_it_takes(images: Images, value: str) -> None:
    printed = build(images.folder, f"--build-arg=ENABLE_GPU={value}", status=1)
    assert "ENABLE_GPU is true or false" in printed


def test_kernels_compile_for_every_architecture(images: Images) -> None:
    script = (images.folder / "tests" / "cuda.py").read_text()
    printed = docker("run", *ALONE, "--user=12345:0", "--interactive", images.worker, "python", "-", stdin=script)
    assert re.findall(r"^sm_(\d+): [1-9]\d* bytes$", printed, re.MULTILINE) == ARCHITECTURES


DEVELOPMENT = ["--env=ENVIRONMENT=development", "--env=DATABASE_URL="]


def test_a_worker_that_is_to_use_a_gpu_does_not_start_without_one_and_says_what_to_check(images: Images) -> None:
    command = ["docker", "run", *ALONE, *DEVELOPMENT, "--env=DEVICE=cuda", images.worker]
    printed = run(*command, cwd=images.folder, env=environment(), status=1).stderr
    assert "DEVICE=cuda, but no CUDA device can be used" in printed
    assert "NVIDIA_VISIBLE_DEVICES" in printed


def test_left_to_itself_it_takes_the_cpu_where_there_is_no_gpu(images: Images) -> None:
    assert docker("run", *ALONE, *DEVELOPMENT, images.worker, "python", "-m", "app.duplicates") == "cpu"


def test_on_a_gpu_the_stack_s_worker_has_one_and_insists_on_it(images: Images) -> None:
    worker = worker_on_a_gpu(images.folder)
    assert worker["environment"] == {"DEVICE": "cuda"}
    devices = [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert worker["deploy"]["resources"]["reservations"]["devices"] == devices


@pytest.fixture(scope="module")
def production(images: Images, combination: Combination, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The production stack, with the worker's image on the CPU."""
    override = tmp_path_factory.mktemp("compose") / "compose.cpu.yaml"
    override.write_text(f"services: {{worker: {{image: {images.worker}}}}}\n")
    publish = {"PUBLISH_API": str(free_port()), "PUBLISH_MCP": str(free_port())}
    with stack(images.folder, images.folder / "compose.prod.yaml", override, TAG="one", **publish) as made:
        fill_in(images.folder)
        with reported(combination, "started in production, with a worker"):
            made.compose("up", "--detach", "--wait")
        yield made


def submit(rest: str, key: str) -> str:
    """The address of the job."""
    accepted = call(f"{rest}/duplicates", key=key, data={})
    assert accepted.status == 202, accepted
    return f"{rest}/jobs/{accepted.body['id']}"


def wait_for(stack: Stack, job: str, key: str, state: str) -> None:
    wait_until(
        lambda: call(job, key=key).body["state"] == state,
        timeout=60,
        what=lambda: f"{call(job, key=key).body}: {stack.compose('logs', 'worker')}",
    )


@for_each_database
def test_the_stack_runs_jobs_and_a_worker_that_is_stopped_hands_its_job_back(production: Stack) -> None:
    rest = url(production)
    key = production.issue_key("jobs")
    for _ in range(2):
        assert call(f"{rest}/tasks", key=key, data={"title": "Fix the login bug"}).status == 201
    job = submit(rest, key)
    wait_for(production, job, key, "succeeded")
    [pair] = call(f"{job}/result", key=key).body["items"]
    assert pair["similarity"] == 1

    production.compose("exec", "-T", "api", "python", "-c", MANY_TASKS)
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


@only(WITH_GPU[0])
def test_development_has_a_worker_as_well(images: Images, combination: Combination) -> None:
    with stack(images.folder, images.folder / "compose.yaml") as dev:
        with reported(combination, "developed in containers, with a worker"):
            dev.compose("up", "--build", "--detach", "--wait")
        key = dev.issue_key("developer")
        job = submit(f"http://127.0.0.1:{ports(images.folder)[0]}", key)
        wait_for(dev, job, key, "succeeded")
        for service in ("worker", "valkey"):
            [found] = dev.containers(service)
            assert not found.inspect()["HostConfig"]["PortBindings"], service


@for_each_database
def test_the_worker_and_valkey_are_hardened_and_limited(production: Stack) -> None:
    for service in ("worker", "valkey"):
        [found] = [each.inspect() for each in production.containers(service)]
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert min(host["Memory"], host["NanoCpus"], host["PidsLimit"]) > 0, service
        assert host["RestartPolicy"]["Name"] == "unless-stopped", service
        assert not host["PortBindings"], service
    [worker] = production.containers("worker")
    assert worker.exec("id", "-u") == "1000"
    assert worker.inspect()["Config"]["StopTimeout"] > 10
