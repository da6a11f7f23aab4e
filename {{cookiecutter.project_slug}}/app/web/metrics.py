"""Prometheus metrics, right under several workers: each writes to files, and any of them sums up those of all."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

REQUESTS = Counter("http_requests", "HTTP requests answered", ["interface", "method", "route", "status"])
DURATION = Histogram(
    "http_request_duration_seconds",
    "Time from the request's arrival to the end of its answer",
    ["interface", "method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
IN_PROGRESS = Gauge(
    "http_requests_in_progress", "HTTP requests being answered", ["interface"], multiprocess_mode="livesum"
)
CONNECTIONS_CLOSED = Counter("http_connections_closed", "Connections that were refused or closed", ["reason"])
TOOL_CALLS = Counter("mcp_tool_calls", "Tool calls, by tool and outcome", ["tool", "outcome"])
TOOL_DURATION = Histogram(
    "mcp_tool_call_duration_seconds",
    "Time that a tool took",
    ["tool"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


class AllWorkers(MultiProcessCollector):
    def collect(self) -> Iterable[Metric]:
        files = []
        for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db"):
            with suppress(FileNotFoundError):  # its worker has just ended
                # A worker that is killed as it begins a file leaves it empty, and the library could read none any more.
                if file.stat().st_size > 0:
                    files.append(str(file))
        return self.merge(files, accumulate=True)  # type: ignore[no-any-return, no-untyped-call]


def render() -> bytes:
    """The metrics of all workers in Prometheus's text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest()  # one process, such as a test or a debugger
    registry = CollectorRegistry()
    AllWorkers(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
