"""The answers: which are rejected, with which messages, and that the questions work at a terminal."""

import functools
import importlib.metadata
import json
import os
import re
import runpy
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pexpect
import pytest
from cookiecutter.generate import generate_context
from cookiecutter.prompt import prompt_for_config
from cookiecutter.utils import create_env_with_context, work_in

from tests.combinations import COMBINATIONS, QUESTIONS, TEMPLATE
from tests.conftest import Bake
from tests.sandbox import SCRIPTS, environment, run

RELEASED = json.loads((TEMPLATE / "tests" / "released.json").read_text(encoding="utf-8"))
"""The questions of the last release: `make release` writes them."""

TEXT = ["project_name", "description"]
PORTS = ["api_port", "mcp_port"]

BAD_ANSWERS = [
    *((question, value, "must not be empty") for question in TEXT for value in ("", " ", "\u00a0")),
    *((question, f"a {code} b", "must not contain {% or {# or {{") for question in TEXT for code in ("{{", "{%", "{#")),
    *(
        (question, f"a{character}b", "must be one line without control characters")
        for question in TEXT
        for character in "\n\r\t\0\x1b\x7f\x85\u2028\u2029\u202e\u2066\ufffe\U0001ffff\udc80"
    ),
    *((question, value, "must not start or end with a space") for question in TEXT for value in (" a", "a ")),
    ("project_name", "x" * 51, "must have at most 50 characters"),
    ("description", "x" * 301, "must have at most 300 characters"),
    *(
        ("project_slug", value, "must be lower-case letters, digits and single hyphens, starting with a letter")
        for value in (
            "",
            "Tasks",
            "1task",
            "-task",
            "task-",
            "a--b",
            "a_b",
            "a b",
            "a.b",
            "täsk",
            "a/b",
            "..",
            "task\n",
        )
    ),
    ("project_slug", "a" * 51, "must have at most 50 characters"),
    *(("project_slug", value, "must not be a host name that the service uses") for value in ("database", "valkey")),
    ("project_slug", "template1", "must not be a database that PostgreSQL creates itself"),
    ("project_slug", "root", "must not be the name of the superuser"),
    *(("project_slug", value, "must not be a package that the service depends on") for value in ("mcp", "pytest-cov")),
    *(("project_slug", value, "must not be a Windows device name") for value in ("con", "lpt1")),
    *(
        ("registry", value, "must be host[:port]/namespace in lower case")
        for value in (
            *("", "ghcr.io", "ghcr.io/", "ghcr.io/your-org/", "/your-org", "your-org", "your-org/team", "ghcr.io//a"),
            *("https://ghcr.io/your-org", "ghcr.io/Your-Org", "GHCR.io/your-org", "ghcr.io/a b", "ghcr.io/a:latest"),
            *("registry.example.com:/team", "registry.example.com:65536/team", "registry.example.com:0/team"),
            *("ghcr.io/-a", "ghcr.io/a-", "ghcr.io/a...b", f"ghcr.io/{'a' * 200}", "ghcr.io/a\n", "user@ghcr.io/a"),
            *("-ghcr.io/a", "ghcr-.io/a", "ghcr..io/a"),
        )
    ),
    *(
        ("registry", f"{host}/team", "must include the account and the region of Amazon ECR")
        for host in (
            "team.dkr.ecr.amazonaws.com",
            "dkr.ecr.eu-central-1.amazonaws.com",
            "team.dkr.ecr.eu-central-1.amazonaws.com",
            "123456789012.dkr.ecr.amazonaws.com",
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com:443",
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com.example.com",
            "ecr.eu-central-1.amazonaws.com",
        )
    ),
    ("registry", "docker.io/your-name/more", "must have exactly one name after docker.io/"),
    *(
        (question, value, "must be a whole number from 1024 to 65535")
        for question in PORTS
        for value in (
            "",
            "http",
            "80",
            "1023",
            "65536",
            "08000",
            "8000.0",
            "-8000",
            "+8000",
            "８０００",
            "8000\n",
            "1e4",
        )
    ),
    *((question, value, "must be neither 5432 nor 6379") for question in PORTS for value in ("5432", "6379")),
    ("mcp_port", "8000", "must differ from api_port"),
]

GOOD_ANSWERS = [
    *(
        (question, value)
        for question in TEXT
        for value in ("a", "x" * 50, "{a} }} $b `c` \\n", "任务 👩\u200d💻 🏴󠁧󠁢󠁳󠁣󠁴󠁿 e\u0301")
    ),
    ("description", "x" * 300),
    *(("project_slug", value) for value in ("a", "a" * 50, "task-2-go", "tasks", "http2")),
    *(("project_slug", value) for value in ("email", "calendar", "queue", "class", "api", "postgres")),
    *(
        ("registry", value)
        for value in (
            *("ghcr.io/your-org", "123456789012.dkr.ecr.eu-central-1.amazonaws.com/your-team", "docker.io/your-name"),
            *("registry.example.com:5000/your-team", "localhost:5000/a", "localhost/a", "registry:5000/a"),
            *("1.dkr.example.com/a", "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com/a"),
            "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com/a",
            "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/a",
            *("registry.gitlab.com/group/sub-group/project", "quay.io/a_b/c__d.e", "10.0.0.1:65535/a"),
        )
    ),
    *((question, value) for question in PORTS for value in ("1024", "65535", "9000")),
]


@functools.cache
def default_answers() -> dict[str, Any]:
    return dict(prompt_for_config(generate_context(str(TEMPLATE / "cookiecutter.json")), no_input=True))


def context_of(**answers: object) -> dict[str, Any]:
    """The context of the hooks if these answers were typed at the prompts; an answer of `...` is removed."""
    known = {"_template": "gh:your-org/template", "_checkout": None, "_output_dir": "/out", "_repo_dir": str(TEMPLATE)}
    given = {**default_answers(), **known, **answers}
    return {"cookiecutter": {name: value for name, value in given.items() if value is not ...}}


def run_hook(name: str, folder: Path, **answers: object) -> None:
    """Run a hook as cookiecutter does, but in this process."""
    context = context_of(**answers)
    source = (TEMPLATE / "hooks" / f"{name}.py").read_text(encoding="utf-8")
    hook = folder.parent / f"{folder.name}-{name}.py"
    hook.write_text(create_env_with_context(context).from_string(source).render(**context), encoding="utf-8")
    with work_in(folder):
        runpy.run_path(str(hook), run_name="__main__")


def snapshot(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(("question", "value", "rule"), BAD_ANSWERS)
def test_an_invalid_answer_is_rejected_with_its_rule_and_an_example(
    question: str, value: str, rule: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as refusal:
        run_hook("pre_gen_project", tmp_path, **{question: value})
    assert re.search(rf"^  {question} .* {re.escape(rule)}.*\. Example: ", str(refusal.value), re.MULTILINE)


@pytest.mark.parametrize(("question", "value"), GOOD_ANSWERS)
def test_a_valid_answer_is_accepted(question: str, value: str, tmp_path: Path) -> None:
    run_hook("pre_gen_project", tmp_path, **{question: value})


def test_every_choice_is_tested() -> None:
    chosen = {(question, value) for each in COMBINATIONS for question, value in each._asdict().items()}
    asked = {question: values for question, values in QUESTIONS.items() if not question.startswith("_")}
    offered = {(question, value) for question, values in asked.items() if type(values) is list for value in values}
    assert chosen == offered | {("gpu", False), ("gpu", True)}


def test_names_of_dependencies_are_rejected(bake: Bake, tmp_path: Path) -> None:
    with_uv = [each for each in COMBINATIONS if each.package_manager == "uv"]
    projects = [(bake(**combination._asdict()) / "pyproject.toml").read_text() for combination in with_uv]
    names = set(re.findall(r'^    "([a-z0-9-]+)[\[>]', "".join(projects), re.MULTILINE))
    assert {"fastapi", "asyncpg", "celery", "pytest"} < names
    for name in names:
        with pytest.raises(SystemExit, match="must not be a package that the service depends on"):
            run_hook("pre_gen_project", tmp_path, project_slug=name)


def breaking_changes(released: dict[str, Any], questions: dict[str, Any]) -> list[str]:
    """Changes that stop projects of a release from replaying their answers. Private variables are not replayed."""
    faults = []
    for question, old in released.items():
        if question.startswith("_"):
            continue
        new: Any = questions.get(question)
        if type(new) is not type(old):
            faults.append(f"{question} is gone, or of another type")
        elif isinstance(old, list):
            faults += [f"{question} no longer offers {value}" for value in old if value not in new]
    return faults


def test_every_answer_of_the_last_release_can_still_be_given() -> None:
    assert breaking_changes(RELEASED, QUESTIONS) == []


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"registry": None}, ["registry is gone, or of another type"]),
        ({"registry": ["ghcr.io"]}, ["registry is gone, or of another type"]),
        ({"gpu": ["no", "yes"]}, ["gpu is gone, or of another type"]),
        ({"api_port": 8000}, ["api_port is gone, or of another type"]),
        ({"database": ["postgres", "mysql"]}, ["database no longer offers sqlite"]),
        ({"package_manager": ["pip", "venv", "uv", "more"], "another": True, "__lock": None}, []),
    ],
)
def test_breaking_changes_of_questions_are_found(changes: dict[str, object], faults: list[str]) -> None:
    questions = {question: value for question, value in {**RELEASED, **changes}.items() if value is not None}
    assert breaking_changes(RELEASED, questions) == faults


@pytest.mark.parametrize(
    ("registry", "kind"),
    [
        ("ghcr.io/your-org", "ghcr"),
        ("docker.io/your-name", "dockerhub"),
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com/your-team", "ecr"),
        ("registry.example.com:5000/ghcr.io", "other"),
        ("ghcr.io.example.com/your-org", "other"),
    ],
)
def test_the_kind_of_registry_depends_on_its_host(registry: str, kind: str) -> None:
    context = generate_context(str(TEMPLATE / "cookiecutter.json"), extra_context={"registry": registry})
    assert prompt_for_config(context, no_input=True)["__registry_kind"] == kind


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Task Service", "task-service"),
        ("Größe & Ärger", "grosse-arger"),
        ("🚀", "service"),
        ("42 Tasks", "service-42-tasks"),
        ('Ann\'s "Tasks" \\ {x}', "ann-s-tasks-x"),
        ("任务", "ren-wu"),
        ("a" * 49 + " bc", "a" * 49),
    ],
)
def test_the_slug_is_derived_from_the_name(name: str, slug: str) -> None:
    context = generate_context(str(TEMPLATE / "cookiecutter.json"), extra_context={"project_name": name})
    assert prompt_for_config(context, no_input=True)["project_slug"] == slug


def cookiecutter(
    folder: Path, *arguments: str, status: int = 0, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run cookiecutter in `folder/work` as a user does."""
    for name in ("home", "work"):
        (folder / name).mkdir(exist_ok=True)
    env = environment(
        HOME=str(folder / "home"), PWD=str(folder / "work"), PATH=f"{path or SCRIPTS}:{os.environ['PATH']}"
    )
    return run(SCRIPTS / "cookiecutter", *arguments, cwd=folder / "work", env=env, status=status)


def test_all_errors_are_listed_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    bad = {"project_name": " ", "project_slug": "Über", "registry": "ghcr.io", "api_port": "80"}
    answers = [f"{question}={value}" for question, value in bad.items()]
    message = cookiecutter(tmp_path, str(TEMPLATE), "--no-input", *answers, status=1).stderr
    assert re.findall(r"^  (\w+) '", message.partition("Traceback")[0], re.MULTILINE) == list(bad)
    assert snapshot(tmp_path / "work") == []


@pytest.mark.parametrize("slug", ["a/b", "a/b/c", "../evil", "../x/y", "{}/x/y", "a\\b", ".hidden", "", ".", "x" * 300])
def test_a_slug_that_is_a_path_leaves_no_folder_behind(slug: str, tmp_path: Path) -> None:
    (tmp_path / "work" / "kept").mkdir(parents=True)
    cookiecutter(tmp_path, str(TEMPLATE), "--no-input", f"project_slug={slug.format(tmp_path)}", status=1)
    assert snapshot(tmp_path / "work") == [tmp_path / "work" / "kept"]
    assert {path.name for path in tmp_path.iterdir()} == {"home", "work"}


@pytest.mark.parametrize("found", ["1.7.3", "2.1.1", "2.0"])
def test_an_old_cookiecutter_is_rejected_by_its_version(
    found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"cookiecutter": found}[name])
    with pytest.raises(
        SystemExit, match=f"cookiecutter {found} is too old for this template, which needs 2.2 or newer"
    ):
        run_hook("pre_gen_project", tmp_path, _repo_dir=...)


@pytest.mark.parametrize("found", ["2.2.3", "2.10", "3.0.0rc1", "unknown"])
def test_a_newer_cookiecutter_is_accepted(found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"cookiecutter": found}[name])
    run_hook("pre_gen_project", tmp_path, _repo_dir=...)


GOOD = {
    "project_name": 'Ann\'s "Größe" \\ $HOME `id` 🚀',
    "description": "It's 100 % !! fine; & more",
    "registry": "localhost:5000/a",
    "database": "postgres",
}


@pytest.mark.parametrize("on_path", [True, False])
def test_the_printed_command_keeps_the_valid_answers_and_asks_for_the_others(on_path: bool, tmp_path: Path) -> None:
    answers = [f"{question}={value}" for question, value in GOOD.items()]
    bad = ["api_port=80", "mcp_port=80", "project_slug=Bad"]
    message = cookiecutter(
        tmp_path, str(TEMPLATE), "--no-input", *answers, *bad, status=1, path=None if on_path else tmp_path
    ).stderr
    command = message.partition("with the good answers:\n")[2].splitlines()[0]
    assert command.split()[0] == ("cookiecutter" if on_path else str(SCRIPTS / "cookiecutter"))
    assert "port" not in command
    assert "slug" not in command

    env = environment(HOME=str(tmp_path / "home"), PATH=f"{SCRIPTS}:{os.environ['PATH']}")
    run("sh", "-c", command, cwd=tmp_path / "work", env=env, stdin="\n" * 20)
    rendered = tmp_path / "work" / "ann-s-grosse-home-id"
    replay = json.loads(next((tmp_path / "home" / ".cookiecutter_replay").iterdir()).read_text())["cookiecutter"]
    assert {question: replay[question] for question in GOOD} == GOOD
    assert (replay["api_port"], replay["mcp_port"]) == ("8000", "8051")
    assert (rendered / "dev" / "postgres.py").exists()


def test_the_printed_command_names_the_version_and_the_folder(tmp_path: Path, template_clone: Path) -> None:
    run("git", "tag", "-f", "1.0", cwd=template_clone, env=environment())
    arguments = ["--no-input", "--checkout", "1.0", "--output-dir", str(tmp_path / "else where"), "api_port=1"]
    message = cookiecutter(tmp_path, f"git+file://{template_clone}", *arguments, status=1).stderr
    command = shlex.split(message.partition("with the good answers:\n")[2].splitlines()[0])
    assert command[:6] == [
        *(
            "cookiecutter",
            f"git+file://{template_clone}",
            "--checkout",
            "1.0",
            "--output-dir",
            str(tmp_path / "else where"),
        )
    ]


def test_hooks_work_without_the_checkout_that_cookiecutter_2_2_and_2_3_do_not_pass(
    tmp_path: Path, template_clone: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run("git", "clone", "--quiet", str(template_clone), "clone", cwd=tmp_path, env=environment())
    known = {"_checkout": ..., "_template": f"git+file://{template_clone}", "_repo_dir": str(tmp_path / "clone")}
    project = tmp_path / "a project"
    project.mkdir()
    with pytest.raises(SystemExit, match="with the good answers:\n"):
        run_hook("pre_gen_project", project, api_port="1", **known)
    run_hook("post_gen_project", project, **known)
    assert json.loads((project / ".cruft.json").read_text(encoding="utf-8"))["checkout"] is None
    assert capfd.readouterr().out.splitlines()[-2:] == [f"  cd '{project}'", "  make dev"]


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    existing = tmp_path / "work" / "task-service"
    existing.mkdir(parents=True)
    (existing / "mine").touch()
    result = cookiecutter(tmp_path, str(TEMPLATE), "--no-input", status=1)
    assert "already exists" in result.stdout
    cookiecutter(tmp_path, str(TEMPLATE), "--no-input", "--overwrite-if-exists", "api_port=1", status=1)
    assert snapshot(existing) == [existing / "mine"]


def test_the_questions_are_in_plain_language(tmp_path: Path) -> None:
    terminal = pexpect.spawn(
        str(SCRIPTS / "cookiecutter"),
        [str(TEMPLATE)],
        cwd=str(tmp_path),
        env=environment(HOME=str(tmp_path), COLUMNS="200", LINES="24", TERM="dumb"),
        encoding="utf-8",
        dimensions=(24, 200),
        timeout=20,
    )
    typed = {
        "project_name": "Größe [bold] 🚀",
        "project_slug": "",
        "description": "It's {one} sentence",
        "database": "2",
        "package_manager": "",
        "gpu": "n",
        "registry": "localhost:5000/a",
        "api_port": "9000",
        "mcp_port": "",
    }
    for number, (question, answer) in enumerate(typed.items(), start=1):
        prompt = QUESTIONS["__prompts__"][question]
        asked = prompt["__prompt__"] if isinstance(prompt, dict) else prompt
        terminal.expect_exact(f"[{number}/9] {asked}")
        for choice in prompt if isinstance(prompt, dict) else []:
            if choice != "__prompt__":
                terminal.expect_exact(prompt[choice])
        terminal.expect(r"\): ?")
        terminal.sendline(answer)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0, terminal.before
    rendered = tmp_path / "grosse-bold"
    assert 'TITLE = "Größe [bold] 🚀"' in (rendered / "app" / "settings.py").read_text()
    assert "port: Port = 9000" in (rendered / "app" / "settings.py").read_text()
    assert (rendered / "dev" / "postgres.py").exists()
    assert f"cd {rendered}" in str(terminal.before)


def test_cruft_rejects_invalid_answers_too(template_clone: Path, tmp_path: Path) -> None:
    arguments = ["--no-input", "--output-dir", str(tmp_path), "--extra-context"]
    bad = {"project_name": "It's", "api_port": "80", "project_slug": "a/b"}
    command = [str(SCRIPTS / "cruft"), "create", str(template_clone), *arguments]
    message = run(*command, json.dumps(bad), cwd=tmp_path, env=environment(), status=1).stderr
    assert snapshot(tmp_path) == []
    assert "  api_port '80' must be a whole number" in message
    assert "  project_slug 'a/b' must be lower-case" in message
    again = shlex.split(message.partition("with the good answers:\n")[2].splitlines()[0])
    assert again[:3] == ["cruft", "create", str(template_clone)]
    run(*command, again[-1], cwd=tmp_path, env=environment())
    assert 'TITLE = "It\'s"' in (tmp_path / "it-s" / "app" / "settings.py").read_text()


def test_rendering_removes_empty_folders_and_prints_the_next_steps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a/b/c", ".github/workflows", "kept", ".git/refs/tags", ".venv/lib"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "kept" / "file").touch()
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    (elsewhere / "empty").mkdir(parents=True)
    (tmp_path / "kept" / "link").symlink_to(elsewhere)
    run_hook("post_gen_project", tmp_path, project_name='It\'s "{x}" \\ 🚀', _template=str(TEMPLATE))
    assert {path.relative_to(tmp_path).as_posix() for path in snapshot(tmp_path)} == {
        *("kept", "kept/file", "kept/link", ".git", ".git/refs", ".git/refs/tags", ".venv", ".venv/lib")
    }
    assert (elsewhere / "empty").is_dir()
    told = capfd.readouterr().out
    assert told.splitlines() == [
        "",
        'It\'s "{x}" \\ 🚀 is ready. Next steps, with more in README.md:',
        f"  cd {tmp_path}",
        "  make dev",
        "`make template-update` will not work, because the template is a local directory. "
        "To enable updates, run `cruft link URL` in the project.",
    ]
