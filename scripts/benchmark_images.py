"""Measure the image of each combination against a plain one, in one run, and print a table.

    .venv/bin/python -m scripts.benchmark_images [sqlite-uv-cpu ...]

The plain image is what one would write in a minute: one stage, `pip install`, the same service. A cold build has no
layer to reuse, but packages that were downloaded before; a cached one follows a change of the source. Starts run from
`docker run` to the first 200, migrations included, and the better of two counts, because the neighbours on the machine
differ from second to second. Memory is what `docker stats` shows after 2000 requests; requests a second are reads of one
task by 32 clients. Needs Docker and wrk (Debian package of the same name).

Limits without jobs: 165 MB, 120 MiB, and starts of 3 s on two CPUs of an ordinary server and of 10 s on a quarter of one.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cookiecutter.main import cookiecutter

from tests.combinations import COMBINATIONS, TEMPLATE, Combination
from tests.docker import SECRET, Container, build, call, container, docker, network
from tests.sandbox import wait_until
from tests.test_images import BASE, REQUESTS, REQUESTS_SCRIPT, size_of

PLAIN = """
FROM python:3.12-slim
WORKDIR /srv
COPY . .
RUN pip install --no-cache-dir --require-hashes --requirement requirements.txt
ENV HOST=0.0.0.0 PORT=8000 MCP_PORT=8051 ENVIRONMENT=production API_KEY_SECRET_FILE=/srv/secret
CMD ["gunicorn"]
"""
PUBLISH = ["--publish=127.0.0.1::8000", "--publish=127.0.0.1::8051"]
HEADINGS = ["image", "MB", "over base", "cold build", "cached", "start, 2 CPUs", "0.25 CPU", "memory", "requests/s"]


def render(combination: Combination, folder: Path) -> Path:
    answers = combination._asdict()
    made = cookiecutter(
        str(TEMPLATE), no_input=True, extra_context=answers, output_dir=str(folder), default_config=True
    )
    return Path(made)


@contextmanager
def options(combination: Combination, image: str) -> Iterator[list[str]]:
    """What `docker run` has to be told; a new and migrated database on PostgreSQL."""
    if combination.database == "sqlite":
        yield []
        return
    database = ["--network-alias=database", "--env=POSTGRES_PASSWORD=benchmark", "postgres:18"]
    with network() as net, container(f"--network={net}", *database) as server:
        ready = ["docker", "exec", server.id, "pg_isready", "--host=127.0.0.1", "--username=postgres"]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, timeout=60, what=server.logs)
        url = "postgresql://postgres:benchmark@database:5432/postgres"
        settings = [f"--network={net}", f"--env=DATABASE_URL={url}", f"--env=API_KEY_SECRET={SECRET}"]
        docker("run", "--rm", *settings, image, "python", "-m", "app.db.migrate")
        yield settings


@contextmanager
def service(*arguments: str) -> Iterator[tuple[Container, float]]:
    """The service, and the seconds to its first 200."""
    began = time.monotonic()
    with container(*PUBLISH, "--memory=512m", *arguments) as started:
        started.wait_for_health(timeout=120)
        yield started, time.monotonic() - began


def start_seconds(image: str, settings: list[str], cpus: str) -> float:
    def start() -> float:
        with service(f"--cpus={cpus}", *settings, image) as (_, seconds):
            return seconds

    return min(start() for _ in range(2))


def build_seconds(folder: Path, *arguments: str) -> tuple[str, float]:
    began = time.monotonic()
    image = build(folder, "", *arguments)
    return image, time.monotonic() - began


def requests_per_second(url: str, key: str) -> float:
    task = call(url, key=key, data={"title": "Read it"}).body["id"]
    command = ["wrk", "--threads=1", "--connections=32", "--duration=5s", f"--header=X-API-Key: {key}", f"{url}/{task}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    if "Non-2xx" in printed:
        sys.exit(f"{url}: {printed}")
    return float(re.findall(r"Requests/sec: +([\d.]+)", printed)[0])


def measure(name: str, folder: Path, combination: Combination) -> str:
    """A row of the table."""
    image, cold = build_seconds(folder, "--no-cache")
    source = folder / "app" / "health.py"
    source.write_text(f"{source.read_text(encoding='utf-8')}\n# changed\n", encoding="utf-8")
    image, cached = build_seconds(folder)
    with options(combination, image) as settings:
        starts = [f"{start_seconds(image, settings, cpus):.1f} s" for cpus in ("2", "0.25")]
        with service("--cpus=2", *settings, image) as (started, _):
            key = started.issue_key("benchmark")
            url = f"{started.url()}/tasks"
            docker("run", "--rm", "--network=host", image, "python", "-c", REQUESTS_SCRIPT, url, key, str(REQUESTS))
            memory = docker("stats", "--no-stream", "--format={{.MemUsage}}", started.id).partition(" / ")[0]
            speed = requests_per_second(url, key)
    size = size_of(image)
    over = f"{(size - size_of(BASE)) / 1e6:.0f}"
    cells = [name, f"{size / 1e6:.0f}", over, f"{cold:.0f} s", f"{cached:.1f} s", *starts, memory, f"{speed:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("combinations", nargs="*", help="such as sqlite-uv-cpu; all by default")
    chosen = parser.parse_args().combinations
    print(f"| {' | '.join(HEADINGS)} |", "| --- " + "| ---: " * (len(HEADINGS) - 1) + "|", sep="\n", flush=True)
    measured: set[str] = set()
    for combination in COMBINATIONS:
        if chosen and str(combination) not in chosen:
            continue
        with tempfile.TemporaryDirectory() as folder:
            project = render(combination, Path(folder))
            print(measure(str(combination), project, combination), flush=True)
            if combination.database not in measured:
                measured.add(combination.database)
                (project / "Dockerfile").write_text(PLAIN, encoding="utf-8")
                (project / ".dockerignore").unlink()
                print(measure(f"{combination.database}, plain", project, combination), flush=True)


if __name__ == "__main__":
    main()
