"""Benchmarks a rendered service against its alternatives, in one run: `make benchmark`.

    make benchmark ARGS='[--seconds 3] [--rounds 3] [--before COMMIT] [--only NAME ...] [--output FOLDER] [postgres] [sqlite]'

Writes docs/benchmark.json and, from it, docs/benchmark.md, its chart and the table in README.md; with --output, writes to
another folder and leaves README.md as it is. Needs wrk (a Debian package), git, and Linux's /proc. Each server has two
workers and its own database with 10 000 rows. All servers with the same database run at once and are loaded in turn,
because the load on a shared machine changes from second to second; there, compare CPU time. A server that cannot be
installed, does not start or hangs gets a line that says so.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.benchmark import report, template
from scripts.benchmark.measure import CLIENTS, Failure, Measurement, Request, Server, execute, median, start
from scripts.benchmark.servers import (
    CONTENDERS,
    LOADS,
    ROWS,
    TEMPLATE,
    Contender,
    Launch,
    Place,
    before,
    postgres,
    render,
)

DATABASES = ["postgres", "sqlite"]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def first_line(failure: Exception) -> str:
    return str(failure).partition("\n")[0][:200]


def install(place: Place, contenders: Sequence[Contender], results: dict[str, dict[str, Any]]) -> dict[str, Launch]:
    """Install all at once, as most of the time is spent on downloads. The result of a failure is its reason."""

    def attempt(contender: Contender) -> Launch | None:
        try:
            launch = contender.install(place)
        except Exception as failure:  # another project may fail in any way
            say(f"{contender.name} cannot be installed: {failure}")
            results[contender.name]["failure"] = f"cannot be installed: {first_line(failure)}"
            return None
        results[contender.name]["versions"] = launch.notes
        return launch

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        launches = dict(zip((each.name for each in contenders), pool.map(attempt, contenders), strict=True))
    return {name: launch for name, launch in launches.items() if launch is not None}


def measure(
    place: Place, contenders: Sequence[Contender], seconds: int, rounds: int, loads: Sequence[str] = LOADS
) -> list[dict[str, Any]]:
    """Results in the order of the contenders."""
    results: dict[str, dict[str, Any]] = {
        each.name: {"name": each.name, "what": each.what, "loads": {}} for each in contenders
    }
    running: dict[str, tuple[Server, dict[str, Request]]] = {}
    with ExitStack() as stack:
        for name, launch in install(place, contenders, results).items():
            log = place.folder / f"{name.replace(' ', '-')}.log"
            arguments = (launch.command, launch.folder, launch.environment, launch.health, log)
            try:
                with start(*arguments):  # a first start, which reads the files from disk
                    pass
                server = stack.enter_context(start(*arguments))
                results[name].update(start=server.start_seconds, start_cpu=server.start_cpu_seconds)
                running[name] = server, launch.fill()
            except Failure as failure:
                say(f"{name}: {failure}")
                results[name]["failure"] = first_line(failure)
        for request_name in loads:
            turns = {name: server for name, server in running.items() if request_name in server[1]}
            found: dict[str, list[Measurement]] = {name: [] for name in turns}
            for number in range(rounds + 1):
                for name, (server, requests) in list(turns.items()):
                    try:
                        requests[request_name].call()
                        measurement = server.measure(requests[request_name], seconds if number else 1)
                        if number:  # the first round only opens connections
                            found[name].append(measurement)
                    except Failure as failure:
                        say(f"{name}, {request_name}: {failure}")
                        results[name]["loads"][request_name] = {"failure": first_line(failure)}
                        del turns[name]
            for name in turns:
                results[name]["loads"][request_name] = vars(median(found[name]))
            say(f"{place.database}, {request_name}: measured")
        for name, (server, _) in running.items():
            results[name]["memory"] = server.memory_mib()
    return list(results.values())


def machine() -> dict[str, Any]:
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {"cpus": os.cpu_count(), "model": next(iter(model), platform.machine()), "kernel": platform.release()}


def benchmark(
    folder: Path,
    databases: Sequence[str],
    seconds: int,
    rounds: int,
    choose: Callable[[str], Sequence[Contender]],
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "machine": machine(),
        "commit": execute(["git", "-C", str(TEMPLATE), "describe", "--always", "--dirty"]).strip(),
        "seconds": seconds,
        "rounds": rounds,
        "clients": CLIENTS,
        "rows": ROWS,
        "databases": {},
    }
    for database in databases:
        say(f"{database}: installing")
        try:
            place = Place(database, folder / database, render(TEMPLATE, database, folder / f"{database}-service"))
            place.folder.mkdir()
            found["python"] = execute([place.interpreter, "--version"]).split()[1]
            with ExitStack() as stack:
                if database == "postgres":
                    place.postgres_port = stack.enter_context(postgres(place.service, place.folder / "data"))
                found["databases"][database] = measure(place, choose(database), seconds, rounds)
        except Failure as failure:
            say(f"{database}: not measured: {failure}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--before", metavar="COMMIT", help="also the service that this commit renders")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these servers, such as: --only service before bare")
    parser.add_argument("--output", type=Path, default=None, help="a folder for the results, instead of docs/")
    parser.add_argument("databases", nargs="*", metavar="DATABASE", help="postgres, sqlite; both by default")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("benchmark: needs wrk: apt-get install wrk")
    if wrong := set(options.databases) - set(DATABASES):
        parser.error(f"no such database: {', '.join(wrong)}")

    contenders = [*CONTENDERS]
    if options.before:
        contenders.insert(2, before(options.before))

    def choose(database: str) -> list[Contender]:
        return [
            each
            for each in contenders
            if database in each.databases and (not options.only or any(name in each.name for name in options.only))
        ]

    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        found = benchmark(Path(folder), options.databases or DATABASES, options.seconds, options.rounds, choose)
    if not found["databases"]:
        sys.exit("benchmark: nothing could be measured")
    if not options.only:
        say("the template: measuring")
        found["template"] = template.measure(rounds=9)
    report.write(found, options.output)
    print(report.markdown(found))


if __name__ == "__main__":
    main()
