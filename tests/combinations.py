"""What can be chosen, as data: each combination here is rendered, installed and run."""

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


WITHOUT_GPU = [Combination(*values) for values in product(["sqlite", "postgres"], ["uv", "pip", "venv"])]
# Each package manager installs CUDA, and each database keeps jobs: that takes three of the six.
WITH_GPU = [
    Combination("sqlite", "uv", gpu=True),
    Combination("postgres", "pip", gpu=True),
    Combination("sqlite", "venv", gpu=True),
]
COMBINATIONS = [*WITHOUT_GPU, *WITH_GPU]
# What is built and started as an image: each database with each package manager, one of these with jobs. What jobs need
# beside that has tests of its own, in test_gpu_images.py.
AS_IMAGES = [WITH_GPU[1] if each == WITH_GPU[1]._replace(gpu=False) else each for each in WITHOUT_GPU]
# Whose own tests run in the image: the same, but each database with jobs, where a project has all tests that it has without.
TESTED_INSIDE = [WITH_GPU[0], *AS_IMAGES[1:]]
# The one of these for which that is Python 3.13.
ON_NEWER_PYTHON = Combination("sqlite", "venv")
