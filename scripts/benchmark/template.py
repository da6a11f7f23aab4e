"""Measures how long rendering takes, compared with a template of one file and no hooks."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from scripts.benchmark.measure import execute
from scripts.benchmark.servers import TEMPLATE, environment


def measure(rounds: int) -> dict[str, float]:
    """Seconds of `cookiecutter --no-input`, as medians of alternating rounds."""
    with tempfile.TemporaryDirectory() as folder:
        smallest = Path(folder, "smallest")
        (smallest / "{{cookiecutter.project_slug}}").mkdir(parents=True)
        (smallest / "{{cookiecutter.project_slug}}" / "README.md").write_text("{{cookiecutter.project_slug}}\n")
        (smallest / "cookiecutter.json").write_text('{"project_slug": "smallest"}\n')
        found: dict[str, list[float]] = {"this": [], "smallest": []}
        for number in range(rounds + 1):
            for name, template in (("this", TEMPLATE), ("smallest", smallest)):
                output = Path(folder, f"{name}-{number}")
                output.mkdir()
                arguments = [str(template), "--no-input", "--default-config", "--output-dir", str(output)]
                began = time.monotonic()
                execute([str(Path(sys.executable).with_name("cookiecutter")), *arguments], environment=environment())
                found[name].append(time.monotonic() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}
