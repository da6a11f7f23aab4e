"""Merges the template's changes, or other answers to its questions, into this project: `make template-update`.

cruft renders the template as it was and as it is now, and git merges the difference. `cruft update` alone would apply a
patch, which fails as a whole if it fails for one file, for example for one that was changed here and removed there.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HERE = Path.cwd()
ORIGIN = HERE / ".cruft.json"
# Git's variables that determine how it reaches the template. Others are removed: GIT_DIR, for example, which is set in
# hooks, would lead it to another repository.
HARMLESS = (
    *("GIT_ALLOW_PROTOCOL", "GIT_ASKPASS", "GIT_CONFIG_", "GIT_CURL_", "GIT_EXEC_PATH", "GIT_HTTP_", "GIT_PROTOCOL"),
    *("GIT_PROXY_", "GIT_SSH", "GIT_SSL_", "GIT_TERMINAL_PROMPT", "GIT_TRACE"),
)
AS_TEMPLATE = ["-c", "user.name=template", "-c", "user.email=template", "-c", "core.hooksPath="]


def main() -> None:
    for name in list(os.environ):
        if name.startswith("GIT_") and not name.startswith(HARMLESS):
            del os.environ[name]
    if obstacle := find_obstacle():
        sys.exit(f"template-update: {obstacle}")
    with tempfile.TemporaryDirectory() as folder:
        render = render_twice(Path(folder), sys.argv[1:])
        left = "\n".join(merge(render))
    if left:
        sys.exit(
            "template-update: these files have conflicts, because this project and the template both changed them. Resolve them, run "
            f"`make lock` and commit, or undo the update with `git reset --hard`:\n{left}"
        )
    if git("diff", "--name-only", "HEAD", "--", "pyproject.toml", "requirements*.txt"):
        subprocess.run([os.environ.get("MAKE", "make"), "--silent", "lock", "ARGS="], check=True)
        git("add", "--", "requirements*.txt")
    if git("diff", "--name-only", "HEAD"):
        print("Merged. Review the changes with `git diff HEAD`, run the tests and commit.")


def find_obstacle() -> str | None:
    """Why an update is impossible or could lose work, or None."""
    if not ORIGIN.exists():
        return (
            ".cruft.json is missing, so the template and the answers of this project are unknown. Restore it from git's history, "
            f"or create it with: {sys.executable} -m cruft link URL --checkout VERSION"
        )
    if subprocess.run(["git", "rev-parse"], check=False).returncode:
        return "this is not a git repository. Run `git init` and commit everything first, so that nothing can be lost."
    if git("status", "--porcelain"):
        return "there are uncommitted changes. Commit them first, so that nothing can be lost."
    if git("rev-parse", "--is-shallow-repository") == "true":
        return "this is a shallow clone, without the history that a merge needs. Run `git fetch --unshallow` first."
    try:
        template = read_origin()["template"]
    except (ValueError, KeyError) as error:
        return f".cruft.json cannot be read: {error}. Save it as JSON in UTF-8, or restore it from git's history."
    ask = ["git", "ls-remote", "--quiet", template, "HEAD"]
    if subprocess.run(ask, stdout=subprocess.DEVNULL, check=False).returncode:
        return (
            f"the template at {template} cannot be reached. Check the network. If the template has moved, change its address, "
            '"template", in .cruft.json and commit that.'
        )
    return None


def render_twice(folder: Path, arguments: list[str]) -> Path:
    """Create a repository with two commits: the project as the template rendered it then, and as it renders it now."""
    before = render(ORIGIN, folder / "before")
    record = before / ORIGIN.name
    cruft("update", "--skip-update", "--skip-apply-ask", "--project-dir", str(before), *arguments)  # the record alone
    switched = changed_answers(arguments)
    if unknown := switched - answers_in(record).keys():
        sys.exit(f"template-update: the template has no question {', '.join(sorted(unknown))}. Nothing was changed.")
    after = render(record, folder / "after")
    shutil.copy(ORIGIN, record)
    remove_own(before, after, switched)
    git("init", "--quiet", "--template=", cwd=before)
    commit(before)
    (before / ".git").rename(after / ".git")
    commit(after)
    return after


def render(record: Path, folder: Path) -> Path:
    """Render the project that a .cruft.json describes."""
    origin = read_origin(record)
    version = ["--checkout", origin["commit"], "--extra-context", json.dumps(answers_in(record))]
    cruft("create", origin["template"], "--no-input", "--output-dir", str(folder), *version)
    [project] = folder.iterdir()
    shutil.copy(record, project)
    return project


def remove_own(before: Path, after: Path, switched: set[str]) -> None:
    """Remove the paths in `[tool.cruft] skip`, which no update touches, unless another answer adds or removes them."""
    settings = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
    for pattern in settings.get("tool", {}).get("cruft", {}).get("skip", []):
        found = [list(folder.glob(pattern)) for folder in (before, after)]
        if switched and not all(found):
            continue
        for path in [*found[0], *found[1]]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def read_origin(file: Path = ORIGIN) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def answers_in(file: Path) -> dict[str, object]:
    context = read_origin(file)["context"]["cookiecutter"]
    return {name: value for name, value in context.items() if not name.startswith("_")}


def changed_answers(arguments: list[str]) -> set[str]:
    """The questions whose answers cruft is told to change; it silently accepts unknown ones."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--variables-to-update", type=json.loads, default={})
    return set(parser.parse_known_args(arguments)[0].variables_to_update)


def cruft(*arguments: str) -> None:
    # `make -C` does not change PWD, by which the template finds this project to print a command for it.
    # cruft reads and writes in the system's encoding, which differs between machines.
    env = {**os.environ, "PWD": str(HERE), "PYTHONUTF8": "1"}
    if subprocess.run([sys.executable, "-m", "cruft", *arguments], env=env, check=False).returncode:
        sys.exit("template-update: cruft failed, as shown above. Nothing was changed.")


def commit(render: Path) -> None:
    git("add", "--all", "--force", cwd=render)
    git(*AS_TEMPLATE, "commit", "--quiet", "--no-gpg-sign", "--allow-empty", "--message=template", cwd=render)


def merge(render: Path) -> list[str]:
    """Merge the changes of the second commit, and return the files with conflicts."""
    changed = git("diff", "--name-only", "--diff-filter=d", "HEAD~", "HEAD", cwd=render).splitlines()
    # Git would overwrite or remove ignored files.
    if changed and (in_the_way := git("ls-files", "--others", "--", *changed)):
        sys.exit(
            "template-update: the template adds or changes these files, which exist here but are not in git. Move them away, or list "
            f"them under [tool.cruft] skip in pyproject.toml:\n{in_the_way}"
        )
    unwanted = in_removed_folders(changed, render)
    git("fetch", "--quiet", str(render), "HEAD")
    folder = git("rev-parse", "--show-prefix")
    within = [f"--strategy-option=subtree={folder}"] if folder else []
    pick = ["git", "cherry-pick", "--no-commit", *within, "FETCH_HEAD"]
    result = subprocess.run(pick, capture_output=True, check=False)
    stages: dict[str, str] = {}
    for entry in git("ls-files", "--unmerged", "-z").split("\0")[:-1]:
        stage, _, file = entry.partition("\t")
        stages[file] = stages.get(file, "") + stage[-1]
    if result.returncode and not stages:
        sys.exit(f"template-update: git could not merge:\n{os.fsdecode(result.stderr)}")
    # What was removed here stays removed. Locks follow pyproject.toml: they are removed, or resolved again.
    gone = [file for file, found in stages.items() if "2" not in found or ("3" not in found and is_lock(file))]
    gone += unwanted
    if gone:
        git("rm", "--quiet", "--force", "--ignore-unmatch", "--", *gone)
    return [file for file in stages if file not in gone and not is_lock(file)]


def in_removed_folders(changed: list[str], render: Path) -> list[str]:
    """The files in folders that the template had before, and that this project has deleted."""
    before = git("ls-tree", "-r", "--name-only", "HEAD~", cwd=render).splitlines()
    removed = {folder for file in before for folder in Path(file).parents if not (HERE / folder).exists()}
    return [file for file in changed if not removed.isdisjoint(Path(file).parents)]


def is_lock(file: str) -> bool:
    return fnmatch(file, "requirements*.txt")


def git(*arguments: str, cwd: Path = HERE) -> str:
    # Decoded in the way that arguments are encoded, so that file names survive.
    return os.fsdecode(subprocess.run(["git", *arguments], cwd=cwd, check=True, stdout=subprocess.PIPE).stdout).strip()


if __name__ == "__main__":
    main()
