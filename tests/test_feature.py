"""Features: replacing the example as docs/add-a-feature.md says, updates after that, and what is refused."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from markdown_it import MarkdownIt

from tests import updates
from tests.combinations import EACH_DATABASE, SQLITE_UV, Combination
from tests.conftest import Bake, only
from tests.sandbox import environment, free_port, run, wait_until

ANSWERS = {"project_slug": "library", "project_name": "Library", "description": "Keeps books."}
PAGE = Path("docs", "add-a-feature.md")
# May mention tasks in a project without them: pages, `[tool.cruft] skip`, and terms of Python, systemd and ECS.
SPEAKS_OF_TASKS = re.compile(
    r"^(docs/|README\.md:|\.cruft\.json:)|remove-feature|\"(app|tests)/tasks\"|0002_tasks\.py"
    r"|\.create_task\(|asyncio\.|\bTasksMax\b|\btask-definition\b|\brun-task\b|\becsTaskExecutionRole\b"
)


class Project(NamedTuple):
    folder: Path
    env: dict[str, str]
    ports: tuple[int, int]

    def run(self, *command: str, timeout: float = 300) -> str:
        return run(*command, cwd=self.folder, env=self.env, timeout=timeout).stdout


@pytest.fixture(scope="session")
def github_of_features(template_clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands in for GitHub, with the current template; a test pushes changes to it."""
    folder = tmp_path_factory.mktemp("github-of-features")
    address = folder / updates.ADDRESS.removeprefix("https://github.com/")
    run("git", "clone", "--quiet", "--bare", template_clone, address, cwd=folder, env=environment())
    return folder


@pytest.fixture(scope="session")
def library(combination: Combination, github_of_features: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which books replace tasks, as its page says."""
    folder = tmp_path_factory.mktemp("library")
    ports = (free_port(), free_port())
    # Python may be below the home folder, where cookiecutter would keep one clone for all processes.
    config = folder / "cookiecutter.yaml"
    config.write_text(f"cookiecutters_dir: '{folder}/clones'\nreplay_dir: '{folder}/replay'\n", encoding="utf-8")
    env = updates.user(github_of_features, Path.home()) | {"COOKIECUTTER_CONFIG": str(config)}
    answers = {**ANSWERS, **combination._asdict(), "api_port": ports[0], "mcp_port": ports[1]}
    project = Project(updates.render(folder / "project", env, **answers), env, ports)
    follow(project)
    return project


def follow(project: Project) -> None:
    """Follow the page: run its commands and make its edits."""
    for token in MarkdownIt().parse((project.folder / PAGE).read_text(encoding="utf-8")):
        if token.type == "fence" and token.info == "sh":
            project.run("sh", "-ec", token.content, timeout=600)
        elif token.type == "fence" and token.info == "diff":
            edits = re.split(r"^@@ (.*) @@\n", token.content, flags=re.MULTILINE)
            assert edits[0] == ""
            for pattern, lines in zip(edits[1::2], edits[2::2], strict=True):
                edit(project.folder, pattern, lines.splitlines(keepends=True))


def edit(folder: Path, pattern: str, lines: list[str]) -> None:
    """Replace the lines that begin with a space or `-` by those that begin with a space or `+`."""
    [file] = folder.glob(pattern)
    before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{pattern} has {text.count(before)} times:\n{before}"
    file.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.slow
@only(*EACH_DATABASE)
def test_books_replace_tasks_as_the_page_says(library: Project) -> None:
    """The page itself runs the linters and the tests."""
    assert "format lint test" in (library.folder / PAGE).read_text()
    assert library.run("git", "status", "--porcelain") == ""
    found = library.run("git", "grep", "-in", "task").splitlines()
    assert [line for line in found if not SPEAKS_OF_TASKS.search(line)] == []


@pytest.mark.slow
@only(*EACH_DATABASE)
def test_both_interfaces_serve_books(library: Project, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["make", "dev"], cwd=library.folder, env=library.env, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:
            wait_until(lambda: answers(library.ports[0]), timeout=120, what=log.read_text)
            key = library.run("make", "--silent", "key").strip()
            book = {"name": "The Left Hand of Darkness", "author": "Ursula K. Le Guin", "isbn": "9780441478125"}
            created = post(f"http://127.0.0.1:{library.ports[0]}/books", key, book)
            call = {"name": "list_books", "arguments": {"query": "le guin"}}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
            answer = post(f"http://127.0.0.1:{library.ports[1]}/mcp", key, message)
            [listed] = json.loads(answer["result"]["content"][0]["text"])["items"]
            assert book.items() <= listed.items() <= created.items()
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def post(url: str, key: str, body: Mapping[str, object]) -> Any:
    headers = {"X-API-Key": key, "Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    with urllib.request.urlopen(
        urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=10
    ) as response:
        return json.load(response)


@pytest.mark.slow
@only(SQLITE_UV)
def test_an_update_of_every_file_of_the_platform_merges(
    library: Project, github_of_features: Path, tmp_path: Path
) -> None:
    before = updates.tree(library.folder)
    renew(github_of_features, tmp_path / "template", library.env)
    library.run("make", "template-update")
    assert library.run("git", "diff", "--name-only", "--diff-filter=U") == ""
    assert library.run("git", "ls-files", "*tasks*") == ""
    changed = {name for name, content in updates.tree(library.folder).items() if before.get(name) != content}
    assert {"app/main.py", "app/features.py", "tests/conftest.py", "migrations/env.py"} <= changed
    assert not [name for name in changed if "books" in name or "shelves" in name]
    updates.commit(library.folder, library.env)
    library.run("make", "feature", "NAME=note")  # a name that a feature for tests might have
    library.run("make", "lint", "test", timeout=600)


def renew(github: Path, work: Path, env: dict[str, str]) -> None:
    """Change the first comment of every rendered file, and push that."""
    run("git", "clone", "--quiet", updates.ADDRESS, work, cwd=github, env=env)
    pattern, _ = updates.WORDING
    for file in (work / updates.PROJECT).rglob("*"):
        if file.is_file():
            file.write_text(pattern.sub(r"\1Newly: ", file.read_text(encoding="utf-8"), count=1), encoding="utf-8")
    updates.commit(work, env)
    run("git", "push", "--quiet", cwd=work, env=env)


@pytest.fixture(scope="session")
def rendered(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with jobs, in a repository; to be copied."""
    folder = shutil.copytree(bake(gpu=True), tmp_path_factory.mktemp("refused") / "project")
    env = environment(GIT_CONFIG_GLOBAL="/dev/null")
    run("git", "init", "--quiet", cwd=folder, env=env)
    updates.commit(folder, env)
    return folder


@pytest.fixture
def project(rendered: Path, tmp_path: Path) -> Path:
    return shutil.copytree(rendered, tmp_path / "project")


REFUSED_NAMES = [
    (["class"], "NAME=class is a reserved word in Python."),
    (["none"], "NAME=none would create a class None"),
    (["Book"], "NAME=Book is not a valid name"),
    (["two words"], "NAME=two words is not a valid name"),
    (["../book"], "NAME=../book is not a valid name"),
    (["b" * 41], "is not a valid name"),
    (["book", "--plural", "import"], "PLURAL=import is a reserved word in Python."),
    (["book", "--plural", "Books"], "PLURAL=Books is not a valid name"),
    (["book", "--title", 'a "book"'], 'TITLE=a "book" is not a valid title'),
    (["web"], "the name is taken: app/web exists already."),
    (["db"], "app/db exists"),
    (["setting"], "app/settings.py exists"),
    (["jobs"], "app/jobs exists"),
    (["task"], "app/tasks exists"),
    (["book", "--plural", "tasks"], "app/tasks exists"),
    (["text"], "would create a class Text, but every feature already imports another Text."),
    (["metric"], "the service already has the path /metrics."),
    (["job_item"], "PLURAL=job_items is taken: there is already a table with this name."),
    ([""], "NAME is missing. For example: make feature NAME=book"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED_NAMES)
def test_an_invalid_name_is_rejected_and_nothing_is_written(
    arguments: list[str], message: str, rendered: Path, python: Path
) -> None:
    before = updates.tree(rendered)
    printed = run(
        python, "-B", "scripts/feature.py", "add", *arguments, cwd=rendered, env=environment(), status=1
    ).stderr
    assert message in printed
    assert printed.startswith("feature: ")
    assert printed.count("\n") == 1
    assert updates.tree(rendered) == before


def with_another_list(project: Path) -> None:
    updates.edit(project / "app" / "features.py", "return \\[", "return list_of(")


def with_features_changed(project: Path) -> None:
    updates.edit(project / "app" / "features.py", "^    return", "    # Mine.\n    return")


def with_a_new_file(project: Path) -> None:
    (project / "app" / "tasks" / "mine.py").touch()


def with_its_migration_changed(project: Path) -> None:
    updates.edit(project / "migrations" / "versions" / "0002_tasks.py", "^Follows", "Goes after")


def without_git(project: Path) -> None:
    shutil.rmtree(project / ".git")


def without_duplicates(project: Path) -> None:
    """As if nothing but the example itself was in the way."""
    shutil.rmtree(project / "app" / "duplicates")
    for module in (project / "tests").rglob("*.py"):
        if module.parent.name != "tasks" and "app.tasks" in module.read_text():
            module.unlink()


def unaltered(project: Path) -> None:
    """The fault is in the command."""


NOT_COMMITTED = "there are uncommitted changes"
REFUSED: list[tuple[list[Callable[[Path], None]], str, str]] = [
    ([with_another_list], "add book", "app/features.py no longer contains"),
    ([with_features_changed], "add book", "app/features.py has uncommitted changes"),
    ([unaltered], "remove task", "make remove-feature NAME=duplicates"),
    ([unaltered], "remove jobs", "make remove-feature NAME=duplicates"),
    ([unaltered], "remove web", "there is no feature web. app/features.py lists: duplicates, jobs, tasks."),
    ([unaltered], "remove book", "there is no feature book."),
    ([without_duplicates, with_a_new_file], "remove task", NOT_COMMITTED),
    ([without_duplicates, with_its_migration_changed], "remove tasks", NOT_COMMITTED),
    ([without_duplicates, with_features_changed], "remove task", NOT_COMMITTED),
    ([without_duplicates, without_git], "remove task", "this is not a git repository"),
]


@pytest.mark.parametrize(("alter", "command", "message"), REFUSED)
def test_nothing_is_written_if_work_could_be_lost(
    alter: list[Callable[[Path], None]], command: str, message: str, project: Path, python: Path
) -> None:
    for each in alter:
        each(project)
    before = updates.tree(project)
    printed = run(python, "-B", "scripts/feature.py", *command.split(), cwd=project, env=environment(), status=1).stderr
    assert message in printed
    assert updates.tree(project) == before


def test_variables_of_git_do_not_hide_uncommitted_work(project: Path, rendered: Path, python: Path) -> None:
    """They lead to another repository, in which everything is committed."""
    without_duplicates(project)
    with_a_new_file(project)
    env = environment(GIT_DIR=str(rendered / ".git"), GIT_WORK_TREE=str(rendered))
    printed = run(python, "-B", "scripts/feature.py", "remove", "task", cwd=project, env=env, status=1).stderr
    assert NOT_COMMITTED in printed
