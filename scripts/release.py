"""Prepares a release: `make release VERSION=v1.2.3`. Doing so again changes nothing, which release.yml checks."""

import re
import shutil
import sys
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent
CHANGELOG = TEMPLATE / "CHANGELOG.md"
PROJECT = TEMPLATE / "pyproject.toml"
VERSION = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
PROMISE = "Upgrading:"


def numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def prepared_changelog(version: str) -> str:
    """The changelog with the unreleased changes moved below a heading for the version."""
    text = CHANGELOG.read_text(encoding="utf-8")
    if f"## {version}\n" not in text:
        text = text.replace("## Unreleased\n", f"## Unreleased\n\n## {version}\n", 1)
    notes = text.partition(f"## {version}\n")[2].partition("\n## ")[0]
    if PROMISE not in notes:
        sys.exit(f"CHANGELOG.md does not say what {version} asks of those who update: a paragraph with `{PROMISE}`.")
    return text


def main() -> None:
    version = sys.argv[1].removeprefix("v")
    project = PROJECT.read_text(encoding="utf-8")
    released = re.search(f'(?m)^version = "({VERSION})"$', project)
    assert released
    if not re.fullmatch(VERSION, version) or numbers(version) < numbers(released[1]):
        sys.exit(f"VERSION={sys.argv[1]} is not a version such as v1.2.3 that follows {released[1]}.")
    changelog = prepared_changelog(version)
    CHANGELOG.write_text(changelog, encoding="utf-8")
    PROJECT.write_text(project.replace(released[0], f'version = "{version}"'), encoding="utf-8")
    shutil.copyfile(TEMPLATE / "cookiecutter.json", TEMPLATE / "tests" / "released.json")


if __name__ == "__main__":
    main()
