"""What can be chosen, as data: each combination here is rendered and read, and its image built and started."""

import json
from itertools import product
from pathlib import Path
from typing import NamedTuple

TEMPLATE = Path(__file__).resolve().parent.parent
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))


class Combination(NamedTuple):
    database: str
    package_manager: str
    gpu: bool = False

    def __str__(self) -> str:
        return "-".join([self.database, self.package_manager, "gpu" if self.gpu else "cpu"])


COMBINATIONS = [
    Combination(*values) for values in product(["sqlite", "postgres"], ["uv", "pip", "venv"], [False, True])
]

# Those that stand for others, where a test needs one of them.
SQLITE_UV = Combination("sqlite", "uv")
SQLITE_PIP = Combination("sqlite", "pip")
SQLITE_VENV = Combination("sqlite", "venv")
POSTGRES_UV = Combination("postgres", "uv")
SQLITE_UV_GPU = Combination("sqlite", "uv", gpu=True)
POSTGRES_PIP_GPU = Combination("postgres", "pip", gpu=True)

EACH_DATABASE = [SQLITE_UV, POSTGRES_UV]
EACH_PACKAGE_MANAGER = [SQLITE_UV, SQLITE_PIP, SQLITE_VENV]
