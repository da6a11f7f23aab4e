"""SQLite: several threads run queries, and one thread makes all changes.

Changes that wait for the writer are committed together, with one fsync for all. Each caller gets its result after the
commit, and a change that fails does not affect the others.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Concatenate

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.orm import sessionmaker

from app.database_url import parse_url
from app.db.database import Database, Pool, ReadSession, WriteSession
from app.db.failures import translate_driver_errors
from app.files import create_private

LOCK_TIMEOUT = 15.0
"""Seconds that a writer waits for the file lock, which another process may hold."""
LOCK_RETRY_INTERVAL = 0.0005
"""Seconds between two attempts."""
READERS = 4
"""Threads for queries: more would only contend for the interpreter lock."""
INTERRUPT_CHECK_INTERVAL = 100_000
"""Virtual machine instructions of SQLite, a few milliseconds of work."""
MAX_BATCH = 64
"""At most this many changes, so that the next ones do not wait long."""


def create_sqlite_engine(url: str, *, pool_size: int = 5) -> Engine:
    """An engine that creates the file (readable by its owner alone) and its folder, and calls fsync at each commit.

    WAL mode lets readers work while another connection writes. A transaction that writes takes the write lock before
    its first read: two that read first and then write could lose updates.
    """
    parsed = parse_url(url)
    file = Path(str(parsed.database))
    engine = create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # a logged error shows the statement, but not its data
        connect_args={"check_same_thread": False},
    )

    @event.listens_for(engine, "do_connect")
    def make_file(*_arguments: object) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with suppress(OSError):  # SQLite reports this better, or another process created it first
                create_private(file)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver must not send BEGIN itself
        connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own handles only ASCII
        try:
            _wait_for_lock(connection, "PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL").close()
            connection.execute("PRAGMA foreign_keys = ON").close()
        except BaseException:
            connection.close()
            raise

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("reads_only"):
            _wait_for_lock(_driver_connection(connection), "BEGIN IMMEDIATE")

    @event.listens_for(engine, "commit")
    def check(connection: Connection) -> None:
        """Fail if SQLite rolled back, as after an interrupt or on a full disk: the driver's `commit` would succeed."""
        reads_only = connection.get_execution_options().get("reads_only")
        if not reads_only and not _driver_connection(connection).in_transaction:
            raise sqlite3.OperationalError("the transaction was rolled back")

    return engine


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _driver_connection(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def _wait_for_lock(connection: sqlite3.Connection, statement: str) -> None:
    """Execute a statement that takes the file lock, waiting for it in short steps.

    SQLite's own `busy_timeout` sleeps for up to 100 ms between attempts, in which another process may commit and begin
    again many times: our requests would wait for half a second. And while another process switches a new file to WAL
    mode, it does not wait at all.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    connection.execute("PRAGMA busy_timeout = 0").close()
    try:
        while True:
            try:
                connection.execute(statement).close()
                return
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # higher bits say why it is busy
                if not is_busy or time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_RETRY_INTERVAL)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT * 1000:.0f}").close()


def run_on_sqlite[T](url: str, work: Callable[[Connection], T]) -> T:
    engine = create_sqlite_engine(url)
    try:
        with translate_driver_errors(), engine.connect() as connection:
            return work(connection)
    finally:
        engine.dispose()


class Interruptible:
    """Work in a thread that can be interrupted because its caller timed out or the service is stopping."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._interrupted = False
        self.begun: float | None = None
        """When it began, by `time.perf_counter`."""

    def begin(self, connection: Connection) -> None:
        raw = _driver_connection(connection)
        with self._lock:
            self._connection = raw
            self.begun = time.perf_counter()
        # `interrupt` ends only the statement that is running; this ends those that begin later.
        raw.set_progress_handler(lambda: self._interrupted, INTERRUPT_CHECK_INTERVAL)

    def end(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.set_progress_handler(None, 0)
                self._connection = None

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            if self._connection is not None:
                self._connection.interrupt()


@dataclass
class Change:
    work: Callable[[WriteSession], Any]
    future: Future[Any] = field(default_factory=Future)
    running: Interruptible = field(default_factory=Interruptible)


class SqliteDatabase(Database):
    def __init__(self, url: str, *, pool_size: int) -> None:
        readers = min(pool_size, READERS)
        self.engine = create_sqlite_engine(url, pool_size=readers + 1)
        self._reads = sessionmaker(
            self.engine.execution_options(reads_only=True), class_=ReadSession, expire_on_commit=False
        )
        # Threads and connections are created on first use, which is after gunicorn has forked its workers.
        self._readers = ThreadPoolExecutor(readers, "sqlite-reader")
        # Results take memory: no more are read ahead than the event loop can take.
        self._read_slots = asyncio.Semaphore(2 * readers)
        self._writer = ThreadPoolExecutor(1, "sqlite-writer")
        self._waiting: deque[Change] = deque()
        self._reader_pool = Pool("readers", readers)
        self._writer_pool = Pool("writer", 1)
        self.pools = [self._reader_pool, self._writer_pool]

    async def read[**P, T](
        self, work: Callable[Concatenate[ReadSession, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        running = Interruptible()
        work_of = partial(self._query, running, lambda session: work(session, *args, **kwargs))
        # The copied context takes the ids of the request and its trace to the thread.
        query = partial(self._readers.submit, copy_context().run, work_of)
        return await _result(query, running, self._reader_pool, self._read_slots)

    async def write[**P, T](
        self, work: Callable[Concatenate[WriteSession, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        in_context = copy_context().run
        change = Change(lambda session: in_context(work, session, *args, **kwargs))
        self._waiting.append(change)
        self._writer.submit(self._commit_waiting)
        result: T = await _result(lambda: change.future, change.running, self._writer_pool)
        return result

    async def close(self) -> None:
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._writer.shutdown)
        self.engine.dispose()

    def _query[T](self, running: Interruptible, work: Callable[[ReadSession], T]) -> T:
        with self._reads() as session:
            running.begin(session.connection())
            try:
                return work(session)
            finally:
                running.end()

    def _commit_waiting(self) -> None:
        """Runs once for each change: the first run commits all changes that wait, and the next ones find none."""
        waiting = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
        changes = [change for change in waiting if change.future.set_running_or_notify_cancel()]
        if not changes:
            return
        outcomes: list[Callable[[], None]] = []
        try:
            with self.engine.begin() as connection:
                outcomes += [self._apply(change, connection) for change in changes]
        except Exception as error:
            outcomes = [partial(change.future.set_exception, error) for change in changes]
        for settle in outcomes:
            settle()

    @staticmethod
    def _apply(change: Change, connection: Connection) -> Callable[[], None]:
        """Make one change in a savepoint, and return a function that delivers the result once it is committed."""
        change.running.begin(connection)
        try:
            with (
                WriteSession(connection, join_transaction_mode="create_savepoint", expire_on_commit=False) as session,
                session.begin(),
            ):
                result = change.work(session)
        except Exception as error:
            return partial(change.future.set_exception, error)
        finally:
            change.running.end()
        return partial(change.future.set_result, result)


async def _result[T](
    submit: Callable[[], Future[T]], running: Interruptible, pool: Pool, slots: asyncio.Semaphore | None = None
) -> T:
    arrived = time.perf_counter() if pool.is_full else None
    pool.users += 1
    try:
        async with slots or nullcontext():
            with translate_driver_errors():
                return await asyncio.wrap_future(submit())
    except asyncio.CancelledError:
        running.interrupt()
        raise
    finally:
        pool.users -= 1
        if arrived is not None:
            pool.add_wait((running.begun or time.perf_counter()) - arrived, timed_out=running.begun is None)
