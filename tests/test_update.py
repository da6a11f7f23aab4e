"""Updates of rendered projects: their origin, what they change, keep and refuse, and how they are proposed."""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests import actions, updates
from tests.combinations import POSTGRES_PIP_GPU, QUESTIONS, SQLITE_UV, SQLITE_VENV, Combination
from tests.conftest import only
from tests.sandbox import SCRIPTS, run
from tests.test_answers import run_hook
from tests.test_render import guard
from tests.test_workflows import REGISTRIES
from tests.updates import (
    ADDED,
    ADDED_TO_DEPLOY,
    ADDRESS,
    RELEASE,
    REMOVED,
    SKIPPED,
    as_updated,
    change,
    commit,
    reformat,
    render,
    tree,
    user,
)


@pytest.fixture
def env(github: Path, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return user(github, tmp_path / "home")


def cruft(project: Path, env: Mapping[str, str], *arguments: str, status: int = 0) -> str:
    printed = run(SCRIPTS / "cruft", *arguments, cwd=project, env=env, status=status)
    return printed.stdout + printed.stderr


def template_update(
    project: Path, env: Mapping[str, str], arguments: str = "", status: int = 0, tools: Path = SCRIPTS
) -> str:
    """Run the project's own command with the tools of these tests."""
    command = ["make", "template-update", f"BIN={tools}", f"ARGS={arguments}"]
    printed = run(*command, cwd=project, env={**env, "UV_PYTHON": sys.executable}, status=status)
    return printed.stdout + printed.stderr


def git(project: Path, env: Mapping[str, str], *arguments: str) -> str:
    return run("git", *arguments, cwd=project, env=env).stdout


@pytest.fixture(scope="session")
def rendered_before(github: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project from the previous release; to be copied."""
    folder = tmp_path_factory.mktemp("before")
    return render(folder / "project", user(github, folder), "--checkout", RELEASE)


@pytest.fixture(scope="session")
def newest(github: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project from the current template; read-only."""
    folder = tmp_path_factory.mktemp("newest")
    return render(folder / "project", user(github, folder))


@pytest.fixture
def project(rendered_before: Path, tmp_path: Path) -> Path:
    return shutil.copytree(rendered_before, tmp_path / "task-service")


@pytest.fixture
def no_resolver(tmp_path: Path) -> Path:
    """Tools that do not change locks, for tests that are not about them."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, command in {"python": f'exec {sys.executable} "$@"', "cruft": "exit 1", "uv": "exit 0"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / name).chmod(0o755)
    return folder


def conflicts(project: Path, env: Mapping[str, str]) -> list[str]:
    return git(project, env, "diff", "--name-only", "--diff-filter=U").splitlines()


HOSTILE = 'Ann\'s "Größe" \\ $HOME `id` {x} 🚀'

RENDERED = [
    (POSTGRES_PIP_GPU._asdict(), None),
    ({"project_name": HOSTILE, "description": HOSTILE, "registry": REGISTRIES["ecr"], "mcp_port": "9000"}, RELEASE),
]


@pytest.mark.parametrize(("answers", "checkout"), RENDERED)
def test_cookiecutter_and_cruft_render_and_record_the_same_bytes(
    answers: dict[str, object], checkout: str | None, env: dict[str, str], tmp_path: Path
) -> None:
    version = ["--checkout", checkout] if checkout else []
    project = render(tmp_path / "cookiecutter", env | guard(tmp_path / "today"), *version, **answers)
    command = ["create", ADDRESS, "--no-input", "--output-dir", "cruft", *version]
    later = env | guard(tmp_path / "later", days=400)
    cruft(tmp_path, later, *command, "--extra-context", json.dumps(answers))
    [created] = (tmp_path / "cruft").iterdir()
    assert tree(project) == tree(created)
    assert b"checkout" in tree(project)[".cruft.json"]


def test_cruft_can_check_compare_and_update_what_cookiecutter_rendered(
    project: Path, newest: Path, env: dict[str, str]
) -> None:
    assert "up to date" in cruft(newest, env, "check")
    assert cruft(newest, env, "diff", "--exit-code") == ""
    assert "Nothing to do" in cruft(newest, env, "update")
    assert git(newest, env, "status", "--porcelain") == ""

    assert "out of date" in cruft(project, env, "check", status=1)
    cruft(project, env, "update", "--skip-apply-ask")
    assert tree(project) == as_updated(newest, project)


def test_a_project_that_is_up_to_date_is_not_changed(newest: Path, env: dict[str, str], tmp_path: Path) -> None:
    project = shutil.copytree(newest, tmp_path / "task-service")
    (project / ".env").write_text("Ignored.\n")
    before = tree(project)
    assert "Merged" not in template_update(project, env)
    assert tree(project) == before


NO_REMOTE = "is not a git repository with a remote"
UNTRACKED = [
    (f"git clone --quiet {ADDRESS} template", "./template", "is a local directory"),
    (f"git clone -q {ADDRESS} template; git -C template archive --prefix=t/ -o ../a.zip HEAD", "./a.zip", NO_REMOTE),
]


@pytest.mark.parametrize(("make", "template", "reason"), UNTRACKED)
def test_an_origin_that_cannot_be_recorded_is_reported_in_one_line(
    make: str, template: str, reason: str, env: dict[str, str], tmp_path: Path
) -> None:
    run("sh", "-ec", make, cwd=tmp_path, env=env)
    command = (template, "--no-input", "--output-dir", "out")
    told = run(SCRIPTS / "cookiecutter", *command, cwd=tmp_path, env=env).stdout.splitlines()
    assert [line for line in told if "because the template" in line] == [
        f"`make template-update` will not work, because the template {reason}. "
        "To enable updates, run `cruft link URL` in the project."
    ]
    assert not (tmp_path / "out" / "task-service" / ".cruft.json").exists()


def record_origin(alter: str, env: Mapping[str, str], folder: Path) -> str | None:
    """What is recorded for cookiecutter's clone of a template if it was altered like this."""
    cached = folder / "home" / ".cookiecutters" / "template"
    cached.parent.mkdir()
    run("sh", "-ec", f"git clone --quiet {ADDRESS} {cached} && cd {cached} && {alter}", cwd=folder, env=env)
    (folder / "task-service").mkdir()
    run_hook("post_gen_project", folder / "task-service", _template="template", _repo_dir=str(cached))
    recorded = folder / "task-service" / ".cruft.json"
    return recorded.read_text(encoding="utf-8") if recorded.exists() else None


ALTERED = [
    ("touch new", "has uncommitted changes"),
    ("echo >> LICENSE", "has uncommitted changes"),
    ("git -c user.name=- -c user.email=- commit -q --allow-empty -m new", "has commits that were not pushed"),
    ("git remote remove origin", NO_REMOTE),
    ("rm -rf .git", NO_REMOTE),
    ("rm -rf .git; cd .. && git init --quiet", "is only a part of a git repository"),
]


@pytest.mark.parametrize(("alter", "reason"), ALTERED)
def test_no_origin_is_recorded_for_an_altered_template(
    alter: str, reason: str, env: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert record_origin(alter, env, tmp_path) is None
    assert f"because the template {reason}." in capfd.readouterr().out


def test_no_origin_is_recorded_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    run_hook("post_gen_project", tmp_path, _template="template", _repo_dir=str(tmp_path))
    assert not (tmp_path / ".cruft.json").exists()
    assert f"because the template {NO_REMOTE}." in capfd.readouterr().out


URL = ADDRESS.removeprefix("https://")
CREDENTIALS = [
    (f"https://user:token@{URL}", ADDRESS),
    (f"https://token@{URL}", ADDRESS),
    (f"https://user:to%40k@en@{URL}?private_token=token#token", ADDRESS),
    ("ftp://user:token@host/template.git", "ftp://host/template.git"),
    ("ssh://git@host:2222/a@b.git", "ssh://git@host:2222/a@b.git"),
    ("ssh://git:token@host/template.git", "ssh://git@host/template.git"),
    ("git@github.com:your-org/template.git", "git@github.com:your-org/template.git"),
    ("/srv/user:token@host/template.git", "/srv/user:token@host/template.git"),
    ("file:///srv/template.git", "/srv/template.git"),
]


@pytest.mark.parametrize(("cloned", "recorded"), CREDENTIALS)
def test_no_credentials_in_the_template_s_url_are_recorded(
    cloned: str, recorded: str, env: dict[str, str], tmp_path: Path
) -> None:
    origin = record_origin(f"git remote set-url origin '{cloned}'", env, tmp_path)
    assert origin
    assert json.loads(origin)["template"] == json.loads(origin)["context"]["cookiecutter"]["_template"] == recorded
    assert "token" not in origin or recorded.startswith("/")


def test_it_can_be_linked_later(newest: Path, env: dict[str, str], tmp_path: Path) -> None:
    project = shutil.copytree(newest, tmp_path / "task-service")
    recorded = (project / ".cruft.json").read_bytes()
    (project / ".cruft.json").unlink()
    cruft(project, env, "link", ADDRESS, "--no-input")
    assert (project / ".cruft.json").read_bytes() == recorded


@only(SQLITE_UV, SQLITE_VENV, POSTGRES_PIP_GPU)
def test_an_update_merges_the_template_s_changes_and_keeps_the_user_s(
    combination: Combination, updated: Path, env: dict[str, str], tmp_path: Path
) -> None:
    before = tmp_path / "before"
    run("git", "clone", "--quiet", updated, before, cwd=tmp_path, env=env)
    newest = render(tmp_path / "newest", env, **combination._asdict())
    change(newest)
    expected = as_updated(newest, before)
    assert tree(before) != expected
    assert expected != tree(newest)

    assert tree(updated) == expected
    assert conflicts(updated, env) == []


def test_a_conflict_in_one_file_leaves_the_others_merged(
    project: Path, newest: Path, env: dict[str, str], tmp_path: Path
) -> None:
    change(project)
    (project / REMOVED[0]).write_text("ours = True\n")
    commit(project, env)
    newest = shutil.copytree(newest, tmp_path / "newest" / project.name)
    change(newest)
    assert re.findall("^app/.*", template_update(project, env, status=2), re.MULTILINE) == [REMOVED[0]]
    reformat(project)
    assert tree(project) == {**as_updated(newest, project), REMOVED[0]: b"ours = True\n"}


def test_a_project_in_a_subdirectory_of_a_larger_repository_is_updated(
    project: Path, newest: Path, env: dict[str, str], no_resolver: Path, tmp_path: Path
) -> None:
    inner = tmp_path / "larger" / "services" / "tasks"
    shutil.copytree(project, inner, ignore=shutil.ignore_patterns(".git"))
    (tmp_path / "larger" / "README.md").write_text("Ours.\n")
    run("git", "init", "--quiet", cwd=tmp_path / "larger", env=env)
    commit(tmp_path / "larger", env)
    template_update(inner, env, tools=no_resolver)
    assert tree(inner) == as_updated(newest, project)
    assert (tmp_path / "larger" / "README.md").read_text() == "Ours.\n"
    assert not (tmp_path / "larger" / ADDED).exists()


def test_skipped_files_are_not_updated(project: Path, env: dict[str, str], no_resolver: Path) -> None:
    updates.edit(project / "pyproject.toml", r"^skip = \[", f'skip = ["README.md", "compose*", "{ADDED}",')
    commit(project, env)
    before = tree(project)
    template_update(project, env, tools=no_resolver)
    changed = {name for name, content in tree(project).items() if before.get(name) != content}
    assert "Dockerfile" in changed
    assert not {name for name in changed if name.startswith(("README.md", "compose", ADDED, *SKIPPED))}


def test_a_deleted_folder_stays_deleted(project: Path, newest: Path, env: dict[str, str], no_resolver: Path) -> None:
    shutil.rmtree(project / "deploy")
    commit(project, env)
    template_update(project, env, tools=no_resolver)
    expected = as_updated(newest, project)
    assert ADDED_TO_DEPLOY in expected
    assert tree(project) == {name: text for name, text in expected.items() if not name.startswith("deploy/")}


def test_only_lines_that_changed_on_both_sides_conflict(
    project: Path, newest: Path, env: dict[str, str], tmp_path: Path
) -> None:
    newest = shutil.copytree(newest, tmp_path / "newest")
    for each in (project, newest):
        updates.edit(each / "app" / "web" / "probes.py", r'\A""".*"""$', '"""Ours."""')
        updates.edit(each / "app" / "api_keys" / "service.py", "^_KEY = ", "_OUR_KEY = ")
    commit(project, env)
    for updated in (partial(cruft, project, env, "update", "-y"), partial(template_update, project, env, status=2)):
        updated()
        assert conflicts(project, env) == ["app/web/probes.py"]
        merged = tree(project)
        both = merged.pop("app/web/probes.py").decode()
        assert re.search(r'\A<<<<<<< .*\n"""Ours\."""\n=======\n"""Probes.*\n>>>>>>> .*\n\nimport', both)
        assert merged == {n: content for n, content in as_updated(newest, project).items() if n != "app/web/probes.py"}
        git(project, env, "reset", "--quiet", "--hard")


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_any_name_is_rendered_and_updated_whatever_the_system_s_encoding(
    env: dict[str, str], no_resolver: Path, tmp_path: Path
) -> None:
    answers = {"project_name": HOSTILE, "description": HOSTILE, "project_slug": "tasks"}
    (tmp_path / "answers.yaml").write_text(
        json.dumps({"default_context": answers}, ensure_ascii=False), encoding="utf-8"
    )
    by_file = ["--checkout", RELEASE, "--config-file", str(tmp_path / "answers.yaml")]
    project = render(tmp_path / "ascii", env | ASCII, *by_file)
    assert tree(project) == tree(render(tmp_path / "utf-8", env, *by_file))

    template_update(project, env | ASCII, switch(mcp_port="9000"), tools=no_resolver)
    assert tree(project) == as_updated(render(tmp_path / "newest", env, **answers, mcp_port="9000"), project)


@pytest.mark.parametrize("repository", ["project", pytest.param("other", marks=pytest.mark.slow)])
def test_variables_of_git_do_not_lead_an_update_elsewhere(
    repository: str, project: Path, newest: Path, env: dict[str, str], no_resolver: Path, tmp_path: Path
) -> None:
    """Git sets these in hooks and during rebases."""
    other = {"project": project, "other": shutil.copytree(newest, tmp_path / "other")}[repository]
    commits = git(other, env, "log", "--all", "--format=%H")
    git_folder = str(other / ".git")
    misleading = {
        "GIT_DIR": git_folder,
        "GIT_COMMON_DIR": git_folder,
        "GIT_WORK_TREE": str(other),
        "GIT_PREFIX": "app/",
        "GIT_INDEX_FILE": f"{git_folder}/index",
        "GIT_OBJECT_DIRECTORY": f"{git_folder}/objects",
        "GIT_CONFIG": f"{git_folder}/config",
        "GIT_NAMESPACE": "other",
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_EXTERNAL_DIFF": "false",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_TEMPLATE_DIR": git_folder,
    }
    template_update(project, env | misleading, tools=no_resolver)
    assert tree(project) == as_updated(newest, project)
    assert git(other, env, "log", "--all", "--format=%H") == commits
    assert git(other, env, "status", "--porcelain") == (
        git(project, env, "status", "--porcelain") if other == project else ""
    )


def test_a_user_s_git_configuration_does_not_change_an_update(
    project: Path, newest: Path, env: dict[str, str], no_resolver: Path, tmp_path: Path
) -> None:
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "hooks" / "pre-commit").chmod(0o755)
    (tmp_path / "ignored").write_text("*.md\n")
    configuration = tmp_path / "gitconfig"
    for key, value in {
        "core.hooksPath": tmp_path / "hooks",
        "core.excludesFile": tmp_path / "ignored",
        "commit.gpgSign": "true",
        "gpg.program": "false",
    }.items():
        git(project, env, "config", f"--file={configuration}", key, str(value))
    template_update(project, env | {"GIT_CONFIG_GLOBAL": str(configuration)}, tools=no_resolver)
    assert tree(project) == as_updated(newest, project)


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_CONFIG"])
def test_variables_of_git_do_not_lead_to_another_origin(
    variable: str, project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "home" / ".cookiecutters").mkdir()
    run("git", "clone", "--quiet", ADDRESS, tmp_path / "home" / ".cookiecutters" / "template", cwd=tmp_path, env=env)
    git(project, env, "remote", "add", "origin", "https://example.com/other.git")
    elsewhere = str(project / ".git" / ("config" if variable == "GIT_CONFIG" else ""))
    run(SCRIPTS / "cookiecutter", "template", "--no-input", "-o", "out", cwd=tmp_path, env={**env, variable: elsewhere})
    origin = json.loads((tmp_path / "out" / "task-service" / ".cruft.json").read_text(encoding="utf-8"))
    assert origin["template"] == ADDRESS


Damage = Callable[[Path, dict[str, str]], None]


def moved(project: Path, env: dict[str, str]) -> None:
    updates.edit(
        project / ".cruft.json", f'"template": "{ADDRESS}"', '"template": "https://github.com/your-org/moved.git"'
    )
    commit(project, env)


def offline(project: Path, env: dict[str, str]) -> None:
    env["GIT_CONFIG_VALUE_0"] = "https://not-github.invalid/"
    env["https_proxy"] = "http://127.0.0.1:9"


def without_its_record(project: Path, env: dict[str, str]) -> None:
    (project / ".cruft.json").unlink()
    commit(project, env)


def in_another_encoding(project: Path, env: dict[str, str]) -> None:
    record = (project / ".cruft.json").read_text(encoding="utf-8").replace("Task Service", "Größe")
    (project / ".cruft.json").write_text(record, encoding="latin-1")
    commit(project, env)


def changed(project: Path, env: dict[str, str]) -> None:
    (project / "README.md").write_text("Not committed.\n")


def with_a_new_file(project: Path, env: dict[str, str]) -> None:
    (project / "notes.txt").write_text("Not committed.\n")


def with_an_ignored_file_in_the_way(project: Path, env: dict[str, str]) -> None:
    (project / ".git" / "info" / "exclude").write_text(f"{ADDED}\n")
    (project / ADDED).write_text("Not committed.\n")


def with_an_ignored_file_that_the_template_changes(project: Path, env: dict[str, str]) -> None:
    git(project, env, "rm", "--quiet", "--cached", "Dockerfile")
    (project / ".git" / "info" / "exclude").write_text("Dockerfile\n")
    commit(project, env)


def outside_git(project: Path, env: dict[str, str]) -> None:
    shutil.rmtree(project / ".git")


def unaltered(project: Path, env: dict[str, str]) -> None:
    """The fault is in the command."""


def shallow(project: Path, env: dict[str, str]) -> None:
    origin = project.parent / "origin"
    project.rename(origin)
    run("git", "clone", "--quiet", "--depth=1", f"file://{origin}", project, cwd=origin, env=env)


REFUSED: list[tuple[Damage, dict[str, str], str]] = [
    (shallow, {}, "Run `git fetch --unshallow` first."),
    (changed, {}, "there are uncommitted changes"),
    (with_a_new_file, {}, "there are uncommitted changes"),
    (with_an_ignored_file_in_the_way, {}, f"list them under [tool.cruft] skip in pyproject.toml: {ADDED}"),
    (with_an_ignored_file_that_the_template_changes, {}, "skip in pyproject.toml: Dockerfile"),
    (outside_git, {}, "this is not a git repository"),
    (without_its_record, {}, ".cruft.json is missing"),
    (in_another_encoding, {}, ".cruft.json cannot be read: 'utf-8' codec can't decode byte 0xf6"),
    (moved, {}, "the template at https://github.com/your-org/moved.git cannot be reached"),
    (offline, {}, f"the template at {ADDRESS} cannot be reached"),
    (unaltered, {"api_port": "80"}, "api_port '80' must be a whole number from 1024 to 65535"),
    (unaltered, {"databse": "postgres"}, "the template has no question databse"),
    (unaltered, {"database": "mysql"}, "the choices are ['sqlite', 'postgres']"),
    (unaltered, {"gpu": "perhaps"}, "perhaps provided for variable gpu could not be converted to a boolean"),
]


@pytest.mark.parametrize(("damage", "answers", "message"), REFUSED)
def test_an_update_that_is_impossible_or_could_lose_work_changes_nothing(
    damage: Damage, answers: dict[str, str], message: str, project: Path, env: dict[str, str]
) -> None:
    damage(project, env)
    before = tree(project)
    printed = template_update(project, env, switch(**answers), status=2)
    assert message in " ".join(printed.replace("\u2502", "").split())
    assert tree(project) == before


COSTLY = "It costs $5, `id` \\ {x} 🚀"


def test_the_printed_command_updates_with_the_valid_answers(
    project: Path, env: dict[str, str], no_resolver: Path, tmp_path: Path
) -> None:
    printed = template_update(project, env, switch(api_port="80", mcp_port="9000", description=COSTLY), status=2)
    [command] = re.findall("^  (make template-update .*)", printed, re.MULTILINE)
    run("sh", "-ec", f"{command} BIN={no_resolver}", cwd=project, env=env)
    assert tree(project) == as_updated(render(tmp_path / "newest", env, mcp_port="9000", description=COSTLY), project)


def switch(**answers: object) -> str:
    return f"--variables-to-update '{json.dumps(answers)}'".replace("$", "$$") if answers else ""


SWITCHED: list[list[dict[str, object]]] = [
    [
        {"database": "sqlite", "gpu": False},
        {"database": "postgres", "gpu": False},
        {"database": "postgres", "gpu": True},
        {"database": "sqlite", "gpu": True},
    ],
    [
        {"package_manager": manager, "registry": registry}
        for manager, registry in zip([*QUESTIONS["package_manager"], "uv"], REGISTRIES.values(), strict=True)
    ],
    [
        {
            "project_name": "Task Service",
            "project_slug": "tasks",
            "description": "It's one.",
            "api_port": "8000",
            "mcp_port": "8051",
        },
        {
            "project_name": HOSTILE,
            "project_slug": "other-tasks",
            "description": f"It's another: {HOSTILE}",
            "api_port": "9000",
            "mcp_port": "9051",
        },
    ],
]


def test_every_answer_is_changed() -> None:
    questions = {question: values for question, values in QUESTIONS.items() if not question.startswith("_")}
    for question, values in questions.items():
        switched = {
            cycle[number][question] for cycle in SWITCHED for number in range(len(cycle)) if question in cycle[0]
        }
        assert len(switched) > 1
        assert switched >= (set(values) if isinstance(values, list) else set())


@pytest.mark.slow
@pytest.mark.parametrize("cycle", SWITCHED)
def test_changed_answers_give_the_same_project_as_a_new_rendering(
    cycle: list[dict[str, object]], env: dict[str, str], tmp_path: Path
) -> None:
    fresh = [tree(render(tmp_path / str(number), env, **answers)) for number, answers in enumerate(cycle)]
    [project] = (tmp_path / "0").iterdir()
    for number in [*range(1, len(cycle)), 0]:
        answers = ["--variables-to-update", json.dumps(cycle[number])]
        run(sys.executable, "scripts/template_update.py", *answers, cwd=project, env={**env, "MAKE": "true"})
        assert tree(project) == fresh[number]
        commit(project, env)


def lock(project: Path, env: Mapping[str, str]) -> None:
    run("make", "lock", f"BIN={SCRIPTS}", cwd=project, env={**env, "UV_PYTHON": sys.executable})


def locked(project: Path) -> dict[str, str]:
    """The version of each package in the locks."""
    texts = [lock.read_text() for lock in sorted(project.glob("requirements*.txt"))]
    assert not any(re.search("^[<=>|]{7}( |$)", text, re.MULTILINE) for text in texts)
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", "\n".join(texts), re.MULTILINE))


@pytest.fixture
def extended(project: Path, env: dict[str, str]) -> Path:
    """A project with another dependency, and with another version of one of the template's."""
    updates.edit(project / "pyproject.toml", '^    "uvicorn-worker', r'    "six>=1.16",\n\g<0>')
    lock(project, env)
    for each in project.glob("requirements*.txt"):
        updates.edit(each, "^fastapi==.*", r"fastapi==0.161.0 \\")
    commit(project, env)
    return project


@pytest.mark.slow
def test_an_update_keeps_locks_valid_with_added_dependencies(
    extended: Path, env: dict[str, str], tmp_path: Path
) -> None:
    answers = {"database": "postgres", "gpu": True}
    newest = locked(render(tmp_path / "newest", env, **answers))
    template_update(extended, env, switch(**answers))
    assert conflicts(extended, env) == []
    after = locked(extended)
    assert after.keys() == {*newest, "six"}
    before = tree(extended)
    lock(extended, env)
    assert tree(extended) == before


@pytest.mark.slow
def test_make_lock_repairs_locks_with_conflicts(project: Path, env: dict[str, str]) -> None:
    lock(project, env)
    expected = tree(project)
    for each in project.glob("requirements*.txt"):
        both = r"<<<<<<< ours\n\g<0>||||||| base\nfastapi==0.1\n=======\nfastapi==0.2\n>>>>>>> theirs\n"
        updates.edit(each, r"^fastapi==.*\n(    .*\n)+", both)
        each.with_suffix(".txt.rej").write_text("@@ -1 +1 @@\n")
    lock(project, env)
    assert tree(project) == expected


# Stands in for GitHub's command line, and remembers which branches were proposed.
GH = """#!/bin/sh
echo "$*" >> "$RUNNER_TEMP/calls"
mkdir -p "$RUNNER_TEMP/proposed"
case "$*" in
    "pr list --head "*) ls "$RUNNER_TEMP/proposed" | grep -c "^$4$" || true ;;
    "pr create"*) touch "$RUNNER_TEMP/proposed/$(git branch --show-current)" ;;
esac
"""


class Repository:
    """A project on GitHub whose weekly workflow can be run."""

    def __init__(self, project: Path, env: dict[str, str], folder: Path, tools: Path) -> None:
        folder.mkdir()
        self._tools = tools
        self.env = {**env, "PATH": f"{folder}:/usr/bin:/bin", "RUNNER_TEMP": str(folder)}
        self.origin = folder / "origin"
        self._folder = folder
        run("git", "clone", "--quiet", "--bare", project, self.origin, cwd=folder, env=env)
        (folder / "gh").write_text(GH)
        (folder / "gh").chmod(0o755)

    def run(self, token: str = "token", status: int = 0) -> str:
        """Execute the workflow's steps in a checkout, and return what they print."""
        checkout = Path(tempfile.mkdtemp(dir=self._folder))
        run("git", "clone", "--quiet", self.origin, checkout, cwd=self._folder, env=self.env)
        (checkout / ".venv").mkdir()
        (checkout / ".venv" / "bin").symlink_to(self._tools)
        workflow = actions.load(checkout / ".github" / "workflows" / "template-update.yml")
        context = {"secrets": {"TEMPLATE_UPDATE_TOKEN": token} if token else {}}
        scripts = list(actions.scripts(workflow, "update", context))
        script = "set -e\n" + "\n".join(f"(bash -e <<'END'\n{text}\nEND\n)" for text, _ in scripts)
        env = self.env | {name: value for _, changes in scripts for name, value in changes.items()}
        printed = run("bash", "-e", "-c", script, cwd=checkout, env=env, status=status)
        return printed.stdout + printed.stderr

    def calls(self) -> list[str]:
        file = self._folder / "calls"
        return re.findall("^(?:pr|auth) \\S+", file.read_text(), re.MULTILINE) if file.exists() else []

    def branches(self) -> list[str]:
        return git(self.origin, self.env, "branch", "--format=%(refname:short)").splitlines()


@pytest.fixture
def repository(project: Path, env: dict[str, str], no_resolver: Path, tmp_path: Path) -> Repository:
    return Repository(project, env, tmp_path / "runner", no_resolver)


def test_the_template_s_changes_are_proposed_once(
    project: Path, newest: Path, repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    before = git(repository.origin, env, "rev-parse", "main")
    repository.run()
    assert repository.calls() == ["pr list", "auth setup-git", "pr create"]
    repository.run()
    assert repository.calls() == ["pr list", "auth setup-git", "pr create", "pr list"]

    branch = f"template-{json.loads((newest / '.cruft.json').read_text())['commit']}"
    assert repository.branches() == ["main", branch]
    assert git(repository.origin, env, "rev-parse", "main") == before
    proposed = tmp_path / "proposed"
    run("git", "clone", "--quiet", "--branch", branch, repository.origin, proposed, cwd=tmp_path, env=env)
    assert tree(proposed) == as_updated(newest, project)
    told = git(proposed, env, "log", "-1", "--format=%an %s %b").strip()
    assert told == f"github-actions[bot] Merge the template's changes CHANGELOG.md in {ADDRESS} says what they require."


def in_conflict(project: Path, env: dict[str, str]) -> None:
    updates.edit(project / "app" / "web" / "probes.py", r'\A""".*"""$', '"""Ours."""')


def where_only_the_template_s_own_files_changed(project: Path, env: dict[str, str]) -> None:
    github = project.parent / "github"
    run("git", "clone", "--quiet", "--branch", RELEASE, ADDRESS, "template", cwd=project.parent, env=env)
    (project.parent / "template" / "README.md").write_text("New.\n")
    commit(project.parent / "template", env)
    run("git", "switch", "--quiet", "--create", "newest", cwd=project.parent / "template", env=env)
    bare = github / ADDRESS.removeprefix("https://github.com/")
    run("git", "clone", "--quiet", "--bare", "template", bare, cwd=project.parent, env=env)
    env["GIT_CONFIG_KEY_0"] = f"url.{github}/.insteadOf"


RUNS: list[tuple[Damage, str, int, str]] = [
    (in_conflict, "token", 2, "Resolve them"),
    (unaltered, "", 1, "without the secret TEMPLATE_UPDATE_TOKEN"),
    (without_its_record, "token", 0, ""),
    (where_only_the_template_s_own_files_changed, "token", 0, "Good work!"),
]


@pytest.mark.parametrize(("alter", "token", "status", "told"), RUNS)
def test_updates_that_fail_or_change_nothing_are_not_proposed(
    alter: Damage,
    token: str,
    status: int,
    told: str,
    project: Path,
    env: dict[str, str],
    no_resolver: Path,
    tmp_path: Path,
) -> None:
    alter(project, env)
    run("git", "commit", "--quiet", "--all", "--allow-empty", "--message", "-", cwd=project, env=env)
    repository = Repository(project, env, tmp_path / "runner", no_resolver)
    assert told in repository.run(token, status)
    assert repository.branches() == ["main"]
    assert repository.calls() == []
