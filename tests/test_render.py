"""Rendered files: complete, clean, reproducible, and rendered with nothing but cookiecutter."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import tomli
import yaml

from tests.combinations import COMBINATIONS, POSTGRES_VENV_GPU, SQLITE_UV, TEMPLATE, Combination
from tests.conftest import Bake, only
from tests.sandbox import SCRIPTS, broken_links, environment, files, run

TREE = """
.devcontainer/devcontainer.json AGENTS.md app/web/docs.py tests/test_docs.py
.dockerignore .editorconfig .env.example .env.prod.example .gitattributes
.github/dependabot.yml .github/workflows/ci.yml .github/workflows/template-update.yml
.gitignore .pre-commit-config.yaml Dockerfile Makefile README.md alembic.ini
app/__init__.py app/__main__.py app/api_keys/__init__.py app/api_keys/__main__.py app/api_keys/models.py
app/api_keys/rest.py app/api_keys/schemas.py app/api_keys/service.py app/database_url.py
app/db/__init__.py app/db/columns.py app/db/database.py app/db/failures.py app/db/migrate.py app/db/postgres.py
app/db/search.py app/db/sqlite.py app/errors.py app/features.py app/files.py app/logs.py app/main.py app/settings.py
app/tasks/__init__.py app/tasks/feature.py app/tasks/models.py app/tasks/rest.py app/tasks/schemas.py
app/tasks/service.py app/tasks/tools.py app/traces.py app/web/__init__.py app/web/authentication.py app/web/connections.py
app/web/feature.py app/web/healthcheck.py app/web/mcp.py app/web/metrics.py app/web/middleware.py app/web/oauth.py
app/web/openapi.py app/web/probes.py app/web/problems.py app/web/routes.py app/web/schemas.py app/web/tool_calls.py
app/web/tools.py app/web/traces.py
compose.prod.yaml compose.yaml
deploy/README.md deploy/backup.sh deploy/caddy/Caddyfile deploy/grafana/dashboard.json
deploy/kubernetes/deployment.yaml deploy/kubernetes/kustomization.yaml deploy/kubernetes/network-policy.yaml
deploy/kubernetes/service.yaml deploy/prometheus/alerts.yml deploy/systemd/task-service-backup.service
deploy/systemd/task-service-backup.timer deploy/systemd/task-service.service
docs/add-a-feature.md docs/assistants.md docs/clients.md docs/design.md docs/operate.md docs/publish.md docs/update.md
gunicorn.conf.py
migrations/env.py migrations/script.py.mako migrations/versions/0001_api_keys.py migrations/versions/0002_tasks.py
pyproject.toml requirements-dev.txt requirements.txt
scripts/feature.py scripts/git_hook.sh scripts/skeleton/__init__.txt scripts/skeleton/feature.txt
scripts/skeleton/migration.txt scripts/skeleton/models.txt scripts/skeleton/rest.txt scripts/skeleton/schemas.txt
scripts/skeleton/service.txt scripts/skeleton/test_rest.txt scripts/skeleton/test_tools.txt scripts/skeleton/tools.txt
scripts/smoke.sh scripts/template_update.py
tests/__init__.py tests/collector.py tests/conftest.py tests/gizmos.py tests/load.py tests/server.py
tests/tasks/__init__.py tests/tasks/test_rest.py tests/tasks/test_tools.py
tests/test_api_keys.py tests/test_authentication.py tests/test_connections.py tests/test_cors.py tests/test_layers.py
tests/test_logs.py tests/test_mcp.py tests/test_metrics.py tests/test_migrations.py tests/test_oauth.py
tests/test_one_port.py tests/test_openapi.py tests/test_parameters.py tests/test_probes.py tests/test_problems.py
tests/test_reliability.py tests/test_rights.py
tests/test_settings.py tests/test_traces.py
"""
TREE_WITH = {
    "sqlite": """
app/db/backup.py
deploy/kubernetes/volume.yaml
tests/test_sqlite.py
""",
    "postgres": """
deploy/ecs/task-definition.json deploy/kubernetes/migration.yaml deploy/kubernetes/scaling.yaml
dev/__init__.py dev/postgres.py
tests/test_postgres.py
""",
}
TREE_WITH_GPU = """
app/duplicates/__init__.py app/duplicates/computation.py app/duplicates/feature.py app/duplicates/rest.py
app/duplicates/schemas.py app/duplicates/texts.py app/duplicates/tools.py
app/jobs/__init__.py app/jobs/computation.py app/jobs/feature.py app/jobs/healthcheck.py app/jobs/leases.py
app/jobs/metrics.py app/jobs/models.py app/jobs/queue.py app/jobs/rest.py app/jobs/runner.py app/jobs/schemas.py
app/jobs/service.py app/jobs/tools.py app/jobs/worker.py app/worker.py
compose.gpu.yaml
deploy/kubernetes/valkey.yaml deploy/systemd/task-service-worker.service
dev/__init__.py dev/valkey.py
docs/jobs.md
migrations/versions/0003_jobs.py
requirements-gpu.txt
scripts/check_cuda.py
tests/duplicates/__init__.py tests/duplicates/conftest.py tests/duplicates/fake_cupy.py
tests/duplicates/test_duplicates.py tests/duplicates/test_gpu.py tests/duplicates/test_interfaces.py
tests/duplicates/test_texts.py tests/duplicates/test_worker.py tests/jobs/__init__.py tests/jobs/conftest.py
tests/jobs/crashing_app.py tests/jobs/proxy.py tests/jobs/slow_worker.py tests/jobs/test_healthcheck.py
tests/jobs/test_jobs.py tests/jobs/test_leases.py tests/jobs/test_metrics.py tests/jobs/test_queue.py
tests/jobs/test_runner.py tests/jobs/test_traces.py tests/jobs/test_worker.py tests/jobs/workers.py
"""
TREE_WITH_GPU_ON_POSTGRES = "deploy/ecs/worker-task-definition.json deploy/kubernetes/worker.yaml"

DEVCONTAINER_SCHEMA = "https://raw.githubusercontent.com/devcontainers/spec/main/schemas/devContainer.base.schema.json"

WINDOWS_REFUSES = re.compile(r'[<>:"|?*\\\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)

REGISTRIES = ["docker.io/a", "quay.io/a", "123456789012.dkr.ecr.eu-central-1.amazonaws.com/a"]

# Python imports this first: it blocks the network and moves the clock.
GUARD = """
import datetime, sys, time

def refuse(event, arguments):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "socket.sendto")):
        raise RuntimeError(f"rendering reached for the network: {event} {arguments}")

class Later(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(days=DAYS)

now = time.time
time.time = lambda: now() + 86400 * DAYS
datetime.datetime = Later
sys.addaudithook(refuse)
"""


def guard(folder: Path, days: int = 0) -> dict[str, str]:
    """An environment in which Python has no network and a date in the future."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(GUARD.replace("DAYS", str(days)))
    return {"PYTHONPATH": str(folder)}


def render_guarded(folder: Path, combination: Combination, days: int) -> Path:
    """Render without a network, with a date in the future, and with no other program on PATH."""
    answers = [f"{question}={value}" for question, value in combination._asdict().items()]
    env = environment(PATH=str(folder / "none"), HOME=str(folder), **guard(folder / "guard", days))
    run(SCRIPTS / "cookiecutter", TEMPLATE, "--no-input", *answers, cwd=folder, env=env)
    return folder / "task-service"


def test_the_list_of_files_is_as_expected(baked: Path, combination: Combination) -> None:
    expected = [TREE, TREE_WITH[combination.database]]
    if combination.gpu:
        expected += [TREE_WITH_GPU, TREE_WITH_GPU_ON_POSTGRES if combination.database == "postgres" else ""]
    assert sorted(files(baked)) == sorted(set(" ".join(expected).split()))


def test_white_space_is_clean(baked: Path) -> None:
    faults = []
    for name, content in files(baked).items():
        text = content.decode("utf-8")
        checks = {
            "is empty": not text and not name.endswith("__init__.py"),
            "begins with a blank line": text.startswith("\n"),
            "does not end with one newline": bool(text) and not re.search(r"[^\n]\n\Z", text),
            "has trailing blanks": bool(re.search(r"[ \t]$", text, re.MULTILINE)),
            "has carriage returns": "\r" in text,
            # Python's rules, also for the skeleton of features and for examples in pages.
            "has two blank lines in a row": "\n\n\n" in re.sub(r"```python\n.+?```", "...", text, flags=re.DOTALL)
            and not (name.endswith((".py", ".mako")) or name.startswith("scripts/skeleton/")),
        }
        faults += [f"{name} {fault}" for fault, found in checks.items() if found]
    assert faults == []


def test_no_template_code_is_left(baked: Path) -> None:
    # GitHub, Docker, Prometheus and Grafana use braces too.
    jinja = re.compile(r"cookiecutter\.|\{%|(?<!\$)\{\{(?!\.|json \.|print \.| \$|\w+\}\})|\{#")
    assert [name for name, content in files(baked).items() if jinja.search(content.decode())] == []


def test_every_file_parses(baked: Path) -> None:
    parsers: dict[str, Callable[[str], object]] = {
        ".toml": tomli.loads,
        ".yaml": lambda text: list(yaml.safe_load_all(text)),
        ".yml": yaml.safe_load,
        ".json": json.loads,
    }
    for name, content in files(baked).items():
        if parse := parsers.get(Path(name).suffix):
            parse(content.decode())
    run(SCRIPTS / "ruff", "check", "--no-cache", "--quiet", ".", cwd=baked, env=environment())
    run(SCRIPTS / "ruff", "format", "--check", "--no-cache", "--quiet", ".", cwd=baked, env=environment())


def test_the_dockerfile_passes_hadolint_and_explains_exceptions(baked: Path) -> None:
    run(SCRIPTS / "hadolint", "--no-color", "Dockerfile", cwd=baked, env=environment())
    ignored = re.findall(r"^# hadolint ignore=\S+(.*)$", (baked / "Dockerfile").read_text(), re.MULTILINE)
    assert ignored
    assert all(re.match(r" # \w+ \w+", reason) for reason in ignored)


def test_a_development_container_forwards_both_ports(bake: Bake) -> None:
    container = json.loads((bake(api_port=9000, mcp_port=9001) / ".devcontainer" / "devcontainer.json").read_text())
    assert container["forwardPorts"] == [9000, 9001]
    assert container["portsAttributes"].keys() == {"9000", "9001"}


@pytest.mark.nightly
def test_the_development_container_matches_its_schema(bake: Bake) -> None:
    run(
        SCRIPTS / "check-jsonschema",
        "--schemafile",
        DEVCONTAINER_SCHEMA,
        ".devcontainer/devcontainer.json",
        cwd=bake(),
        env=environment(),
    )


@only(SQLITE_UV, POSTGRES_VENV_GPU)
def test_rendering_is_deterministic_and_needs_nothing_but_cookiecutter(
    baked: Path, combination: Combination, tmp_path: Path
) -> None:
    assert files(render_guarded(tmp_path / "later", combination, days=400)) == files(baked)


def test_cuda_has_its_own_lock(baked: Path, combination: Combination) -> None:
    locks = {lock.name: "nvidia-cublas==" in lock.read_text() for lock in baked.glob("requirements*.txt")}
    expected = {"requirements.txt": False, "requirements-dev.txt": False}
    assert locks == (expected | {"requirements-gpu.txt": True} if combination.gpu else expected)


# People append to these files: if the line above theirs depended on an answer, changing that would conflict.
APPENDED_TO = [
    *("README.md", "Makefile", "pyproject.toml", ".env.example", ".env.prod.example"),
    *(".gitignore", ".dockerignore", ".gitattributes", ".editorconfig", ".pre-commit-config.yaml"),
]


def test_last_lines_of_files_that_people_append_to_depend_on_no_answer(bake: Bake) -> None:
    answers = [
        *(each._asdict() for each in COMBINATIONS),
        *({"registry": registry, "gpu": True} for registry in REGISTRIES),
        {"project_name": "Other", "description": "Other.", "api_port": "9000", "mcp_port": "9001"},
    ]
    projects = [bake(**each) for each in answers]
    for name in APPENDED_TO:
        ends = {tuple((project / name).read_text(encoding="utf-8").splitlines()[-3:]) for project in projects}
        assert len(ends) == 1, name


def test_keys_in_the_files_of_ai_assistants_and_in_env_files_are_ignored_by_git(baked: Path, tmp_path: Path) -> None:
    env = environment(GIT_DIR=str(tmp_path), GIT_WORK_TREE=str(baked), GIT_CONFIG_GLOBAL="/dev/null")
    run("git", "init", "--quiet", cwd=baked, env=env)
    secret = [
        ".env",
        ".env.prod",
        ".env.local",
        ".mcp.json",
        ".cursor/mcp.json",
        ".vscode/mcp.json",
        ".kiro/settings/mcp.json",
    ]
    ignored = run("git", "check-ignore", "--no-index", *secret, cwd=baked, env=env).stdout.splitlines()
    assert ignored == secret


def test_production_fits_a_host_with_one_cpu(baked: Path) -> None:
    for file in baked.glob("compose.*.yaml"):
        text = file.read_text(encoding="utf-8").replace("${CPUS:-1}", "1")
        for name, service in yaml.safe_load(text)["services"].items():
            limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
            assert float(limits.get("cpus", 1)) <= 1, f"{name} in {file.name}"


def test_development_publishes_only_its_own_ports(baked: Path) -> None:
    services = yaml.safe_load((baked / "compose.yaml").read_text(encoding="utf-8"))["services"]
    published = [port.split(":")[1] for service in services.values() for port in service.get("ports", []) if port]
    assert sorted(filter(None, published)) == ["8000", "8051"]


def test_buildah_understands_the_dockerfile(baked: Path) -> None:
    dockerfile = (baked / "Dockerfile").read_text(encoding="utf-8")
    assert "--start-interval" not in dockerfile
    targets = re.findall(r"target=([^ ,]+)", dockerfile)
    assert targets
    assert all(target.startswith("/") for target in targets)


def test_the_pages_show_the_stages_of_the_dockerfile(baked: Path) -> None:
    picture = (baked / "README.md").read_text(encoding="utf-8").partition("flowchart LR\n")[2].partition("```")[0]
    drawn = set[tuple[str, str]]()
    for line in picture.splitlines():
        stages = re.split(r" -\.?-> ", line.strip())
        drawn |= set(pairwise(stages))
    built = set[tuple[str, str]]()
    stage = ""
    for line in (baked / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if begun := re.match(r"FROM (\S+) AS (\S+)", line):
            stage = begun[2]
            built.add((begun[1], stage))
        elif copied := re.match(r"COPY --from=(\S+)", line):
            built.add((copied[1], stage))
    assert drawn == {(source, target) for source, target in built if target != "base"}


def pages(project: Path) -> list[Path]:
    return [*project.glob("*.md"), *project.glob("docs/*.md"), project / "deploy" / "README.md"]


def test_the_readme_and_the_notes_for_coding_assistants_are_short(baked: Path) -> None:
    lines = {name: (baked / name).read_text(encoding="utf-8").count("\n") for name in ("README.md", "AGENTS.md")}
    assert lines["README.md"] <= 150
    assert lines["AGENTS.md"] <= 60


def test_no_link_in_the_pages_is_broken(baked: Path) -> None:
    assert {page.name: broken for page in pages(baked) if (broken := broken_links(page))} == {}


def test_pages_mention_only_existing_targets_modules_and_files(baked: Path) -> None:
    makefile = (baked / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    targets |= {f"worker-{target}" for target in targets} if "\nworker-%:" in makefile else set()
    for page in pages(baked):
        text = page.read_text(encoding="utf-8")
        named = set(" ".join(re.findall(r"\bmake ((?:[a-z][a-z-]+(?= |`|\n|,|$) ?)+)", code(text))).split())
        assert named <= targets, page.name
        for module in re.findall(r"python -m (app[\w.]*)", text):
            path = baked / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{module} in {page.name}"
        for name in re.findall(r"`((?:app|deploy|scripts|tests)/[\w./-]+)`", text):
            assert (baked / name).exists() or "books" in name, f"{name} in {page.name}"


def code(page: str) -> str:
    """The code of a page: in blocks and between backticks."""
    return "\n".join(block or inline for block, inline in re.findall(r"```\w+\n(.+?)```|`([^`\n]+)`", page, re.DOTALL))


def test_git_tracks_every_rendered_file(baked: Path, tmp_path: Path) -> None:
    env = environment(GIT_DIR=str(tmp_path), GIT_WORK_TREE=str(baked), GIT_CONFIG_GLOBAL="/dev/null")
    run("git", "init", "--quiet", cwd=baked, env=env)
    untracked = run("git", "ls-files", "--others", "--exclude-standard", cwd=baked, env=env).stdout.splitlines()
    assert sorted(untracked) == sorted(files(baked))


def test_file_names_are_valid_on_windows() -> None:
    names = run("git", "ls-files", "-coz", "--exclude-standard", cwd=TEMPLATE, env=environment()).stdout.split("\0")
    parts = {part for name in names for part in name.split("/")}
    assert [part for part in parts if WINDOWS_REFUSES.search(part)] == []
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize("name", ["a:b", "con", "NUL.txt", "a ", "a.", 'a"b', "a|b", "COM1"])
def test_the_check_of_windows_names_finds_invalid_ones(name: str) -> None:
    assert WINDOWS_REFUSES.search(name)
