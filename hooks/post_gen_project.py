"""Tidies the rendered project and says how to go on."""

import json
import shlex
from pathlib import Path
from typing import Any

CONTEXT: dict[str, Any] = json.loads(r"""{{ cookiecutter | tojson }}""")

# Where a project is rendered over an older one: empty folders in there may matter.
NOT_OURS = {".git", ".local", ".postgres", ".valkey", ".venv"}


def prune(folder: Path) -> None:
    """Remove the empty folders in a folder: a file whose name renders to nothing leaves its folder behind."""
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink() and child.name not in NOT_OURS:
            prune(child)
            if not any(child.iterdir()):
                child.rmdir()


def main() -> None:
    project = Path.cwd()
    prune(project)
    if "_repo_dir" not in CONTEXT:  # cruft, which renders twice for an update, in folders that do not last
        return
    print(f"\n{CONTEXT['project_name']} is rendered. Next, and README.md has the rest:")
    print(f"  cd {shlex.quote(str(project))}")
    print("  make dev")


if __name__ == "__main__":
    main()
