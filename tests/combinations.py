"""The possible answers, as data. Each combination is rendered and read, and its image is built and started."""

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

SQLITE_UV, SQLITE_UV_GPU, SQLITE_PIP, SQLITE_PIP_GPU, SQLITE_VENV, SQLITE_VENV_GPU = COMBINATIONS[:6]
POSTGRES_UV, POSTGRES_UV_GPU, POSTGRES_PIP, POSTGRES_PIP_GPU, POSTGRES_VENV, POSTGRES_VENV_GPU = COMBINATIONS[6:]

EACH_DATABASE = [SQLITE_UV, POSTGRES_UV]
EACH_PACKAGE_MANAGER = [SQLITE_UV, SQLITE_PIP, SQLITE_VENV]
