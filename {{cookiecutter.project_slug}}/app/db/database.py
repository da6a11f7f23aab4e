"""Units of work: `await database.read(function, ...)` and `await database.write(function, ...)`.

The function is a plain one whose first argument is a SQLAlchemy session. `read` gives it a session for queries, each of
which is a transaction of its own; `write` gives it one transaction that commits when the function returns and rolls back
when it raises. Return plain values, not ORM objects: outside the function there is no session to load from.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Concatenate

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.database_url import is_sqlite
from app.errors import DatabaseUnavailable

PING_TIMEOUT = 2.0
"""Seconds within which a database that is ready must answer."""


class ReadSession(Session):
    """A session for queries. Functions that take a ReadSession also accept a WriteSession."""


class WriteSession(ReadSession):
    """A session in a transaction. A separate type, so that mypy rejects `database.read(a_function_that_writes)`."""


@dataclass
class Pool:
    """Usage of a limited resource, for monitoring. Updated only on the event loop, so it needs no lock."""

    name: str
    size: int
    users: int = 0
    """Requests that use one or wait for one."""
    waits: int = 0
    """How many had to wait. This counter and the next two are reset when they are published."""
    wait_seconds: float = 0.0
    timeouts: int = 0
    """Waits that ended because the request timed out."""

    @property
    def in_use(self) -> int:
        return min(self.users, self.size)

    @property
    def waiting(self) -> int:
        return self.users - self.in_use

    @property
    def is_full(self) -> bool:
        return self.users >= self.size

    def add_wait(self, seconds: float, *, timed_out: bool) -> None:
        self.waits += 1
        self.wait_seconds += seconds
        self.timeouts += timed_out


class Database(ABC):
    pools: Sequence[Pool]

    @abstractmethod
    async def read[**P, T](
        self, work: Callable[Concatenate[ReadSession, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run queries.

        Raises:
            DatabaseUnavailable: the database cannot be reached or read.
        """

    @abstractmethod
    async def write[**P, T](
        self, work: Callable[Concatenate[WriteSession, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction, and return its result once it is committed.

        Raises:
            DatabaseUnavailable: the database cannot be reached or written.
        """

    @abstractmethod
    async def close(self) -> None: ...

    async def ping(self) -> None:
        """Check that the database answers and that migrations have run.

        Raises:
            DatabaseUnavailable: it does not answer within `PING_TIMEOUT` seconds, or migrations have not run.
        """
        await self.read_at_once(_read_version)

    async def read_at_once[T](self, work: Callable[[ReadSession], T]) -> T:
        """Run queries for a caller that cannot wait, such as a probe.

        Raises:
            DatabaseUnavailable: it does not answer within `PING_TIMEOUT` seconds, or migrations have not run.
        """
        query = asyncio.create_task(self.read(work))
        try:
            # Shielded, because closing an unresponsive connection takes several more seconds.
            return await asyncio.wait_for(asyncio.shield(query), PING_TIMEOUT)
        except TimeoutError:
            raise DatabaseUnavailable(f"The database does not answer within {PING_TIMEOUT:.0f} s.") from None
        except DBAPIError:
            raise DatabaseUnavailable("The database has no tables yet: run `python -m app.db.migrate`.") from None
        finally:
            query.cancel()


def _read_version(session: ReadSession) -> None:
    session.execute(text("SELECT version_num FROM alembic_version"))


def open_database(url: str, *, pool_size: int = 10, through_pooler: bool = False) -> Database:
    """The database at this URL. It connects on first use, and only the driver that it needs is imported."""
    if is_sqlite(url):
        from app.db.sqlite import SqliteDatabase

        return SqliteDatabase(url, pool_size=pool_size)

    from app.db.postgres import PostgresDatabase

    return PostgresDatabase(url, pool_size=pool_size, through_pooler=through_pooler)


def run_on_connection[T](url: str, work: Callable[[Connection], T]) -> T:
    """Call a function with a new connection, outside an event loop: for migrations and commands."""
    if is_sqlite(url):
        from app.db.sqlite import run_on_sqlite

        return run_on_sqlite(url, work)

    from app.db.postgres import run_on_postgres

    return run_on_postgres(url, work)
