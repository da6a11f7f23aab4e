"""Connections and transactions that behave alike on SQLite and PostgreSQL."""

import asyncio
import logging
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from app.errors import DatabaseUnavailable

CONNECT_TIMEOUT = 10.0
"""Seconds for a new connection to PostgreSQL."""
LOCK_TIMEOUT = 15.0
"""Seconds that a writer waits for SQLite's lock, which another process may hold."""
PING_TIMEOUT = 2.0
"""Seconds within which a ready database answers."""

# People's URLs have these for libpq or for an ORM; asyncpg would send them to the server, which knows none of them.
_NOT_FOR_ASYNCPG = re.compile(
    r"channel_binding|connect_timeout|connection_limit|gssencmode|keepalives\w*|load_balance_hosts|pgbouncer"
    r"|pool_timeout|sslcompression|sslsni|tcp_user_timeout"
)

_MISSING_SCHEMA = re.compile(r"no such (table|column)|(relation|column) .* does not exist")

logger = logging.getLogger(__name__)


@contextmanager
def explain_failures() -> Iterator[None]:
    """Turn whatever the drivers raise when the database itself is at fault into `DatabaseUnavailable`.

    A violated constraint or a value that does not fit is the caller's fault and passes through.
    """
    try:
        yield
    except (IntegrityError, DataError):
        raise
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, OSError):
            reason = cause.strerror or str(cause) or "no connection in time"
        elif _MISSING_SCHEMA.search(str(cause)):
            reason = "the schema is missing or old: run the migrations"
        else:
            reason = str(cause).partition("\n")[0].removeprefix(f"{type(getattr(cause, '__cause__', None))}: ")
        logger.warning("database unavailable: %s", reason)
        raise DatabaseUnavailable(reason) from error


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def parse_url(url: str) -> URL:
    """Accept the URLs that people have: `postgres://` and libpq's parameters as well as SQLAlchemy's own.

    Raises:
        ValueError: the text is no URL of a supported database.
    """
    hint = "use sqlite:///path/to/file.db or postgresql://user:password@host:5432/name"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"is not a database URL: {hint}") from None
    kind = parsed.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+asyncpg")
    if kind != "sqlite":
        raise ValueError(f"{parsed.drivername!r} is not supported: {hint}")
    if not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise ValueError("must name a file, because several processes share it: sqlite:///path/to/file.db")
    return parsed.set(drivername="sqlite+aiosqlite")


def create_engine(url: str, *, pool_size: int = 5, through_pooler: bool = False) -> AsyncEngine:
    """An engine for `parse_url(url)`; it connects when first used.

    With `through_pooler` no prepared statement outlives its transaction, as PgBouncer's transaction mode needs.
    """
    parsed = parse_url(url)
    # An error that is logged shows its statement, but not the data in it.
    options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "hide_parameters": True}
    if parsed.get_backend_name() == "sqlite":
        engine = create_async_engine(parsed, **options)
        _prepare_sqlite(engine, Path(str(parsed.database)))
        return engine

    import asyncpg

    query = {name: value for name, value in parsed.query.items() if not _NOT_FOR_ASYNCPG.fullmatch(name)}
    dsn = parsed.set(drivername="postgresql", query=query).render_as_string(hide_password=False)
    cache: dict[str, Any] = {}
    if through_pooler:
        # asyncpg then prepares without a name, and again for each use; SQLAlchemy has a cache of its own.
        cache = {"statement_cache_size": 0}
        options["connect_args"] = {"prepared_statement_cache_size": 0}

    async def connect() -> Any:
        return await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, **cache)

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, pool_recycle=1800, **options)


def _prepare_sqlite(engine: AsyncEngine, file: Path) -> None:
    """A folder; WAL, for readers beside a writer; fsync at each commit; a write lock that is taken before the first read.

    SQLAlchemy's default begins a transaction at its first write: two processes that read, then write, lose updates.
    """

    @event.listens_for(engine.sync_engine, "do_connect")
    def make_folder(_dialect: object, _record: object, _arguments: object, options: dict[str, Any]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        options["async_creator_fn"] = _open_file

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver sends no BEGIN of its own
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT * 1000:.0f}")
                _use_wal(cursor)
                cursor.execute("PRAGMA synchronous = FULL")
                cursor.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()  # the pool would leave it and its thread behind
            raise

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("reads_only"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")


async def _open_file(*arguments: Any, **options: Any) -> Any:
    """What SQLAlchemy does; but if the file cannot be opened, the connection's thread has ended as well.

    It needs the event loop for that. Without one it writes a traceback, or aborts the process that ends as well.
    """
    import aiosqlite

    connection = aiosqlite.connect(*arguments, **options)
    connection._thread.daemon = True
    try:
        return await connection
    except BaseException:
        await asyncio.to_thread(connection._thread.join)
        raise


def _use_wal(cursor: Any) -> None:
    """Where two processes switch a new file to WAL at once, SQLite refuses one of them, whatever `busy_timeout` says."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class Database:
    """A pool of connections, entered through `read()` and `write()`."""

    def __init__(self, url: str, *, pool_size: int = 10, through_pooler: bool = False) -> None:
        sqlite = is_sqlite(url)
        # SQLite's one writer has a connection of its own beside the readers'.
        self.engine = create_engine(url, pool_size=pool_size + sqlite, through_pooler=through_pooler)
        # A query is one statement: not BEGIN, SELECT, ROLLBACK, nor a wait for SQLite's write lock.
        reads: dict[str, Any] = {"reads_only": True} if sqlite else {"isolation_level": "AUTOCOMMIT"}
        reader = self.engine.execution_options(**reads)
        self._reader = async_sessionmaker(reader, expire_on_commit=False)
        self._writer = async_sessionmaker(self.engine, expire_on_commit=False)
        # First come, first served: SQLAlchemy's own queue lets newcomers overtake, which ruins the slowest requests.
        self._turn = asyncio.Semaphore(pool_size)
        # SQLite has one writer at a time: waiting here is fair, waiting for the file lock is polling.
        self._write_turn = asyncio.Semaphore(1) if sqlite else self._turn

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for queries.

        Raises:
            DatabaseUnavailable: the database cannot be reached or read.
        """
        with explain_failures():
            async with self._turn, self._reader() as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A session in a transaction that commits at the end of the block, and rolls back when it raises.

        Raises:
            DatabaseUnavailable: the database cannot be reached or written.
        """
        with explain_failures():
            async with self._write_turn, self._writer() as session, session.begin():
                yield session

    async def ping(self) -> None:
        """Check that the database answers and that migrations have run.

        Raises:
            DatabaseUnavailable: it does not, or not within `PING_TIMEOUT` seconds.
        """
        query = asyncio.create_task(self._read_version())
        try:
            # Shielded, because to close a connection on which nothing answers takes seconds more.
            await asyncio.wait_for(asyncio.shield(query), PING_TIMEOUT)
        except TimeoutError:
            raise DatabaseUnavailable(f"no answer within {PING_TIMEOUT:.0f} s") from None
        finally:
            query.cancel()

    async def _read_version(self) -> None:
        async with self.read() as session:
            await session.execute(text("SELECT version_num FROM alembic_version"))

    async def close(self) -> None:
        await self.engine.dispose()
