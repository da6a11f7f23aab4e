"""The database URLs that people have, and what the service makes of them."""

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

HINT = "use sqlite:///path/to/file.db or postgresql://user:password@host:5432/name"


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def parse_url(url: str) -> URL:
    """Accept `postgres://` and other drivers' names as well as SQLAlchemy's own.

    Raises:
        ValueError: the text is no URL of a supported database.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"is not a database URL: {HINT}") from None
    kind = parsed.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+asyncpg")
    if kind != "sqlite":
        raise ValueError(f"{parsed.drivername!r} is not supported: {HINT}")
    if not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise ValueError("must name a file, because several processes share it: sqlite:///path/to/file.db")
    return parsed.set(drivername="sqlite")
