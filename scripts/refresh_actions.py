"""Pins every action, in the template's workflows and the rendered ones, to the commit of its newest release."""

import re
import subprocess
from functools import cache
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent
FOLDERS = [".github/workflows", "templates", "{{cookiecutter.project_slug}}/.github/workflows"]
PIN = re.compile(
    r"(?P<action>[\w.-]+/[\w.-]+)(?P<path>[\w./-]*)@(?P<commit>[0-9a-f]{40}) # (?P<release>v\d+\.\d+\.\d+)"
)


@cache
def newest(action: str) -> tuple[str, str]:
    """The commit and tag of the newest release, ignoring pre-releases such as v2.0.0-rc.1."""
    command = ["git", "ls-remote", "--tags", f"https://github.com/{action}"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    # An annotated tag has two lines; the second one, with ^{}, names its commit.
    commits = {
        tag: commit
        for commit, tag in re.findall(r"^(\w+)\trefs/tags/(v\d+\.\d+\.\d+)(?:\^\{\})?$", listed, re.MULTILINE)
    }
    release = max(commits, key=lambda tag: [int(number) for number in tag[1:].split(".")])
    return commits[release], release


def refreshed(pin: re.Match[str]) -> str:
    commit, release = newest(pin["action"])
    if commit != pin["commit"]:
        print(f"{pin['action']:40} {pin['release']:10} {release}")
    return f"{pin['action']}{pin['path']}@{commit} # {release}"


def main() -> None:
    for file in sorted(file for folder in FOLDERS for file in (TEMPLATE / folder).rglob("*.yml")):
        old = file.read_text(encoding="utf-8")
        new = PIN.sub(refreshed, old)
        if new != old:
            file.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
