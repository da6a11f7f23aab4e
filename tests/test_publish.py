"""The commands of the jobs `image` and `publish` of the rendered CI workflow, with a registry that requires a password.

Not tested is what needs GitHub or the internet: keyless signing, the scanner's database, other platforms.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.combinations import POSTGRES_PIP_GPU, Combination
from tests.conftest import Bake, only
from tests.docker import PREFIX, call, container, docker
from tests.sandbox import environment, run, wait_until

pytestmark = [pytest.mark.docker, only(POSTGRES_PIP_GPU)]

USER, PASSWORD = "user-for-tests", "password-for-tests"
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuSU5vwaYBWSYOCciTXroVDtS8FNZ9KTy"
"""The user's entry, by bcrypt: htpasswd -nbBC 5 USER PASSWORD."""

# Signs nothing, and prints what it was asked to sign.
COSIGN = "#!/bin/sh\necho cosign $*\n"


class Project(NamedTuple):
    folder: Path
    registry: str
    env: dict[str, str]

    def make(self, *arguments: str) -> str:
        return run("make", "--silent", *arguments, cwd=self.folder, env=self.env, timeout=1200).stdout

    def published(self, name: str) -> dict[str, object]:
        form = "--format={{json .Manifest}}"
        command = ["docker", "buildx", "imagetools", "inspect", form, f"{self.registry}/{name}"]
        found: dict[str, object] = json.loads(run(*command, cwd=self.folder, env=self.env).stdout)
        return found


@pytest.fixture(scope="module")
def project(bake: Bake, combination: Combination, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with a registry for these tests, to which its Docker is logged in."""
    folder = tmp_path_factory.mktemp("publish")
    (folder / "htpasswd").write_text(HTPASSWD)
    (folder / "bin").mkdir()
    (folder / "bin" / "cosign").write_text(COSIGN)
    (folder / "bin" / "cosign").chmod(0o755)
    authentication = ["--env=REGISTRY_AUTH=htpasswd", "--env=REGISTRY_AUTH_HTPASSWD_REALM=tests"]
    authentication += ["--env=REGISTRY_AUTH_HTPASSWD_PATH=/htpasswd", f"--volume={folder}/htpasswd:/htpasswd:ro"]
    with container(*authentication, "--publish=127.0.0.1::5000", "registry:2") as registry:
        address = f"localhost:{registry.port(5000)}"
        wait_until(lambda: call(f"http://{address}/v2/").status == 401, timeout=60, what=registry.logs)
        env = environment(DOCKER_CONFIG=str(folder / "docker"), VERSION="v1.2.3", IMAGE=PREFIX)
        env["PATH"] = f"{folder / 'bin'}:{env['PATH']}"
        login = ["docker", "login", f"--username={USER}", "--password-stdin", address]
        run(*login, cwd=folder, env=env, stdin=PASSWORD)
        yield Project(bake(**combination._asdict(), registry=f"{address}/team"), f"{address}/team", env)
        names = [f"{address}/team/{PREFIX}:{tag}" for tag in ("1.2.3-amd64", "1.2")]
        docker("rmi", "--force", PREFIX, f"{PREFIX}-ml", *names)


def test_an_image_is_built_tried_published_and_signed(project: Project) -> None:
    assert '"tools":' in project.make("image", "smoke")
    assert "sm_120: " in project.make("worker-image", "worker-smoke")
    assert f"{PREFIX}-ml takes " in project.make("size", "worker-size")
    project.make("save")
    project.make("push")
    [digest] = {project.published(f"{PREFIX}:{tag}")["digest"] for tag in ("1.2.3", "1.2")}
    assert project.make("sign") == f"cosign sign --yes {project.registry}/{PREFIX}@{digest}\n"
    pulled = f"{project.registry}/{PREFIX}:1.2"
    run("docker", "pull", "--quiet", pulled, cwd=project.folder, env=project.env, timeout=600)
    assert '"tools":' in project.make("smoke", f"IMAGE={pulled}")


def test_the_worker_s_image_is_published_by_the_same_commands(project: Project) -> None:
    """They are not run, because they would transfer its gigabyte."""
    for target in ("scan", "save", "push", "sign"):
        _make_again, *commands = project.make("--dry-run", f"worker-{target}").splitlines()
        assert commands == project.make("--dry-run", target, f"IMAGE={PREFIX}-ml").splitlines()
        assert f"{PREFIX}-ml" in str(commands)
