"""Adds or removes a feature: `make feature NAME=book` and `make remove-feature NAME=book`.

A new feature is a copy of scripts/skeleton with its names filled in. From then on, it is ordinary code.
"""

import argparse
import ast
import keyword
import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import NamedTuple

ROOT = Path.cwd()
SKELETON = ROOT / "scripts" / "skeleton"
FEATURES = ROOT / "app" / "features.py"
WORKER = ROOT / "app" / "worker.py"
MIGRATIONS = ROOT / "migrations" / "versions"
LIST = re.compile(r"^    return \[(.*?)\]$", re.DOTALL | re.MULTILINE)
"""The list of features in app/features.py."""

PATHS = {"admin", "docs", "health", "live", "mcp", "metrics", "ready", "redoc"}
"""The platform's own paths."""
TABLES = {"alembic_version", "job_items", "job_totals", "jobs"}
"""Reserved tables: Alembic's own, and those of jobs, even in a project without them."""
CLASSES = {"Base", "Id", "Mapped", "NotFound", "ReadSession", "String", "Text", "WriteSession"}
"""Names that the skeleton imports."""
MAX_LENGTH = 40
"""PostgreSQL cuts off names after 63 bytes, and the names of indexes are longer than their table's."""


class Names(NamedTuple):
    """`reading_list`, `reading_lists`, "reading list"."""

    one: str
    many: str
    title: str

    @property
    def model(self) -> str:
        return "".join(word.capitalize() for word in self.one.split("_"))

    def places(self) -> list[str]:
        """Paths that must not exist yet."""
        modules = [f"app/{self.one}", f"app/{self.many}", f"tests/{self.many}"]
        return [module + ending for module in modules for ending in ("", ".py")]

    def variables(self) -> dict[str, str]:
        titles = self.many.replace("_", " ")
        article = "an" if self.title[0].lower() in "aeio" else "a"
        return {
            "name": self.one,
            "names": self.many,
            "Name": self.model,
            "path": self.many.replace("_", "-"),
            "title": self.title,
            "titles": titles,
            "Title": self.title[0].upper() + self.title[1:],
            "Titles": titles.capitalize(),
            "article": article,
            "Article": article.capitalize(),
        }


class Migration(NamedTuple):
    file: Path
    revision: str
    follows: list[str]
    text: str

    def tables(self, statement: str) -> set[str]:
        upgrade = self.text.partition("def downgrade")[0]
        return set(re.findall(rf"\b{statement}\(\s*[\"'](\w+)[\"']", upgrade))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["add", "remove"])
    parser.add_argument("name")
    parser.add_argument("--plural", default="")
    parser.add_argument("--title", default="")
    arguments = parser.parse_args()
    # In hooks, Git sets GIT_DIR and other variables, which could lead to another repository.
    for name in [name for name in os.environ if name.startswith("GIT_") and not name.startswith("GIT_CONFIG_")]:
        del os.environ[name]
    if not arguments.name:
        refuse("NAME is missing. For example: make feature NAME=book")
    if arguments.command == "add":
        add(names_of(arguments.name, arguments.plural, arguments.title))
    else:
        remove(arguments.name)


def refuse(reason: str) -> None:
    sys.exit(f"{'remove-feature' if 'remove' in sys.argv[1:2] else 'feature'}: {reason}")


def names_of(one: str, many: str, title: str) -> Names:
    title = title or one.replace("_", " ")
    return Names(one, many or plural_of(one), title if title[1:2].isupper() else title[:1].lower() + title[1:])


def plural_of(word: str) -> str:
    """Right for most English nouns; for the others there is PLURAL=."""
    if re.search("(s|x|z|ch|sh)$", word):
        return f"{word}es"
    return f"{word[:-1]}ies" if re.search("[^aeiou]y$", word) else f"{word}s"


def add(names: Names) -> None:
    migrations = read_migrations()
    features = FEATURES.read_text(encoding="utf-8")
    if obstacle := obstacle_to_add(names, migrations, features):
        refuse(obstacle)

    followed = {revision for migration in migrations for revision in migration.follows}
    heads = sorted({migration.revision for migration in migrations} - followed)
    revision = secrets.token_hex(6)
    variables = names.variables() | {
        "revision": revision,
        "follows": ", ".join(heads) or "nothing",
        "down_revision": repr(tuple(heads)) if len(heads) > 1 else repr(heads[0] if heads else None),
    }
    files = {MIGRATIONS / f"{revision}_{names.many}.py": "migration"}
    for part in ("__init__", "feature", "models", "rest", "schemas", "service", "tools"):
        files[ROOT / "app" / names.many / f"{part}.py"] = part
    for part in ("__init__", "test_rest", "test_tools"):
        files[ROOT / "tests" / names.many / f"{part}.py"] = part
    for file, part in files.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(Template((SKELETON / f"{part}.txt").read_text()).substitute(variables), encoding="utf-8")

    entry = f"{names.many}_feature"
    listed = LIST.sub(lambda found: f"    return [{found[1].rstrip()}\n{' ' * 8}{entry}(database),\n    ]", features)
    imported = f"from app.{names.many}.feature import {entry}\n"
    FEATURES.write_text(re.sub("^from ", rf"{imported}\g<0>", listed, count=1, flags=re.MULTILINE), encoding="utf-8")
    tidy([*files, FEATURES])
    print(f"Added {names.model}: app/{names.many}, tests/{names.many} and a migration. Next: make test")


def obstacle_to_add(names: Names, migrations: list[Migration], features: str) -> str | None:
    """Why the feature cannot be added, or None."""
    for question, name in (("NAME", names.one), ("PLURAL", names.many)):
        if not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > MAX_LENGTH:
            return f"{question}={name} is not a valid name: use lower-case letters, digits and _, at most {MAX_LENGTH} characters."
        if keyword.iskeyword(name):
            return f"{question}={name} is a reserved word in Python."
    if used := next((place for place in names.places() if (ROOT / place).exists()), None):
        return f"the name is taken: {used} exists already."
    if keyword.iskeyword(names.model) or names.model in CLASSES:
        return f"NAME={names.one} would create a class {names.model}, but every feature already imports another {names.model}."
    if not re.fullmatch(r"\w[\w -]*", names.title):
        return f"TITLE={names.title} is not a valid title: use letters, digits, spaces and hyphens."
    if names.many.replace("_", "-") in PATHS:
        return f"PLURAL={names.many} is taken: the service already has the path /{names.many}."
    made = {table for each in migrations for table in each.tables("create_table")}
    dropped = {table for each in migrations for table in each.tables("drop_table")}
    if names.many in TABLES | (made - dropped):
        return f"PLURAL={names.many} is taken: there is already a table with this name."
    if not LIST.search(features):
        return "app/features.py no longer contains `return [...]`, the list that the feature would be added to."
    if is_repository() and git("status", "--porcelain", "--", str(FEATURES)):
        return "app/features.py has uncommitted changes. Commit them first."
    return None


def remove(name: str) -> None:
    features = FEATURES.read_text(encoding="utf-8")
    listed = re.findall(r"^from app\.(\w+)\.feature import \w+_feature$", features, re.MULTILINE)
    found = [each for each in (name, plural_of(name)) if each in listed and (ROOT / "app" / each).is_dir()]
    if not found:
        refuse(f"there is no feature {name}. app/features.py lists: {', '.join(sorted(listed)) or 'none'}.")
    many = found[0]
    migrations = read_migrations()
    tables = set(re.findall(r'__tablename__ = "(\w+)"', "\n".join(texts(ROOT / "app" / many))))
    own = [each for each in migrations if each.tables("create_table") & tables]
    removable = [each for each in own if can_go(each, tables, migrations)]
    if obstacle := obstacle_to_remove(many, [each.file for each in own]):
        refuse(obstacle)

    for folder in ("app", "tests"):
        shutil.rmtree(ROOT / folder / many, ignore_errors=True)
    without(FEATURES, many)
    if imports(WORKER, many):
        without(WORKER, many)
    changed = [file for file in (FEATURES, WORKER) if file.exists()]
    for each in removable:
        each.file.unlink()
        changed += [relink(follower, each) for follower in migrations if each.revision in follower.follows]
    tidy(changed)
    print(f"Removed {many}.")
    for each in removable:
        print(
            f"Removed {each.file.relative_to(ROOT)}, too. A database that has already run it can no longer be migrated: delete that "
            "database, or restore the migration with `git checkout HEAD -- FILE` and drop the table with "
            f"`make migration NAME='remove {many}'`."
        )
    if kept := sorted(tables - {table for each in removable for table in each.tables("create_table")}):
        print(f"Kept the migration of {', '.join(kept)}. To drop the table, run: make migration NAME='remove {many}'")


def obstacle_to_remove(many: str, migrations: list[Path]) -> str | None:
    """Why the feature cannot be removed, or None."""
    for file in sorted(
        each for folder in ("app", "dev", "tests", "migrations") for each in ROOT.glob(f"{folder}/**/*.py")
    ):
        place = file.relative_to(ROOT)
        if file in (FEATURES, WORKER) or place.parts[:2] in (("app", many), ("tests", many)):
            continue
        if imports(file, many):
            other = place.parts[1] if len(place.parts) > 2 else None
            if other and (ROOT / "app" / other / "feature.py").exists():
                return f"{place} imports it. Remove that feature first: make remove-feature NAME={other}"
            return f"{place} imports it. Remove that import first."
    computation = rf"from app\.{many}\.computation import"
    if imports(WORKER, many) and not re.search(computation, WORKER.read_text(encoding="utf-8")):
        return "app/worker.py needs it. To remove jobs, change the template's answer `gpu`, as docs/update.md explains."
    if not is_repository():
        return "this is not a git repository, so the feature could not be restored. Run `git init` and commit everything first."
    places = [FEATURES, WORKER, ROOT / "app" / many, ROOT / "tests" / many, *migrations]
    there = [str(place) for place in places if place.exists()]
    if changes := git("status", "--porcelain", "--untracked-files=all", "--", *there):
        return f"there are uncommitted changes, which could not be restored. Commit them first:\n{changes}"
    return None


def imports(file: Path, many: str) -> bool:
    """Whether the file imports the feature or its tests."""
    if not file.exists():
        return False
    imported: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
    return any(f"{name}.".startswith((f"app.{many}.", f"tests.{many}.")) for name in imported)


def without(file: Path, many: str) -> None:
    """Remove the feature's imports from a file, and the entries of lists and dictionaries that use them."""
    text = file.read_text(encoding="utf-8")
    lines = rf"^from app\.{many}\.\w+ import (?:\w+ as )?(\w+)\n"
    for name in re.findall(lines, text, re.MULTILINE):
        text = re.sub(rf"^    +{name}\(.*\),\n|\b{name}: \w+(, )?", "", text, flags=re.MULTILINE)
    text = re.sub(lines, "", text, flags=re.MULTILINE)
    text = re.sub(rf'"-m", "app\.{many}\.\w+"', '"-c", "print(\'a device that no computation checks\')"', text)
    file.write_text(text, encoding="utf-8")


def read_migrations() -> list[Migration]:
    return [read_migration(file) for file in sorted(MIGRATIONS.glob("*.py"))]


def read_migration(file: Path) -> Migration:
    text = file.read_text(encoding="utf-8")
    values = {"revision": "", "down_revision": None}
    for statement in ast.parse(text).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id in values:
                values[target.id] = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
    follows = values["down_revision"]
    return Migration(
        file, str(values["revision"]), [follows] if isinstance(follows, str) else list(follows or []), text
    )


def can_go(migration: Migration, tables: set[str], migrations: list[Migration]) -> bool:
    """Whether the migration is only about these tables, and no other migration mentions them."""
    others = "\n".join(each.text for each in migrations if each != migration)
    return migration.tables("create_table") <= tables and not any(
        re.search(rf"\b{table}\b", others) for table in tables
    )


def relink(migration: Migration, removed: Migration) -> Path:
    """Let a migration follow the one that the removed one followed."""
    follows = [each for each in migration.follows if each != removed.revision] + removed.follows
    down_revision = repr(tuple(follows)) if len(follows) > 1 else repr(follows[0] if follows else None)
    text = re.sub("^Follows: .*", f"Follows: {', '.join(follows) or 'nothing'}", migration.text, flags=re.MULTILINE)
    text = re.sub("^(down_revision.*?= ).*", rf"\g<1>{down_revision}", text, flags=re.MULTILINE)
    migration.file.write_text(text, encoding="utf-8")
    return migration.file


def texts(folder: Path) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in folder.glob("*.py")]


def tidy(files: list[Path]) -> None:
    """Sort imports and wrap lines, which depend on the length of the names."""
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "--quiet", "--select=I,F401", "--fix", *files], check=True)
    subprocess.run([*ruff, "format", "--quiet", *files], check=True)


def is_repository() -> bool:
    return subprocess.run(["git", "rev-parse"], capture_output=True, check=False).returncode == 0


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout.rstrip()


if __name__ == "__main__":
    main()
