"""Distinguishes a database outage, which becomes a 503, from a bug in the service, a 500 with its traceback."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.errors import DatabaseUnavailable

SQLITE_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
# Classes and codes from appendix A of PostgreSQL's manual: connection, authorization, resources, operator intervention,
# system error; no such database; a read-only server, as after a failover; a conflict with another transaction.
SQLSTATE_OUTAGES = ("08", "28", "53", "57", "58", "XX", "3D000", "25006", "40001", "40P01")

NO_SUCH_STATEMENT = "26000"

logger = logging.getLogger(__name__)


@contextmanager
def translate_driver_errors() -> Iterator[None]:
    """Raise `DatabaseUnavailable` for an outage, and log the driver's message. Any other error passes through."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError, OSError, sqlite3.Error) as error:
        if (reason := outage(error)) is None:
            raise
        logger.warning("database unavailable: %s", reason)
        raise DatabaseUnavailable from error


def outage(error: BaseException) -> str | None:
    """What is wrong with the database, or None if the statement or the service is at fault."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, OSError):
        return cause.strerror or str(cause) or "no connection in time"
    if isinstance(cause, PoolTimeoutError):
        return str(cause)
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        return str(cause) if code & 0xFF in SQLITE_OUTAGES else None
    driver_error = getattr(cause, "__cause__", None)
    reason = str(cause).partition("\n")[0].removeprefix(f"{type(driver_error)}: ")
    state = getattr(cause, "sqlstate", None)
    if state == NO_SUCH_STATEMENT:
        return f"{reason}: behind a pooler in transaction mode, set DATABASE_POOLER=transaction"
    if state is not None:
        return reason if state.startswith(SQLSTATE_OUTAGES) else None
    # asyncpg raises this itself, without asking the server, if a connection is closed or unusable.
    return reason if isinstance(error, DBAPIError) and error.connection_invalidated else None
