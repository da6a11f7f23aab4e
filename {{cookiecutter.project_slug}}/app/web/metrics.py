"""Prometheus metrics of all workers: each worker writes files, and the one that is asked adds up those of all."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.db.database import Pool

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

# PostgreSQL has one pool, `connections`; SQLite has `readers`, which are threads, and one `writer`.
POOL_SIZE = Gauge("db_pool_size", "How many there are in the pool", ["pool"], multiprocess_mode="livesum")
POOL_IN_USE = Gauge(
    "db_pool_in_use", "How many are in use, at most a second ago", ["pool"], multiprocess_mode="livesum"
)
POOL_WAITING = Gauge(
    "db_pool_waiting", "Requests that wait for one, at most a second ago", ["pool"], multiprocess_mode="livesum"
)
POOL_WAITS = Counter("db_pool_waits", "Requests that had to wait for one", ["pool"])
POOL_WAIT_SECONDS = Counter("db_pool_wait_seconds", "Time that they waited", ["pool"])
POOL_TIMEOUTS = Counter("db_pool_timeouts", "Requests that timed out while they waited", ["pool"])

PUBLISH_INTERVAL = 1.0
"""Seconds. Publishing after each query instead would cost each request several microseconds."""


class AllWorkers(MultiProcessCollector):
    def collect(self) -> Iterable[Metric]:
        files = []
        for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db"):
            with suppress(FileNotFoundError):  # the worker has just ended
                # A worker that is killed while creating a file leaves it empty, and the library would fail on it.
                if file.stat().st_size > 0:
                    files.append(str(file))
        return self.merge(files, accumulate=True)  # type: ignore[no-any-return, no-untyped-call]


class Given(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def render(from_database: Iterable[Metric] = ()) -> bytes:
    """The metrics of all workers and those given, in Prometheus's text format."""
    others = CollectorRegistry()
    others.register(Given(from_database))
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest() + generate_latest(others)  # a single process, such as a test or a debugger
    registry = CollectorRegistry()
    AllWorkers(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry) + generate_latest(others)


def publish(pools: Sequence[Pool]) -> None:
    """Write the counts of this process's pools to where every worker can read them."""
    for pool in pools:
        POOL_SIZE.labels(pool.name).set(pool.size)
        POOL_IN_USE.labels(pool.name).set(pool.in_use)
        POOL_WAITING.labels(pool.name).set(pool.waiting)
        POOL_WAITS.labels(pool.name).inc(pool.waits)
        POOL_WAIT_SECONDS.labels(pool.name).inc(pool.wait_seconds)
        POOL_TIMEOUTS.labels(pool.name).inc(pool.timeouts)
        pool.waits, pool.wait_seconds, pool.timeouts = 0, 0.0, 0


@asynccontextmanager
async def publishing(pools: Sequence[Pool]) -> AsyncIterator[None]:
    """Publish every `PUBLISH_INTERVAL` seconds until the end of the block."""

    async def publish_again() -> None:
        while True:
            publish(pools)
            await asyncio.sleep(PUBLISH_INTERVAL)

    again = asyncio.create_task(publish_again())
    try:
        yield
    finally:
        again.cancel()
        publish(pools)
