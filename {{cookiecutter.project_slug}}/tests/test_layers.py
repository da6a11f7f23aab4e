"""Imports only go downwards, so that features can be deleted and the platform can be updated."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

from app.settings import ROOT

LAYERS = {
    "main": 5,
    "worker": 5,
    "features": 4,
    "web": 2,
    "db": 1,
    "settings": 0,
    "logs": 0,
    "traces": 0,
    "errors": 0,
    "database_url": 0,
    "files": 0,
}
FEATURE = 3
"""The layer of all folders that are not listed above."""


def imported_parts(source: str) -> Iterator[str]:
    """The parts of `app`, such as `web`, that the module imports anywhere."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            module = node.module or ""
            names = [f"app.{alias.name}" for alias in node.names] if module == "app" else [module]
        for name in names:
            if name.startswith("app."):
                yield name.split(".")[1]


def find_faults(part: str, source: str) -> list[str]:
    """The forbidden imports of a module of this part of `app`."""
    return [
        f"{part} imports {other}"
        for other in imported_parts(source)
        if LAYERS.get(other, FEATURE) > LAYERS.get(part, FEATURE)
    ]


def test_imports_only_go_downwards() -> None:
    app = ROOT / "app"
    modules = list(app.rglob("*.py"))
    assert {app / "web" / "mcp.py", app / "db" / "sqlite.py", app / "main.py"} <= set(modules)
    faults = []
    features: dict[str, set[str]] = {}
    for module in modules:
        part = module.relative_to(app).with_suffix("").parts[0]
        source = module.read_text(encoding="utf-8")
        faults += find_faults(part, source)
        if part not in LAYERS:
            features.setdefault(part, set()).update(set(imported_parts(source)) - LAYERS.keys() - {part})
    assert faults == []
    TopologicalSorter(features).prepare()  # a feature may use another one, but not in a cycle


@pytest.mark.parametrize(
    ("part", "source", "fault"),
    [
        ("web", "from app.api_keys.service import ApiKeyVerifier", "web imports api_keys"),
        ("db", "import app.books.models", "db imports books"),
        ("db", "from app.web import metrics", "db imports web"),
        ("db", "def f():\n    from app import features", "db imports features"),
        ("books", "from app.main import create_app", "books imports main"),
        ("settings", "from app.db import search", "settings imports db"),
        ("features", "import json, app.main", "features imports main"),
    ],
)
def test_an_import_that_goes_upwards_or_sideways_is_found(part: str, source: str, fault: str) -> None:
    assert find_faults(part, source) == [fault]


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("main", "from app.features import create_features"),
        ("main", "from app.worker import worker"),
        ("books", "from app.books.models import Book\nfrom app.web import schemas\nfrom app.db.columns import Base"),
        ("books", "import app.shelves.models"),
        ("web", "import apples\nfrom app.errors import NotFound"),
    ],
)
def test_a_downward_import_is_allowed(part: str, source: str) -> None:
    assert find_faults(part, source) == []
