"""Updates dependencies and actions, and prints what that changes in rendered projects, for a pull request."""

import difflib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parent.parent

# Together, these cover every version in the template.
ANSWERS = [
    {"database": "sqlite", "package_manager": "uv", "registry": "ghcr.io/your-org"},
    {
        "database": "postgres",
        "package_manager": "pip",
        "registry": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/your-org",
    },
    {"database": "sqlite", "package_manager": "venv", "registry": "docker.io/your-org"},
    {"database": "sqlite", "package_manager": "uv", "registry": "registry.example.com/your-org"},
]

COMMANDS = [
    ["make", "locks", "ARGS=--upgrade"],
    ["make", "lock", "ARGS=--upgrade"],
    [sys.executable, "scripts/refresh_actions.py"],
]

LONGEST = 60_000  # characters; GitHub accepts 65 536


def render() -> list[dict[str, list[str]]]:
    """The lines of each file for each of `ANSWERS`, without hashes, which would be most of every diff."""
    with tempfile.TemporaryDirectory() as folder:
        projects = [
            cookiecutter(
                str(TEMPLATE),
                no_input=True,
                extra_context=answers,
                output_dir=f"{folder}/{number}",
                default_config=True,
                accept_hooks=False,
            )
            for number, answers in enumerate(ANSWERS)
        ]
        return [dict(read(Path(project))) for project in projects]


def read(project: Path) -> Iterator[tuple[str, list[str]]]:
    for file in sorted(path for path in project.rglob("*") if path.is_file()):
        lines = file.read_text(encoding="utf-8").splitlines()
        yield str(file.relative_to(project)), [line for line in lines if not line.startswith("    --hash=")]


def differences(before: list[dict[str, list[str]]], after: list[dict[str, list[str]]]) -> Iterator[str]:
    for old, new in zip(before, after, strict=True):
        for name in sorted(old | new):
            yield "\n".join(difflib.unified_diff(old.get(name, []), new.get(name, []), name, name, n=1, lineterm=""))


def main() -> None:
    before = render()
    for command in COMMANDS:
        subprocess.run(command, cwd=TEMPLATE, check=True, stdout=sys.stderr)
    # Changes that several projects share are shown once.
    text = "\n".join(filter(None, dict.fromkeys(differences(before, render()))))
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}\n... and {len(text) - LONGEST} characters more"
    print("What changes in rendered projects, without the hashes:", "", "```diff", text, "```", sep="\n")


if __name__ == "__main__":
    main()
