"""The Compose files of each combination; test_compose.py and test_gpu_images.py start some of them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.combinations import COMBINATIONS, SQLITE_UV_GPU, Combination
from tests.conftest import only
from tests.sandbox import SCRIPTS, environment, run

LASTING = {"api", "database", "valkey", "worker"}


def services(project: Path, file: str = "compose.prod.yaml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((project / file).read_text())["services"]
    return found


def test_they_follow_the_specification_of_compose(baked: Path) -> None:
    schema = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    run(SCRIPTS / schema[0], *schema[1:], *sorted(baked.glob("compose*.yaml")), cwd=baked, env=environment())


def test_production_has_the_services_that_the_answers_need(baked: Path, combination: Combination) -> None:
    expected = {"api", "check"}
    expected |= {"database", "migrate"} if combination.database == "postgres" else set()
    expected |= {"valkey", "worker"} if combination.gpu else set()
    assert services(baked).keys() == expected


def test_production_is_hardened_and_limited(baked: Path) -> None:
    for name, service in services(baked).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service.get("restart") == ("unless-stopped" if name in LASTING else None), name
        assert bool(service.get("ports")) is (name == "api"), name
        assert bool(service.get("cap_add")) is (name in {"database", "valkey"}), name
        if name in {"api", "worker"}:
            assert int(service["stop_grace_period"].removesuffix("s")) > 10, name


@pytest.mark.parametrize("file", ["compose.yaml", "compose.prod.yaml"])
def test_ports_are_published_only_on_this_machine(file: str, baked: Path) -> None:
    published = {name: service["ports"] for name, service in services(baked, file).items() if "ports" in service}
    assert "api" in published
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


@only(*(each for each in COMBINATIONS if each.database == "postgres"))
def test_the_database_does_not_get_the_service_s_secrets(baked: Path) -> None:
    environment = services(baked)["database"]["environment"]
    assert (environment["ADMIN_API_KEY"], environment["API_KEY_SECRET"]) == ("", "")


@only(SQLITE_UV_GPU)
def test_with_compose_gpu_the_worker_has_and_requires_a_gpu(baked: Path) -> None:
    worker = services(baked, "compose.gpu.yaml")["worker"]
    assert worker["environment"] == {"DEVICE": "cuda"}
    devices = [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert worker["deploy"]["resources"]["reservations"]["devices"] == devices
