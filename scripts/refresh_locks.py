"""Updates templates/locks/: renders a service for each lock, runs its `make lock`, and copies the result."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parent.parent
LOCKS = TEMPLATE / "templates" / "locks"
DATABASES = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))["database"]
SLUG = "name-of-the-project"


def resolve(database: str, gpu: bool, *arguments: str) -> dict[Path, str]:
    """The locks for a database, with or without a job worker."""
    with tempfile.TemporaryDirectory() as folder:
        answers = {"project_slug": SLUG, "database": database, "gpu": gpu}
        project = cookiecutter(
            str(TEMPLATE),
            no_input=True,
            extra_context=answers,
            output_dir=folder,
            default_config=True,
            accept_hooks=False,
        )
        # Uses this environment's uv, so the service need not be installed.
        tools = Path(sys.executable).parent
        make = ["make", "--silent", "lock", "--old-file=install", f"BIN={tools}", f"ARGS={' '.join(arguments)}"]
        subprocess.run(make, cwd=project, env={**os.environ, "UV_PYTHON": sys.executable}, check=True)
        name = f"{database}-worker" if gpu else database
        made = sorted(Path(project).glob("requirements*.txt"))
        return {LOCKS / lock.name.replace("requirements", name): as_template(lock) for lock in made}


def as_template(lock: Path) -> str:
    return lock.read_text(encoding="utf-8").replace(f"{SLUG} (", "{{ cookiecutter.project_slug }} (")


def versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock, re.MULTILINE))


def changes(lock: Path, new: str) -> list[str]:
    old_versions = versions(lock.read_text(encoding="utf-8")) if lock.exists() else {}
    new_versions = versions(new)
    return [
        f"{lock.name:18} {package:28} {old_versions.get(package, '-'):14} {new_versions.get(package, '-')}"
        for package in sorted(old_versions | new_versions)
        if old_versions.get(package) != new_versions.get(package)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    arguments = parser.parse_args()
    resolved = {}
    for database, gpu in product(DATABASES, [False, True]):
        resolved.update(resolve(database, gpu, *(["--upgrade"] if arguments.upgrade else [])))
    outdated = {lock: new for lock, new in resolved.items() if not lock.exists() or lock.read_text("utf-8") != new}
    for lock, new in outdated.items():
        print(f"{lock.name:18} {'package':28} {'old':14} new", *changes(lock, new), sep="\n")
        lock.write_text(new, encoding="utf-8")
    if not outdated:
        print("The locks are up to date.")


if __name__ == "__main__":
    main()
