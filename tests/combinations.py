"""What can be chosen, as data: each combination here is rendered, installed and run; every other choice is refused."""

import json
from itertools import product
from pathlib import Path
from typing import NamedTuple

TEMPLATE = Path(__file__).resolve().parent.parent
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))


class Combination(NamedTuple):
    database: str
    package_manager: str

    def __str__(self) -> str:
        return "-".join(self)


COMBINATIONS = [Combination(*values) for values in product(["sqlite", "postgres"], ["uv", "pip", "venv"])]

REFUSED = [("gpu", "yes")]
