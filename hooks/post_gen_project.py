"""Tidies the rendered project, records its origin for cruft, and prints the next steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys

# Every import delays rendering, so what only a template with a remote needs is imported there.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# As pairs, to keep their order.
CONTEXT: dict[str, Any] = dict(json.loads(r"""{{ cookiecutter.items() | list | tojson }}"""))

# In these folders of a project that is rendered over, empty folders may matter.
NOT_OURS = {".git", ".local", ".postgres", ".valkey", ".venv"}

# cookiecutter adds these to the answers, but cruft does not record them.
ADDED = {"_template", "_output_dir", "_repo_dir", "_checkout"}


def prune(folder: str) -> None:
    """Remove empty folders: a file whose name renders to nothing leaves its folder behind."""
    with os.scandir(folder) as found:
        children = list(found)
    for child in children:
        if child.is_dir(follow_symlinks=False) and child.name not in NOT_OURS:
            prune(child.path)
            if not os.listdir(child.path):  # noqa: PTH208
                os.rmdir(child.path)  # noqa: PTH106


def record_origin() -> str | None:
    """Write the .cruft.json that `cruft create` would have written, or return why that is impossible."""
    if CONTEXT["_repo_dir"] == CONTEXT["_template"]:
        return "is a local directory"
    from pathlib import Path
    from subprocess import CalledProcessError

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != Path(CONTEXT["_repo_dir"]).resolve():
            return "is only a part of a git repository"
        url = without_credentials(git("config", "remote.origin.url"))
        if git("status", "--porcelain", "--untracked-files"):
            return "has uncommitted changes"
        if git("rev-list", "HEAD", "--not", "--remotes", "--tags"):
            return "has commits that were not pushed"
        commit = git("rev-parse", "HEAD")
    except (OSError, CalledProcessError):
        return "is not a git repository with a remote"
    answers = {name: value for name, value in CONTEXT.items() if name not in ADDED}
    origin = {
        "template": url,
        "commit": commit,
        "checkout": CONTEXT.get("_checkout"),
        "context": {"cookiecutter": {**answers, "_template": url, "_commit": commit}},
        "directory": None,
    }
    Path(".cruft.json").write_text(json.dumps(origin, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return None


def without_credentials(url: str) -> str:
    """The URL without credentials, for a file that everybody with the project can read; git has credential helpers."""
    url = re.sub(r"^file://", "", url)
    if re.match(r"(https?|ftps?)://", url):
        return re.sub(r"^(\w+://)[^/?#]*@", r"\1", re.sub(r"[?#].*", "", url))
    return re.sub(r"^(\w[\w+.-]*://[^/@:]*):[^/@]*@", r"\1@", url)  # the user of an SSH URL is part of the address


def git(*arguments: str) -> str:
    """Run git in the template and return its output."""
    import subprocess

    command = ["git", "-C", CONTEXT["_repo_dir"], *arguments]
    return os.fsdecode(subprocess.run(command, check=True, capture_output=True, env=environment()).stdout).strip()


def environment() -> dict[str, str]:
    """The environment without GIT_DIR and the like, which git sets in hooks, and which lead to another repository."""
    return {name: value for name, value in os.environ.items() if not re.match("GIT_(?!CONFIG_|EXEC_PATH)", name)}


def main() -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # the terminal may not support a name
    project = os.getcwd()  # noqa: PTH109
    prune(project)
    if "_repo_dir" not in CONTEXT:  # cruft, which renders into temporary folders for an update
        return
    obstacle = record_origin()
    print(f"\n{CONTEXT['project_name']} is ready. Next steps, with more in README.md:")
    print(f"  cd {shlex.quote(project)}")
    print("  make dev")
    if obstacle:
        print(
            f"`make template-update` will not work, because the template {obstacle}. To enable updates, run `cruft link URL` in the project."
        )


if __name__ == "__main__":
    main()
