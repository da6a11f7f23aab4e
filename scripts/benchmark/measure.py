"""Starts a server, loads it with wrk, and measures what that costs."""

import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

CLIENTS = 32
START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0
CPU_TICK = 1 / os.sysconf("SC_CLK_TCK")

SCRIPT = """
wrk.method = {method}
wrk.body = {body}
for name, value in pairs({headers}) do wrk.headers[name] = value end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("\\nDONE %d %d %d %d %d %d\\n", summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


class Failure(Exception):
    """Why there is no result. The first line goes into the table."""


@dataclass(frozen=True)
class Request:
    url: str
    body: object = None
    """Sent as JSON unless it is None."""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10
    """Seconds until the first response."""

    def all_headers(self) -> dict[str, str]:
        return {**({"Content-Type": "application/json"} if self.body is not None else {}), **self.headers}

    def call(self) -> bytes:
        """Return the body of the response.

        Raises:
            Failure: there is no response, or it is an error.
        """
        body = None if self.body is None else json.dumps(self.body).encode()
        request = urllib.request.Request(self.url, body, self.all_headers(), method=self.method)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                answer: bytes = response.read()
        except urllib.error.HTTPError as error:
            raise Failure(f"answers {error.code}: {error.read().decode(errors='replace')[:200]}") from error
        except OSError as error:  # including timeouts
            raise Failure(f"no answer: {error}") from error
        if b'"isError":true' in answer.replace(b" ", b""):  # a tool's error has status 200
            raise Failure(f"answers {answer.decode(errors='replace')[:200]}")
        return answer


@dataclass
class Measurement:
    """The medians for one request: times in milliseconds, CPU time in microseconds per request."""

    requests_per_second: float
    cpu: float
    p50: float
    p99: float
    failed: float
    """The share of requests that failed."""


class Server:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.start_seconds = 0.0
        self.start_cpu_seconds = 0.0

    def pids(self) -> list[int]:
        """The ids of the process and all its descendants."""
        found = [self.process.pid]
        for pid in found:
            with suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += map(int, children.read_text(encoding="utf-8").split())
        return found

    def cpu_seconds(self) -> float:
        ticks = 0
        for pid in self.pids():
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks * CPU_TICK

    def memory_mib(self) -> float:
        """The proportional set size, in which shared memory counts once."""
        kibibytes = 0
        for pid in self.pids():
            with suppress(OSError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
                kibibytes += sum(map(int, re.findall(r"^Pss: +(\d+)", rollup, re.MULTILINE)))
        return kibibytes / 1024

    def wait_until_ready(self, health: str) -> None:
        """
        Raises:
            Failure: it is not ready within `START_TIMEOUT`.
        """
        began = time.monotonic()
        while self.process.poll() is None and time.monotonic() < began + START_TIMEOUT:
            with suppress(Failure):
                Request(health, timeout=1).call()
                self.start_seconds = time.monotonic() - began
                self.start_cpu_seconds = self.cpu_seconds()
                return
            time.sleep(0.01)
        raise Failure("does not start")

    def measure(self, request: Request, seconds: int) -> Measurement:
        """Run one round.

        Raises:
            Failure: no request succeeded.
        """
        body = "nil" if request.body is None else lua(json.dumps(request.body))
        headers = ", ".join(f"[ {lua(name)} ] = {lua(value)}" for name, value in request.all_headers().items())
        with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="utf-8") as script:
            script.write(SCRIPT.format(method=lua(request.method), body=body, headers=f"{{{headers}}}"))
            script.flush()
            options = ["--threads=1", f"--connections={CLIENTS}", f"--duration={seconds}s", "--timeout=10s"]
            before = self.cpu_seconds()
            printed = execute(["wrk", *options, f"--script={script.name}", request.url], timeout=seconds + 30)
        used = self.cpu_seconds() - before
        line = re.search(r"^DONE (.*)$", printed, re.MULTILINE)
        if line is None:
            raise Failure(f"wrk says: {printed}")
        requests, duration, errors, broken, p50, p99 = map(int, line[1].split())
        good = requests - errors
        if good <= 0:
            raise Failure(f"no good answer in {seconds} s to {CLIENTS} clients")
        return Measurement(
            requests_per_second=good / duration * 1e6,
            cpu=used / good * 1e6,
            p50=p50 / 1000,
            p99=p99 / 1000,
            failed=(errors + broken) / (requests + broken),
        )


def lua(text: str) -> str:
    """A Lua string literal."""
    level = "=" * 8
    return f"[{level}[{text}]{level}]"


def median(rounds: list[Measurement]) -> Measurement:
    columns = zip(*(vars(each).values() for each in rounds), strict=True)
    return Measurement(*map(statistics.median, columns))


def execute(
    command: list[str], folder: Path | None = None, environment: Mapping[str, str] | None = None, timeout: float = 600
) -> str:
    """Run a command and return its output.

    Raises:
        Failure: it failed, timed out, or does not exist.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(str(error)) from error
    printed = done.stdout.decode(errors="replace")
    if done.returncode:
        raise Failure(f"`{' '.join(command)[:100]}` failed: {last_line(printed)}\n{printed}")
    return printed


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


@contextmanager
def start(command: list[str], folder: Path, environment: Mapping[str, str], health: str, log: Path) -> Iterator[Server]:
    """Run a server, which is ready on entry and gone with all its processes on exit.

    Raises:
        Failure: it does not start.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Server(process)
    try:
        try:
            server.wait_until_ready(health)
        except Failure as failure:
            raise Failure(f"{failure}: {last_line(log.read_text(encoding='utf-8', errors='replace'))}") from failure
        yield server
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
