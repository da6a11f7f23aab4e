"""GitHub made of containers: machines that execute the steps of a job, caches, artifacts, and a registry to publish to."""

import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests import actions
from tests.docker import Container, build, call, container, docker
from tests.sandbox import environment, run, wait_until

USER, PASSWORD = "user-for-tests", "password-for-tests"
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuSU5vwaYBWSYOCciTXroVDtS8FNZ9KTy"
"""The line that lets this user in, with bcrypt: htpasswd -nbBC 5 USER PASSWORD."""

BASE = "python:3.12-slim"
DATABASE = "postgres:18"
SBOM_GENERATOR = "docker/buildkit-syft-scanner:stable-1"
HERE = Path(__file__).parent / "runner"

# What an action does here, in terms of its inputs; and afterwards, when the job has ended well.
ACTIONS = {
    "actions/checkout": 'git clone --quiet --branch "$GITHUB_REF_NAME" file:///github/repository .',
    "actions/cache": '[ ! -e "$STORED" ] || { mkdir -p "${INPUT_PATH%/*}" && cp -a "$STORED" "$INPUT_PATH"; }',
    "actions/download-artifact": "cp /github/artifacts/$INPUT_PATTERN/* .",
    "actions/setup-python": 'python --version | grep -F "$INPUT_PYTHON_VERSION"',
    "actions/upload-artifact": 'mkdir -p "/github/artifacts/$INPUT_NAME" && mv $INPUT_PATH "/github/artifacts/$INPUT_NAME"',
    "anchore/scan-action/download-grype": "test -x /opt/tools/grype",
    "astral-sh/setup-uv": 'pip install --quiet "$(grep -o ^uv==[0-9.]* "$INPUT_VERSION_FILE")"',
    "docker/login-action": 'docker login --username "$INPUT_USERNAME" --password-stdin "$INPUT_REGISTRY" <<< "$INPUT_PASSWORD"',
    "sigstore/cosign-installer": "ln -s /opt/tools/cosign /usr/local/bin/",
}
AFTERWARDS = {
    "actions/cache": '[ -e "$STORED" ] || { mkdir -p "${STORED%/*}" && cp -a "$INPUT_PATH" "$STORED"; }',
}
OUTPUTS = {"grype": {"outputs": {"cmd": "/opt/tools/grype"}}}


def sh(machine: Container, script: str, env: Mapping[str, str] | None = None) -> str:
    """Run a script as GitHub does, and give what it prints, on either stream."""
    variables = [f"--env={name}={value}" for name, value in (env or {}).items()]
    return docker("exec", *variables, machine.id, "bash", "-e", "-c", f"exec 2>&1\n{script}", timeout=1800)


def address(started: Container) -> str:
    found: str = started.inspect()["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    return found


class GitHub:
    """A repository with its workflow runs; `folder` is what all machines share."""

    def __init__(self, folder: Path, image: str, registry: Container, mirror: Container) -> None:
        self.folder = folder
        hosts = [f"--add-host=registry:{address(registry)}", f"--add-host=mirror:{address(mirror)}"]
        self._machine = ["--privileged", *hosts, f"--volume={folder}:/github", image]

    @contextmanager
    def machine(self) -> Iterator[Container]:
        with container(*self._machine) as machine:
            sh(machine, "until docker info >/dev/null 2>&1; do sleep 0.1; done")
            yield machine

    def calls(self) -> list[str]:
        """What the tools that need the internet were asked for since the last time."""
        file = self.folder / "calls"
        calls = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return calls

    def run_job(
        self, workflow: actions.Workflow, name: str, context: actions.Context, done: Collection[str] = ()
    ) -> dict[str, str]:
        """Execute the steps of a job that are not done, on a machine of its own, and give what each of them printed."""
        printed = {}
        context = {**context, "runner": {"arch": "X64"}, "steps": OUTPUTS}
        job = workflow["jobs"][name]
        afterwards = []
        with self.machine() as machine:
            for step in job["steps"]:
                if step["name"] in done or not actions.condition(step.get("if", "true"), context):
                    continue
                env = {"CI": "true", "GITHUB_REF_NAME": context["github"]["ref_name"]}
                env |= actions.environment(context, workflow, job, step)
                if "run" in step:
                    printed[step["name"]] = sh(machine, step["run"], env)
                    continue
                action = step["uses"].split("@")[0]
                inputs = actions.evaluated(step.get("with", {}), context)
                env |= {f"INPUT_{key.upper().replace('-', '_')}": value for key, value in inputs.items()}
                env["STORED"] = f"/github/caches/{inputs.get('key')}"
                if inputs.get("lookup-only") != "true":
                    sh(machine, ACTIONS[action], env)
                    afterwards.append((AFTERWARDS.get(action, "true"), env))
            for script, env in afterwards:
                sh(machine, script, env)
        return printed


@contextmanager
def github(project: Path, folder: Path) -> Iterator[GitHub]:
    """GitHub with the project as its repository; `folder` is an empty one."""
    image = build(HERE, "machine")
    run("git", "clone", "--quiet", "--bare", project, folder / "repository", cwd=folder, env=environment())
    password = folder / "htpasswd"
    password.write_text(HTPASSWD)
    authentication = ["--env=REGISTRY_AUTH=htpasswd", "--env=REGISTRY_AUTH_HTPASSWD_REALM=tests"]
    authentication += ["--env=REGISTRY_AUTH_HTPASSWD_PATH=/htpasswd", f"--volume={password}:/htpasswd:ro"]
    with (
        container(*authentication, "registry:2") as registry,
        container("--publish=127.0.0.1::5000", "registry:2") as mirror,
    ):
        has_database = DATABASE in (project / "compose.yaml").read_text()
        fill(mirror, [BASE, SBOM_GENERATOR, *([DATABASE] if has_database else [])])
        yield GitHub(folder, image, registry, mirror)


def fill(mirror: Container, images: list[str]) -> None:
    """Put what builds pull from Docker Hub into its mirror: a machine here may not reach Docker Hub itself."""
    host = f"localhost:{mirror.port(5000)}"
    names = {image: f"{host}/{image if '/' in image else f'library/{image}'}" for image in images}
    wait_until(lambda: call(f"http://{host}/v2/").status == 200, timeout=30, what=lambda: "the mirror answers")
    for image, name in names.items():
        if is_here(image):
            docker("tag", image, name)
        else:
            assert image == SBOM_GENERATOR, f"there is no {image}"
            docker("build", "--quiet", "--tag", name, "--file", HERE / "sbom.Dockerfile", HERE, timeout=600)
        docker("push", "--quiet", name, timeout=600)
        docker("rmi", name)


def is_here(image: str) -> bool:
    """Whether the engine has the image, or can pull it."""
    commands = [["docker", "image", "inspect", image], ["docker", "pull", "--quiet", image]]
    return any(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands)
