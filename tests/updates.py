"""Updates: a template with a previous release in a folder that stands in for GitHub, and changes that users make."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.sandbox import SCRIPTS, environment, files, run

ADDRESS = "https://github.com/your-org/cookiecutter-fastapi-mcp.git"
SHORT_ADDRESS = "gh:your-org/cookiecutter-fastapi-mcp"
RELEASE = "v0.9.0"
PROJECT = "{{cookiecutter.project_slug}}"
LOCKS = "requirements*.txt"

# The paths in `[tool.cruft] skip`.
SKIPPED = ("app/tasks/", "tests/tasks/", "app/duplicates/", "tests/duplicates/", "migrations/versions/0002_tasks.py")

# In the previous release, the first comment of each file differs, and each module has another function.
WORDING = (re.compile(r'^(# |""")(?=\w)', re.MULTILINE), r"\1Formerly: ")
CODE = (re.compile(r'(?<!")\n\n\n(?=@|class |def |async def )'), "\n\n\ndef formerly() -> int:\n    return 0\n\n\n")

REMOVED = ["app/formerly.py", "tests/test_formerly.py"]
ADDED = "tests/test_logs.py"
ADDED_TO_DEPLOY = "deploy/prometheus/alerts.yml"


def serve(template: Path, folder: Path) -> None:
    """Put the template into a folder as if it were GitHub; `RELEASE` is the previous release."""
    env = environment(GIT_CONFIG_GLOBAL="/dev/null")
    work = folder / "work"
    shutil.copytree(template, work, ignore=shutil.ignore_patterns(".git"))
    previous_release(work)
    run("git", "init", "--quiet", "--initial-branch=main", cwd=work, env=env)
    commit(work, env)
    run("git", "tag", RELEASE, cwd=work, env=env)
    for path in work.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(template, work, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    commit(work, env)
    address = folder / ADDRESS.removeprefix("https://github.com/")
    run("git", "clone", "--quiet", "--bare", work, address, cwd=folder, env=env)


def user(github: Path, home: Path, **changes: str) -> dict[str, str]:
    """A user's environment in which github.com is a folder."""
    author = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return environment(
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_GLOBAL="/dev/null",
        GIT_CONFIG_KEY_0=f"url.{github}/.insteadOf",
        GIT_CONFIG_VALUE_0="https://github.com/",
        HOME=str(home),
        **author,
        **changes,
    )


def commit(folder: Path, env: Mapping[str, str]) -> None:
    author = ["-c", "user.name=tests", "-c", "user.email=tests"]
    run("git", "add", "--all", cwd=folder, env=env)
    run("git", *author, "commit", "--quiet", "--message", "-", cwd=folder, env=env)


def render(folder: Path, env: Mapping[str, str], *arguments: str, **answers: object) -> Path:
    """Render a project by `cookiecutter gh:...` and commit it to a new repository."""
    given = [f"{question}={value}" for question, value in answers.items()]
    folder.mkdir()
    run(SCRIPTS / "cookiecutter", SHORT_ADDRESS, "--no-input", *arguments, *given, cwd=folder, env=env)
    [project] = folder.iterdir()
    run("git", "init", "--quiet", "--initial-branch=main", cwd=project, env=env)
    commit(project, env)
    return project


def tree(project: Path) -> dict[str, bytes]:
    """The files of a repository."""
    return {name: content for name, content in files(project).items() if not name.startswith(".git/")}


def as_updated(newest: Path, project: Path) -> dict[str, bytes]:
    """The files that a project should have after an update: it keeps those that are not the template's."""
    mine = {name: content for name, content in tree(project).items() if name.startswith(SKIPPED)}
    return {name: content for name, content in tree(newest).items() if not name.startswith(SKIPPED)} | mine


def previous_release(template: Path) -> None:
    """Turn the template into its previous release."""
    project = template / PROJECT
    for file in sorted(path for path in project.rglob("*") if path.is_file()):
        name = file.relative_to(project).as_posix()
        if name == "README.md":
            continue
        text = file.read_text(encoding="utf-8")
        for pattern, replacement in [WORDING, *([CODE] if name.startswith("app/") else [])]:
            text = pattern.sub(replacement, text, count=1)
        file.write_text(text, encoding="utf-8")
    for name in REMOVED:
        (project / name).write_text('"""Not in the newest release."""\n')
    (project / ADDED_TO_DEPLOY).unlink()
    (project / ADDED).replace(project / REMOVED[1])  # to be renamed
    edit(project / "pyproject.toml", r'"fastapi>=[\d.]+"', '"fastapi>=0.160"')
    edit(project / "README.md", "## Where things are", "## Its files")
    for lock in (template / "templates" / "locks").glob("*[!u].txt"):  # except those of GPUs, which build on these
        edit(lock, r"^fastapi==[\d.]+", "fastapi==0.160.0")
        edit(lock, r"^typing-extensions==.*\n(    --hash.*\n)+    # via .*\n", "")


def edit(file: Path, pattern: str, replacement: str, count: int = 0) -> None:
    """Replace a pattern, which must match."""
    text, found = re.subn(pattern, replacement, file.read_text(encoding="utf-8"), count=count, flags=re.MULTILINE)
    assert found, f"{file}: {pattern}"
    file.write_text(text, encoding="utf-8")


def change(project: Path) -> None:
    """Change a project as users do."""
    for module in sorted((project / "app").rglob("*.py")):
        if module.name == "__init__.py" or module.relative_to(project).as_posix() in REMOVED:
            continue  # a single line that the release changes too, and what it removes
        name = f"ADDED_TO_{module.stem.strip('_').upper()}"
        module.write_text(f'{module.read_text(encoding="utf-8")}\n\n{name} = "by its user"\n', encoding="utf-8")
    edit(project / "app" / "tasks" / "rest.py", "^    return router", ROUTE, count=1)
    add_column(project)
    edit(project / "pyproject.toml", '^    "prometheus-client>=.*', r'\g<0>\n    "anyio>=4",')
    for lock in project.glob("requirements*.txt"):
        if "\nanyio==" in lock.read_text():
            edit(lock, r"^(anyio==.*\n(?:    --hash.*\n)+    # via .*)", rf"\1, {project.name} (pyproject.toml)")
    (project / "tests" / "test_cors.py").unlink()
    edit(project / "app" / "settings.py", "^TITLE = .*", 'TITLE = "Another title"')
    edit(project / "README.md", r"\A# .*", "# Another title")
    edit(project / "pyproject.toml", "^line-length = 120", "line-length = 110")
    reformat(project)


def add_column(project: Path) -> None:
    edit(project / "app" / "tasks" / "models.py", "^    due_date: .*", rf"\g<0>\n{COLUMN}")
    newest = max(path.name for path in (project / "migrations" / "versions").iterdir())[:4]
    (project / "migrations" / "versions" / "1000_owner.py").write_text(MIGRATION.replace("NEWEST", newest))


def reformat(project: Path) -> None:
    run(SCRIPTS / "ruff", "format", "--no-cache", "--quiet", ".", cwd=project, env=environment())


ROUTE = """    @router.get("/{task_id}/again", responses=NOT_FOUND)
    async def read_again(task_id: TaskId) -> TaskRead:
        \"\"\"Read one task once more.\"\"\"
        return await database.read(service.get_task, task_id)

    return router"""

COLUMN = "    owner: Mapped[str | None] = mapped_column(String(100))"

MIGRATION = """\"\"\"Owner.\"\"\"

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "1000"
down_revision: str | Sequence[str] | None = "NEWEST"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("owner", sa.String(100)))


def downgrade() -> None:
    op.drop_column("tasks", "owner")
"""
