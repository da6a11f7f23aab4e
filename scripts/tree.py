"""Writes the list of a rendered project's files into README.md: run `make tree` after adding or moving one."""

import re
import subprocess
import sys
import tempfile
import textwrap
from itertools import groupby
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent
README = TEMPLATE / "README.md"
BLOCK = re.compile(r"(?<=<!-- make tree writes this -->\n```\n)[^`]*(?=```\n)")


def render(folder: str) -> Path:
    command = [
        sys.executable,
        "-m",
        "cookiecutter",
        str(TEMPLATE),
        "--no-input",
        "--default-config",
        "--output-dir",
        folder,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return Path(folder, "task-service")


def tree(project: Path) -> str:
    """The files as text, a paragraph for each folder."""
    files = sorted(path.relative_to(project) for path in project.rglob("*") if path.is_file())
    named = [file for file in files if file.name != "__init__.py"]
    lines = []
    for folder, inside in groupby(sorted(named, key=lambda file: file.parent), key=lambda file: file.parent):
        names = textwrap.wrap("  ".join(file.name for file in inside), 88, break_on_hyphens=False)
        starts = [f"{folder.as_posix()}/", *[""] * (len(names) - 1)]
        lines += [f"{start:<22}{name}" for start, name in zip(starts, names, strict=True)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        README.write_text(BLOCK.sub(tree(render(folder)), README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
