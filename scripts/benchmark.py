"""Measure rendered services against a bare handler on the raw driver, in one run, and print a table.

    .venv/bin/python scripts/benchmark.py [--seconds 5] [--rounds 3] [sqlite] [postgres]

Needs wrk (Debian package of the same name) and Linux's /proc. Rounds of the service and of the bare handler
alternate, and the best of each counts, because the neighbours on the machine differ from second to second: trust
the ratios more than the numbers. Memory is the proportional set size of all processes of the server, in MiB.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent
CLIENTS = 32
ROWS = 10_000
SECRET = "secret-of-the-benchmark-0123456789abcdef"
CPU_TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Load:
    name: str
    path: str
    body: str | None = None


LOADS = [
    Load("health", "/health"),
    Load("create", "/tasks", '{"title": "Measure it"}'),
    Load("read", f"/tasks/{ROWS // 2}"),
    Load("list 50", "/tasks"),
]


@dataclass
class Result:
    requests_per_second: float
    p50: str
    p99: str
    cpu_microseconds: float


@dataclass
class Server:
    name: str
    url: str
    process: subprocess.Popen[bytes]
    headers: dict[str, str]

    def pids(self) -> list[int]:
        children = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="utf-8").split()
        )
        return [self.process.pid, *map(int, children)]

    def cpu_seconds(self) -> float:
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks * CPU_TICK

    def memory_mib(self) -> float:
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8") for pid in self.pids()]
        return sum(int(re.findall(r"^Pss: +(\d+)", rollup, re.MULTILINE)[0]) for rollup in rollups) / 1024

    def measure(self, load: Load, seconds: int) -> Result:
        """Raises: RuntimeError, if an answer is no success."""
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            if load.body is not None:
                script.write(f"wrk.method = 'POST'\nwrk.body = {json.dumps(load.body)}\n")
                script.write("wrk.headers['Content-Type'] = 'application/json'\n")
            script.flush()
            headers = [part for name, value in self.headers.items() for part in ("-H", f"{name}: {value}")]
            arguments = ["-t", "1", "-c", str(CLIENTS), "-d", f"{seconds}s", "--latency", "-s", script.name]
            before = self.cpu_seconds()
            output = run(["wrk", *arguments, *headers, self.url + load.path])
        used = self.cpu_seconds() - before
        if "Non-2xx" in output or "Socket errors" in output:
            raise RuntimeError(f"{self.name}, {load.name}: {output}")
        requests = int(find(r"(\d+) requests in", output))
        return Result(
            requests_per_second=float(find(r"Requests/sec: +([\d.]+)", output)),
            p50=find(r"50%\s+(\S+)", output),
            p99=find(r"99%\s+(\S+)", output),
            cpu_microseconds=used / requests * 1e6,
        )


def run(command: list[str], folder: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Raises: SystemExit, with all that the command printed, if it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        encoding="utf-8",
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


def find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"{pattern} is not in: {text}"
    return match[1]


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def render(database: str, folder: Path) -> Path:
    """A service with its dependencies installed."""
    cookiecutter = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input", "-o", str(folder)]
    run([*cookiecutter, f"project_slug={database}", f"database={database}"])
    run(["make", "install"], folder / database)
    return folder / database


@contextmanager
def database_of(project: Path) -> Iterator[str]:
    """The URL of a migrated database with `ROWS` tasks in it."""
    if (project / "dev" / "postgres.py").exists():
        code = "import sys; from pathlib import Path; from dev.postgres import start; "
        code += "print(start(Path('.postgres')).get_uri(), flush=True); sys.stdin.read()"
        server = subprocess.Popen(
            [".venv/bin/python", "-W", "ignore", "-c", code],
            cwd=project,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        assert server.stdout is not None
        url = server.stdout.readline().strip()
    else:
        server = None
        url = f"sqlite:///{project}/benchmark.db"
    environment = {**os.environ, "DATABASE_URL": url}
    run([".venv/bin/python", "-m", "app.db.migrate"], project, environment)
    fill = (
        "from sqlalchemy import insert\n"
        "from app.db.database import run_on_connection\n"
        "from app.tasks.models import Task\n"
        "def fill(connection):\n"
        f"    connection.execute(insert(Task), [dict(title=f'Task {{n}}') for n in range({ROWS})])\n"
        "    connection.commit()\n"
        f"run_on_connection({url!r}, fill)\n"
    )
    run([".venv/bin/python", "-c", fill], project, environment)
    try:
        yield url
    finally:
        if server is not None:
            server.communicate()


@contextmanager
def serve(name: str, project: Path, url: str, app: list[str]) -> Iterator[Server]:
    port = free_port()
    environment = {
        **os.environ,
        "API_KEY_SECRET": SECRET,
        "DATABASE_URL": url,
        "PORT": port,
        "MCP_PORT": free_port(),
        "PYTHONPATH": str(TEMPLATE / "scripts"),
    }
    headers = {}
    if not app:
        issue = [".venv/bin/python", "-m", "app.api_keys", "issue", "benchmark"]
        headers["X-API-Key"] = run(issue, project, environment).strip()
    with (project / f"{name}.log").open("wb") as log:
        command = [".venv/bin/python", "-m", "gunicorn", *app]
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
    try:
        server = Server(name, f"http://127.0.0.1:{port}", process, headers)
        wait_for(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def wait_for(server: Server) -> None:
    for _ in range(600):
        with suppress(OSError), urllib.request.urlopen(server.url + "/health", timeout=1):
            return
        time.sleep(0.05)
    sys.exit(f"{server.name} does not start")


def best(results: list[Result]) -> Result:
    return max(results, key=lambda result: result.requests_per_second)


def benchmark(database: str, folder: Path, seconds: int, rounds: int) -> None:
    project = render(database, folder)
    with (
        database_of(project) as url,
        serve("service", project, url, []) as service,
        serve("bare", project, url, ["benchmark_bare:app"]) as bare,
    ):
        print(f"\n{database}: 2 workers, {CLIENTS} clients, {ROWS} tasks, best of {rounds} x {seconds} s\n")
        print("| request | server | requests/s | p50 | p99 | CPU us/request | of bare |")
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
        for load in LOADS:
            found: dict[str, list[Result]] = {"service": [], "bare": []}
            for _ in range(rounds):
                for server in (service, bare):
                    found[server.name].append(server.measure(load, seconds))
            limit = best(found["bare"]).requests_per_second
            for name, results in found.items():
                result = best(results)
                print(
                    f"| {load.name} | {name} | {result.requests_per_second:.0f} | {result.p50} | {result.p99} "
                    f"| {result.cpu_microseconds:.0f} | {result.requests_per_second / limit:.0%} |",
                    flush=True,
                )
        print(f"\nmemory after that: service {service.memory_mib():.0f} MiB, bare {bare.memory_mib():.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=5, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("database", nargs="*", default=["sqlite", "postgres"])
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("benchmark.py: needs wrk: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        for database in arguments.database:
            benchmark(database, Path(folder), arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    main()
