"""PostgreSQL through asyncpg: a pool of connections, safe behind any pooler, and quick to notice a dead one."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Concatenate, Literal

import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from app.database_url import parse_url
from app.db.database import Database, Pool, ReadSession, WriteSession
from app.db.failures import translate_driver_errors

CONNECT_TIMEOUT = 10.0
"""Seconds for a new connection."""
IDLE_LIMIT = 5.0
"""Seconds of idleness after which a connection is tested before use: a firewall may have dropped it."""
PRE_PING_TIMEOUT = 1.0
"""Seconds that the test may take."""


def create_postgres_engine(url: str, *, pool_size: int = 5, through_pooler: bool = False) -> AsyncEngine:
    """An engine for `parse_url(url)`; it connects on first use.

    No prepared statement has a name, and each is parsed with its execution (`statement_cache_size=0`): on a server
    connection that a pooler shares, no process can ever run another one's statement.
    """
    dsn = parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)

    async def connect() -> Any:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, statement_cache_size=0)
        if not through_pooler:
            try:
                # From a prepared statement's sixth use on, its generic plan would not use the text search index.
                await connection.execute("SET plan_cache_mode = force_custom_plan")
            except BaseException:  # if the request is cancelled here, the connection would be left open
                connection.terminate()
                raise
        return connection

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_recycle=1800,
        hide_parameters=True,  # a logged error shows the statement, but not its data
    )

    @event.listens_for(engine.sync_engine, "checkin")
    def note_time(_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def pre_ping(connection: Any, record: Any, _proxy: object) -> None:
        if time.monotonic() - record.info.get("used", time.monotonic()) > IDLE_LIMIT and not connection.run_async(
            _answers
        ):
            # Whatever broke this connection broke the others too: replace them all, without testing each.
            raise InvalidatePoolError

    return engine


async def _answers(connection: asyncpg.Connection) -> bool:
    try:
        async with asyncio.timeout(PRE_PING_TIMEOUT):
            await connection.execute("SELECT 1")
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()  # closing it properly would take several more seconds
        return False
    return True


def run_on_postgres[T](url: str, work: Callable[[Connection], T]) -> T:
    async def run() -> T:
        engine = create_postgres_engine(url)
        try:
            with translate_driver_errors():
                async with engine.connect() as connection:
                    return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(run())


class Turns(asyncio.Semaphore):
    """First come, first served. SQLAlchemy's own pool lets newcomers overtake, so the slowest requests get slower."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.size)
        self._pool = pool

    async def acquire(self) -> Literal[True]:
        arrived = time.perf_counter() if self._pool.is_full else None
        self._pool.users += 1
        try:
            await super().acquire()
        except BaseException:
            self._pool.users -= 1
            if arrived is not None:
                self._pool.add_wait(time.perf_counter() - arrived, timed_out=True)
            raise
        if arrived is not None:
            self._pool.add_wait(time.perf_counter() - arrived, timed_out=False)
        return True

    def release(self) -> None:
        self._pool.users -= 1
        super().release()


class PostgresDatabase(Database):
    def __init__(self, url: str, *, pool_size: int, through_pooler: bool) -> None:
        self.engine = create_postgres_engine(url, pool_size=pool_size, through_pooler=through_pooler)
        # With autocommit, a query is one statement instead of BEGIN, SELECT, ROLLBACK. Behind a pooler, preparing and
        # executing it must use the same server connection, which only a transaction guarantees.
        reads = self.engine if through_pooler else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reads = async_sessionmaker(reads, expire_on_commit=False, sync_session_class=ReadSession)
        self._writes = async_sessionmaker(self.engine, expire_on_commit=False, sync_session_class=WriteSession)
        self.pools = [Pool("connections", pool_size)]
        self._turns = Turns(self.pools[0])

    async def read[**P, T](
        self, work: Callable[Concatenate[ReadSession, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with translate_driver_errors():
            async with self._turns, self._reads() as session:
                return await session.run_sync(work, *args, **kwargs)  # type: ignore[arg-type]

    async def write[**P, T](
        self, work: Callable[Concatenate[WriteSession, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with translate_driver_errors():
            async with self._turns, self._writes() as session, session.begin():
                return await session.run_sync(work, *args, **kwargs)  # type: ignore[arg-type]

    async def close(self) -> None:
        await self.engine.dispose()
