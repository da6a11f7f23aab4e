"""The files in deploy/: each is valid for its tool, and consistent with the image and the Compose files."""

import ast
import http.client
import json
import os
import re
import select
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import botocore.session
import kubernetes_validate
import pytest
import yaml
from botocore import xform_name
from botocore.model import Shape
from botocore.validate import ParamValidator

from tests.combinations import (
    COMBINATIONS,
    POSTGRES_PIP_GPU,
    POSTGRES_UV,
    SQLITE_UV,
    SQLITE_UV_GPU,
    TEMPLATE,
    Combination,
)
from tests.conftest import Bake, only
from tests.sandbox import SCRIPTS, code_blocks, environment, free_port, program, run, wait_until

# These files depend on the database and on jobs.
RUN_FOR = [SQLITE_UV, POSTGRES_UV, SQLITE_UV_GPU, POSTGRES_PIP_GPU]
once = only(SQLITE_UV)
on_postgres = only(POSTGRES_UV, POSTGRES_PIP_GPU)
with_jobs = only(SQLITE_UV_GPU, POSTGRES_PIP_GPU)

Document = dict[str, Any]


def test_all_versions_of_the_files_are_tested() -> None:
    assert {(each.database, each.gpu) for each in COMBINATIONS} == {(e.database, e.gpu) for e in RUN_FOR}


class Stack(NamedTuple):
    """The service according to the Compose files and the Dockerfile."""

    compose: Document
    gpu: Document
    dockerfile: str

    @property
    def api(self) -> Document:
        service: Document = self.compose["services"]["api"]
        return service

    @property
    def worker(self) -> Document:
        """The worker, with the GPU of compose.gpu.yaml."""
        on_gpu = self.gpu["services"]["worker"]
        limits = self.compose["services"]["worker"]["deploy"]["resources"]["limits"]
        return {
            **self.compose["services"]["worker"],
            "image": on_gpu["image"],
            "environment": {**self.compose["services"]["worker"]["environment"], **on_gpu["environment"]},
            "deploy": {"resources": {"limits": {**limits, **on_gpu["deploy"]["resources"]["limits"]}}},
        }

    @property
    def ports(self) -> list[int]:
        [*_, exposed] = re.findall(r"^EXPOSE (\d+) (\d+)$", self.dockerfile, re.MULTILINE)
        return [int(port) for port in exposed]

    @property
    def command(self) -> list[str]:
        """The command of the production image."""
        stage = self.dockerfile.split("AS production\n")[1]
        [command, *_] = re.findall(r"^CMD (\[.*\])$", stage, re.MULTILINE)
        return list(json.loads(command))

    def health_check(self, number: int) -> dict[str, Any]:
        """The health check of the image (0) or of the worker's (1): its options in seconds, and its command."""
        options, command = re.findall(r"^HEALTHCHECK (.*) \\\n +CMD (\[.*\])$", self.dockerfile, re.MULTILINE)[number]
        numbers = {name: int(value) for name, value in re.findall(r"--([a-z-]+)=(\d+)", options)}
        return {**numbers, "command": json.loads(command)}


@pytest.fixture
def stack(baked: Path) -> Stack:
    def load(name: str) -> Any:
        file = baked / name
        # With its variables unset.
        return yaml.safe_load(re.sub(r"\$\{\w+:?-(.*?)\}", r"\1", file.read_text())) if file.exists() else {}

    return Stack(load("compose.prod.yaml"), load("compose.gpu.yaml"), (baked / "Dockerfile").read_text())


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def repository(image: str) -> str:
    """The image without its tag."""
    return re.sub(r":\w+$", "", image)


@pytest.fixture
def manifests(baked: Path) -> list[Document]:
    folder = baked / "deploy" / "kubernetes"
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted([*named, "kustomization.yaml"]) == sorted(file.name for file in folder.iterdir())
    return [document for name in named for document in yaml.safe_load_all((folder / name).read_text())]


def find(manifests: list[Document], kind: str, name: str) -> Document:
    [found] = [each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod_specs(manifests: list[Document]) -> Iterator[Document]:
    for each in manifests:
        if each["kind"] in {"Deployment", "Job"}:
            yield each["spec"]["template"]["spec"]


def container(manifests: list[Document], name: str) -> Document:
    [found] = [each for pod in pod_specs(manifests) for each in pod["containers"] if each["name"] == name]
    return dict(found)


def validate(manifest: Document) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_kubernetes_accepts_the_manifests(manifests: list[Document]) -> None:
    for manifest in manifests:
        validate(manifest)


def test_the_manifests_match_the_answers_and_contain_no_secrets(
    manifests: list[Document], combination: Combination, stack: Stack
) -> None:
    expected = {"Deployment", "NetworkPolicy", "Service"}
    scaling = {"HorizontalPodAutoscaler", "Job", "PodDisruptionBudget"}
    expected |= scaling if combination.database == "postgres" else {"PersistentVolumeClaim"}
    expected |= {"PersistentVolumeClaim"} if combination.gpu else set()  # Valkey's
    assert {each["kind"] for each in manifests} == expected
    [service] = [each for each in container(manifests, "api")["envFrom"] if "secretRef" in each]
    assert service == {"secretRef": {"name": "task-service"}}

    template = find(manifests, "Deployment", "task-service")["spec"]["template"]
    scrape = {f"prometheus.io/{name}": template["metadata"]["annotations"][f"prometheus.io/{name}"] for name in SCRAPE}
    assert scrape == {f"prometheus.io/{name}": value.format(*stack.ports) for name, value in SCRAPE.items()}
    spread = [each["topologyKey"] for each in template["spec"].get("topologySpreadConstraints", [])]
    assert spread == (["kubernetes.io/hostname"] if combination.database == "postgres" else [])


SCRAPE = {"scrape": "true", "port": "{}", "path": "/metrics"}


@once
def test_the_check_of_manifests_finds_typing_errors(manifests: list[Document]) -> None:
    deployment = find(manifests, "Deployment", "task-service")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 20
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        validate(deployment)


def test_kustomize_sets_versions_and_settings(baked: Path, manifests: list[Document]) -> None:
    kubectl = program("kubernetes-client", "kubectl")
    printed = run(kubectl, "kustomize", "deploy/kubernetes", cwd=baked, env=environment()).stdout
    built = list(yaml.safe_load_all(printed))
    for manifest in built:
        validate(manifest)
    [settings] = [each for each in built if each["kind"] == "ConfigMap"]
    assert len(built) == len(manifests) + 1
    for pod in pod_specs(built):
        for each in pod["containers"]:
            assert re.search(r":(latest|9)$", each["image"])
            names = {source["configMapRef"]["name"] for source in each.get("envFrom", []) if "configMapRef" in source}
            assert names <= {settings["metadata"]["name"]}


def test_every_pod_is_hardened(manifests: list[Document]) -> None:
    for pod in pod_specs(manifests):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in pod["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert each["resources"]["limits"].keys() >= {"cpu", "memory"}


def test_kubernetes_selectors_find_their_pods(manifests: list[Document]) -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in manifests if "template" in each["spec"]]
    selectors = [
        spec.get("podSelector", spec.get("selector"))
        for spec in (each["spec"] for each in manifests if each["kind"] not in {"Job", "PersistentVolumeClaim"})
        if "selector" in spec or "podSelector" in spec
    ]
    assert selectors
    for selector in selectors:
        wanted = selector.get("matchLabels", selector)
        assert any(found.items() >= wanted.items() for found in labels), selector


def test_kubernetes_and_compose_run_the_service_alike(manifests: list[Document], stack: Stack) -> None:
    api = container(manifests, "api")
    assert_same_container(api, stack.api)
    assert [port["containerPort"] for port in api["ports"]] == stack.ports
    check = stack.health_check(0)
    assert api["livenessProbe"]["httpGet"] == {"port": "api", "path": "/live"}
    assert api["readinessProbe"]["httpGet"] == {"port": "api", "path": "/ready"}
    assert_same_checks(api, check)
    [pod] = [pod for pod in pod_specs(manifests) if pod["containers"][0]["name"] == "api"]
    pause = api["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] - pause == seconds(stack.api["stop_grace_period"])
    assert {volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume} == {"64Mi"}
    assert stack.api["tmpfs"] == "/tmp:size=64m"


def assert_same_container(container: Document, service: Document) -> None:
    assert container["image"] == repository(service["image"])
    set_there = {name: str(value) for name, value in service["environment"].items()}
    set_here = {each["name"]: each["value"] for each in container["env"]}
    # The same except for the name of the other service.
    set_here |= {name: value.replace("task-service-valkey", "valkey") for name, value in set_here.items()}
    # The worker listens on no port.
    assert set_here == {n: v for n, v in set_there.items() if container["name"] == "api" or n not in LISTENING}
    assert limits(container) == limits_of(service)


LISTENING = {"HOST", "PORT", "MCP_PORT"}


def limits(container: Document) -> dict[str, str]:
    found = container["resources"]["limits"]
    return {"cpus": found["cpu"], "memory": found["memory"].removesuffix("i")}


def limits_of(service: Document) -> dict[str, str]:
    found = service["deploy"]["resources"]["limits"]
    return {"cpus": str(found["cpus"]), "memory": found["memory"]}


def assert_same_checks(container: Document, check: dict[str, Any]) -> None:
    alive, started = container["livenessProbe"], container["startupProbe"]
    assert alive["periodSeconds"] == check["interval"]
    assert alive["failureThreshold"] == check["retries"]
    assert alive["timeoutSeconds"] == started["timeoutSeconds"] == check["timeout"]
    assert started["periodSeconds"] * started["failureThreshold"] == check["start-period"]


@with_jobs
def test_kubernetes_and_compose_run_worker_and_valkey_alike(manifests: list[Document], stack: Stack) -> None:
    worker = container(manifests, "worker")
    assert_same_container(worker, stack.worker)
    check = stack.health_check(1)
    assert worker["livenessProbe"]["exec"]["command"] == check["command"]
    assert_same_checks(worker, check)
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    [pod] = [pod for pod in pod_specs(manifests) if worker["image"] in [each["image"] for each in pod["containers"]]]
    assert pod["terminationGracePeriodSeconds"] >= seconds(stack.worker["stop_grace_period"])

    valkey = container(manifests, "valkey")
    there = stack.compose["services"]["valkey"]
    assert (valkey["image"], valkey["args"]) == (there["image"], there["command"])
    assert limits(valkey) == limits_of(there)


@only(SQLITE_UV, SQLITE_UV_GPU)
def test_on_kubernetes_one_pod_has_the_sqlite_file(manifests: list[Document]) -> None:
    spec = find(manifests, "Deployment", "task-service")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    [mounted] = [pod for pod in pod_specs(manifests) if "task-service" in json.dumps(pod.get("volumes", [])).split('"')]
    assert all({"name": "data", "mountPath": "/data"} in each["volumeMounts"] for each in mounted["containers"])


@on_postgres
def test_on_kubernetes_replicas_leave_database_connections_free(
    baked: Path, manifests: list[Document], stack: Stack
) -> None:
    migrate = container(manifests, "migrate")
    assert migrate["command"] == stack.compose["services"]["migrate"]["command"]
    assert limits(migrate) == limits_of(stack.compose["services"]["migrate"])
    spec = find(manifests, "Deployment", "task-service")["spec"]
    assert "replicas" not in spec
    replicas = find(manifests, "HorizontalPodAutoscaler", "task-service")["spec"]["maxReplicas"]
    replicas += spec["strategy"]["rollingUpdate"]["maxSurge"]
    settings = yaml.safe_load((baked / "deploy" / "kubernetes" / "kustomization.yaml").read_text())
    pool = dict(each.split("=", 1) for each in settings["configMapGenerator"][0]["literals"])["DATABASE_POOL_SIZE"]
    workers = re.findall(r"web_concurrency: .* = (\d+)$", (baked / "app" / "settings.py").read_text(), re.MULTILINE)
    assert (
        replicas * int(workers[0]) * int(pool) < 100 - 20
    )  # max_connections, less a reserve for jobs, migrations and people


def test_each_file_begins_with_its_usage(baked: Path) -> None:
    page = (baked / "deploy" / "README.md").read_text()
    for file in filter(Path.is_file, (baked / "deploy").rglob("*")):
        if file.suffix == ".json":  # JSON has no comments
            assert file.parent.name in page, file
        elif file.name != "README.md":
            lines = file.read_text().removeprefix("#!/bin/sh\n").splitlines()
            opening = list(takewhile(lambda line: line.startswith("#"), lines))
            assert 2 <= len(opening) <= 3, file
            assert re.search("`.+`|^#   [a-z]", "\n".join(opening), re.MULTILINE), file


def test_long_names_stay_within_limits(bake: Bake) -> None:
    slug = "a" * 50
    project = bake(database="postgres", gpu=True, project_slug=slug)
    for file in (project / "deploy" / "kubernetes").iterdir():
        for name in re.findall(r"name: (a{50}[a-z-]*)", file.read_text()):
            assert len(name) <= 63, name
    for unit in (project / "deploy" / "systemd").iterdir():
        for user in re.findall("^User=(.*)$", unit.read_text(), re.MULTILINE):
            assert len(user) <= 32  # useradd accepts no more
    assert len(json.loads((project / "deploy" / "grafana" / "dashboard.json").read_text())["uid"]) <= 40


def task_definition(baked: Path, name: str = "task-definition.json") -> Document:
    loaded: Document = json.loads((baked / "deploy" / "ecs" / name).read_text())
    return loaded


def faults(definition: Document) -> str:
    """What the API would reject: unknown and missing parameters, wrong types and unknown values."""
    shape = botocore.session.Session().get_service_model("ecs").operation_model("RegisterTaskDefinition").input_shape
    report = str(ParamValidator().validate(definition, shape).generate_report())
    return "\n".join([report, *unknown_words(definition, shape)]).strip()


def unknown_words(value: Any, shape: Shape) -> Iterator[str]:
    if shape.type_name == "structure":
        for name, each in value.items():
            if name in shape.members:
                yield from unknown_words(each, shape.members[name])
    elif shape.type_name == "list":
        for each in value:
            yield from unknown_words(each, shape.member)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{value} is not among {shape.enum}"


@on_postgres
def test_ecs_accepts_the_task_definitions(baked: Path) -> None:
    files = sorted((baked / "deploy" / "ecs").iterdir())
    assert files
    for file in files:
        assert faults(task_definition(baked, file.name)) == ""


@only(POSTGRES_UV)
@pytest.mark.parametrize("damage", [{"cpus": "256"}, {"memory": 512}, {"networkMode": "awsvpcs"}])
def test_the_check_of_task_definitions_finds_errors(damage: Document, baked: Path) -> None:
    assert faults({**task_definition(baked), **damage})


@on_postgres
def test_ecs_runs_the_service_as_the_image_defines(baked: Path, combination: Combination, stack: Stack) -> None:
    definition = task_definition(baked)
    assert (definition["cpu"], definition["memory"]) == ("256", "512")  # the smallest pair on Fargate
    assert limits_of(stack.api)["memory"] == "512M"
    [api] = definition["containerDefinitions"]
    assert [port["containerPort"] for port in api["portMappings"]] == stack.ports
    assert_same_task(api, stack.api, stack.health_check(0))
    if combination.gpu:
        [worker] = task_definition(baked, "worker-task-definition.json")["containerDefinitions"]
        assert f"{worker['memory'] // 1024}G" == limits_of(stack.worker)["memory"]
        assert worker["cpu"] / 1024 == float(limits_of(stack.worker)["cpus"])
        assert_same_task(worker, stack.worker, stack.health_check(1))


def assert_same_task(container: Document, service: Document, check: dict[str, Any]) -> None:
    assert repository(container["image"]) == repository(service["image"])
    assert container["stopTimeout"] == seconds(service["stop_grace_period"])
    assert container["readonlyRootFilesystem"] is service["read_only"] is True
    assert container["linuxParameters"]["capabilities"] == {"drop": service["cap_drop"]}
    here = container["healthCheck"]
    assert here["command"] == ["CMD", *check["command"]]
    assert [here[name] for name in ("interval", "timeout", "startPeriod", "retries")] == [
        check[name] for name in ("interval", "timeout", "start-period", "retries")
    ]


def test_on_ecs_secrets_are_in_the_account_and_region_of_the_images(bake: Bake) -> None:
    registry = "210987654321.dkr.ecr.eu-central-1.amazonaws.com/your-team"
    text = (bake(database="postgres", registry=registry) / "deploy" / "ecs" / "task-definition.json").read_text()
    assert "arn:aws:secretsmanager:eu-central-1:210987654321:secret:task-service-AbCdEf:API_KEY_SECRET::" in text
    assert '"awslogs-region": "eu-central-1"' in text
    assert not re.search("us-east-1|123456789012", text)


@on_postgres
def test_aws_accepts_the_commands_and_json_in_the_pages(baked: Path) -> None:
    blocks = code_blocks(baked / "deploy" / "README.md", "ECS", "sh")
    commands = [shlex.split(line) for block in blocks for line in block.replace("\\\n", "").splitlines()]
    assert [command[2] for command in commands[2:]] == ["register-task-definition", "run-task", "update-service"]
    for aws, service, name, *options in commands:
        assert aws == "aws"
        model = botocore.session.Session().get_service_model(service)
        shape = model.operation_model(name.title().replace("-", "")).input_shape
        members = {xform_name(member, "-"): member for member in shape.members}
        given = {option.removeprefix("--"): value for option, value in zip(options[::2], options[1::2], strict=True)}
        assert given.keys() <= {*members, "cli-input-json"}, name
        if overrides := given.get("overrides"):
            report = ParamValidator().validate(json.loads(overrides), shape.members["overrides"])
            assert report.generate_report() == ""
        if secrets := given.get("secret-string"):
            settings = re.findall(r":([A-Z_]+)::", "".join(map(Path.read_text, baked.glob("deploy/ecs/*"))))
            assert json.loads(secrets).keys() == set(settings)


def test_deploy_uses_only_settings_of_the_service(baked: Path) -> None:
    known = set(re.findall("^(?:# )?([A-Z_]+)=", (baked / ".env.prod.example").read_text(), re.MULTILINE))
    known |= {"TMPDIR", "OPENBLAS_NUM_THREADS"}  # for Python and NumPy
    folder = baked / "deploy"
    used = re.findall(r"\{name: ([A-Z_]+), value", "\n".join(map(Path.read_text, folder.glob("kubernetes/*"))))
    used += re.findall(r'"name": "([A-Z_]+)"', "\n".join(map(Path.read_text, folder.glob("ecs/*"))))
    used += re.findall(r"^      - ([A-Z_]+)=", (folder / "kubernetes" / "kustomization.yaml").read_text(), re.MULTILINE)
    assert "MCP_ALLOWED_HOSTS" in used
    assert set(used) <= known


@pytest.fixture
def units(baked: Path, tmp_path: Path) -> list[Path]:
    """The units, with paths of Python and Docker that exist."""
    python = tmp_path / "opt" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    copies = []
    for unit in sorted((baked / "deploy" / "systemd").iterdir()):
        copies.append(tmp_path / unit.name)
        text = re.sub(r"/opt/task-service/\.(venv|local)/bin/python", str(python), unit.read_text())
        copies[-1].write_text(text)
    return copies


def test_systemd_accepts_the_units_and_rates_them_secure(units: list[Path], tmp_path: Path) -> None:
    analyze = program("systemd", "systemd-analyze")
    env = environment(SYSTEMD_UNIT_PATH=f"{tmp_path}:")
    run(analyze, "verify", "--man=no", *units, cwd=tmp_path, env=env)
    services = [unit for unit in units if unit.suffix == ".service"]
    security = ["security", "--offline=yes", "--no-pager", "--threshold=25"]
    printed = run(analyze, *security, *services, cwd=tmp_path, env=env).stdout
    assert len(re.findall("Overall exposure level for .*: [0-9.]+ OK", printed)) == len(services)


def test_systemd_and_compose_run_the_service_alike(baked: Path, combination: Combination, stack: Stack) -> None:
    folder = baked / "deploy" / "systemd"
    [started] = re.findall("^ExecStart=.*/(python .*)$", (folder / "task-service.service").read_text(), re.MULTILINE)
    assert started.split() == stack.command
    assert_same_unit(folder / "task-service.service", stack.api)
    if combination.gpu:
        assert_same_unit(folder / "task-service-worker.service", stack.worker)
    migrations = re.findall(
        "^ExecStartPre=.*/python (.*)$", (folder / "task-service.service").read_text(), re.MULTILINE
    )
    expected = (
        [" ".join(stack.compose["services"]["migrate"]["command"][1:])]
        if "migrate" in stack.compose["services"]
        else []
    )
    assert migrations == expected


def assert_same_unit(unit: Path, service: Document) -> None:
    settings = dict(re.findall("^([A-Za-z]+)=(.*)$", unit.read_text(), re.MULTILINE))
    there = service["deploy"]["resources"]["limits"]
    assert settings["MemoryMax"] == there["memory"]
    assert float(settings["CPUQuota"].removesuffix("%")) / 100 == float(there["cpus"])
    assert int(settings["TasksMax"]) == there["pids"]
    assert int(settings["TimeoutStopSec"]) == seconds(service["stop_grace_period"])


DOCKER = """#!/bin/sh
echo "$@" > "$FOLDER/called"
echo saved
exit "$STATUS"
"""


@only(SQLITE_UV, POSTGRES_UV)
def test_backups_are_kept_for_days_and_longer_if_new_ones_fail(baked: Path, tmp_path: Path) -> None:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    backups = tmp_path / "backups"
    backups.mkdir()
    for days in (13, 20):
        old = backups / f"{days}.backup"
        old.touch()
        os.utime(old, (time.time() - days * 86400,) * 2)
    script = baked / "deploy" / "backup.sh"
    run(SCRIPTS / "shellcheck", script, cwd=baked, env=environment())
    env = environment(PATH=f"{tmp_path}:{os.environ['PATH']}", FOLDER=str(tmp_path))
    run("sh", script, backups, cwd=tmp_path, env=env | {"STATUS": "1"}, status=1)
    assert {"13.backup", "20.backup"} == {each.name for each in backups.glob("*.backup")}

    run("sh", script, backups, cwd=tmp_path, env=env | {"STATUS": "0"})
    [made] = {each.name for each in backups.glob("*.backup")} - {"13.backup"}
    assert (backups / made).read_text() == "saved\n"
    assert (backups / made).stat().st_mode & 0o077 == 0

    # It runs the same command as in the documentation.
    save, _ = code_blocks(baked / "docs" / "operate.md", "Backup", "sh")
    [*_, documented] = save.partition(" exec ")
    assert (tmp_path / "called").read_text().partition(" exec ")[2].strip() == documented.partition(" > ")[0]


class Upstream(ThreadingHTTPServer):
    """Stands in for a port of the service: answers 200 and records requests."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Remember)
        self.arrived: list[tuple[str, str, str]] = []


class Remember(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        assert isinstance(self.server, Upstream)
        self.server.arrived.append((self.command, self.headers["Host"], self.path))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def upstream(port: int) -> Iterator[Upstream]:
    with Upstream(port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Proxy(NamedTuple):
    port: int
    api_port: int
    mcp_port: int

    @contextmanager
    def sent(self, method: str, host: str, path: str) -> Iterator[http.client.HTTPConnection]:
        """Send a request, whose response is not read yet."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, headers={"Host": host})
            yield connection

    def status(self, method: str, host: str, path: str) -> int:
        with self.sent(method, host, path) as request:
            return request.getresponse().status


@contextmanager
def caddy(project: Path, folder: Path, *, api: str, mcp: str) -> Iterator[int]:
    """The port of Caddy with the project's file, but with other host names and without TLS."""
    port = free_port()
    text = (project / "deploy" / "caddy" / "Caddyfile").read_text()
    for name, other in {"api.example.com": api, "mcp.example.com": mcp}.items():
        text, sites = re.subn(rf"^{name} {{$", f"http://{other}:{port} {{", text, flags=re.MULTILINE)
        assert sites == 1
    file = folder / "Caddyfile"
    file.write_text(f"{{\n\tadmin off\n}}\n{text}")
    command = [program("caddy", "caddy"), "run", "--config", str(file), "--adapter", "caddyfile"]
    with program_running(*command, port=port, folder=folder):
        yield port


@contextmanager
def program_running(*command: str | Path, port: int, folder: Path) -> Iterator[None]:
    """Run a program that listens on this port."""
    log = folder / "log"
    with log.open("w") as output:
        env = environment(HOME=str(folder))
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)
        try:
            wait_until(lambda: listens(port), timeout=20, what=log.read_text)
            yield
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def proxy(bake: Bake, tmp_path: Path) -> Iterator[Proxy]:
    api_port, mcp_port = free_port(), free_port()
    project = bake(api_port=api_port, mcp_port=mcp_port)
    with caddy(project, tmp_path, api="api.example.com", mcp="mcp.example.com") as port:
        yield Proxy(port, api_port, mcp_port)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_caddy_accepts_the_file(baked: Path, tmp_path: Path) -> None:
    command = [program("caddy", "caddy"), "validate", "--adapter", "caddyfile", "--config", "deploy/caddy/Caddyfile"]
    run(*command, cwd=baked, env=environment(HOME=str(tmp_path)))


def test_caddy_routes_each_name_to_its_port_but_not_admin_and_metrics(proxy: Proxy) -> None:
    with upstream(proxy.api_port) as api, upstream(proxy.mcp_port) as mcp:
        assert proxy.status("GET", "api.example.com", "/tasks?limit=1") == 200
        assert proxy.status("POST", "mcp.example.com", "/mcp") == 200
        for path in ("/admin", "/admin/api-keys", "/metrics", "//admin/api-keys", "/%61dmin/api-keys"):
            assert proxy.status("GET", "api.example.com", path) == 404, path
    assert api.arrived == [("GET", "api.example.com", "/tasks?limit=1")]
    assert mcp.arrived == [("POST", "mcp.example.com", "/mcp")]  # by its name, which is in MCP_ALLOWED_HOSTS


def test_caddy_holds_requests_while_the_service_is_replaced(proxy: Proxy) -> None:
    with proxy.sent("GET", "api.example.com", "/tasks") as get, proxy.sent("POST", "mcp.example.com", "/mcp") as post:
        assert select.select([get.sock, post.sock], [], [], 1)[0] == [], "answered while nothing listens"
        with upstream(proxy.api_port) as api, upstream(proxy.mcp_port) as mcp:
            assert [get.getresponse().status, post.getresponse().status] == [200, 200]
    assert [len(api.arrived), len(mcp.arrived)] == [1, 1]


def rules(baked: Path) -> list[Document]:
    [group] = yaml.safe_load((baked / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def test_prometheus_accepts_the_alerts(baked: Path) -> None:
    run(
        program("prometheus", "promtool"),
        "check",
        "rules",
        "deploy/prometheus/alerts.yml",
        cwd=baked,
        env=environment(),
    )
    for rule in rules(baked):
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["runbook"].endswith(".")


def test_alerts_fire_only_when_they_should(baked: Path, combination: Combination, tmp_path: Path) -> None:
    promtool = program("prometheus", "promtool")
    without_runbooks = [{**rule, "annotations": {"summary": rule["annotations"]["summary"]}} for rule in rules(baked)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": without_runbooks}]}))
    pool = "connections" if combination.database == "postgres" else "writer"
    tests = yaml.safe_load((TEMPLATE / "tests" / "alerts.yml").read_text().replace("POOL", pool))
    there_are = {rule["alert"] for rule in without_runbooks}
    tests["tests"] = [test for test in tests["tests"] if test["alert_rule_test"][0]["alertname"] in there_are]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(tests))
    run(promtool, "test", "rules", "alerts.yml", cwd=tmp_path, env=environment())
    fired = {each["alertname"] for test in tests["tests"] for each in test["alert_rule_test"] if "exp_alerts" in each}
    assert fired == there_are
    assert (there_are >= {"JobsWait", "JobsFail"}) is combination.gpu


def queries(project: Path, interval: str = "5m") -> list[str]:
    dashboard = json.loads((project / "deploy" / "grafana" / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [query.replace("$__rate_interval", interval) for query in found]


def test_prometheus_accepts_the_queries_of_the_dashboard(baked: Path, tmp_path: Path) -> None:
    as_rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries(baked))]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": as_rules}]}))
    run(program("prometheus", "promtool"), "check", "rules", "rules.yml", cwd=tmp_path, env=environment())


# Time series that Prometheus itself adds.
OF_PROMETHEUS = {"up": {"job", "instance"}}
SUFFIXES = {
    "Counter": ["_total"],
    "Gauge": [""],
    "GaugeMetricFamily": [""],
    "Histogram": ["_bucket", "_sum", "_count"],
    "SummaryMetricFamily": ["_sum", "_count"],
}


def exported(baked: Path) -> dict[str, set[str]]:
    """The labels of each time series declared in the service's code."""
    found = dict(OF_PROMETHEUS)
    for file in baked.glob("app/**/metrics.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SUFFIXES:
                name, _, *labels = map(ast.literal_eval, node.args[:3])
                labels += [ast.literal_eval(each.value) for each in node.keywords if each.arg == "labels"]
                known = {*labels[0], "job", "instance", "le"}
                found |= {f"{name}{suffix}": known for suffix in SUFFIXES[node.func.id]}
    return found


def test_alerts_and_dashboard_query_what_the_service_exports(baked: Path) -> None:
    known = exported(baked)
    assert len(known) > 5
    for query in [*queries(baked), *(rule["expr"] for rule in rules(baked))]:
        asked = re.findall(r"(\w+)\{(.*?)\}", query)
        assert asked, query
        for name, matchers in asked:
            assert set(re.findall(r'(\w+)[=!]~?"', matchers)) <= known[name], query
        grouped = {label for group in re.findall(r"\b(?:by|on) \((.*?)\)", query) for label in group.split(", ")}
        assert grouped <= set.union(*(known[name] for name, _ in asked)), query
