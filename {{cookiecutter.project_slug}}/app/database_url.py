"""Accepts database URLs as people write them, and converts them for SQLAlchemy."""

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

HINT = "use sqlite:///path/to/file.db or postgresql://user:password@host:5432/name"

# Parameters that asyncpg understands, and those that it passes on to the server.
PARAMETERS = frozenset(
    {
        *("database", "dbname", "host", "passfile", "password", "port", "service", "target_session_attrs", "user"),
        *(
            "gsslib",
            "krbsrvname",
            "ssl_max_protocol_version",
            "ssl_min_protocol_version",
            "sslcert",
            "sslcrl",
            "sslkey",
        ),
        *("sslmode", "sslnegotiation", "sslpassword", "sslrootcert"),
        *("application_name", "client_encoding", "idle_in_transaction_session_timeout", "lock_timeout", "options"),
        *("role", "search_path", "statement_timeout", "timezone"),
    }
)
# Parameters for libpq or an ORM, ignored here, except that the last three say whether there is a pooler.
IGNORED = frozenset(
    {
        *("channel_binding", "connect_timeout", "connection_limit", "gssencmode", "keepalives", "keepalives_count"),
        *("keepalives_idle", "keepalives_interval", "load_balance_hosts", "pool_timeout", "socket_timeout"),
        *("sslcompression", "sslsni", "tcp_user_timeout"),
        *("pgbouncer", "prepared_statement_cache_size", "statement_cache_size"),
    }
)
SSL = {"true": "require", "false": "disable"}
"""Values of SQLAlchemy's `ssl=` that `sslmode` spells differently."""


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def parse_url(url: str) -> URL:
    """Convert a URL for SQLAlchemy, accepting `postgres://`, other drivers' names and other programs' parameters.

    Raises:
        ValueError: not the URL of a supported database, or it has a parameter that would have no effect.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        hosts = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        if "," in hosts:
            raise ValueError("lists several hosts: use only the one that accepts writes, or a proxy") from None
        raise ValueError(f"is not a database URL: {HINT}") from None
    kind = parsed.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return _with_parameters(parsed.set(drivername="postgresql+asyncpg"))
    if kind != "sqlite":
        raise ValueError(f"{parsed.drivername!r} is not supported: {HINT}")
    if not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise ValueError("must name a file, because several processes share it: sqlite:///path/to/file.db")
    if parsed.query:
        raise ValueError(f"must not have parameters for SQLite: {', '.join(parsed.query)}")
    return parsed.set(drivername="sqlite")


def asks_for_pooler_mode(url: str) -> bool:
    """Whether the URL says, in one of the usual ways, that it leads to a pooler in transaction mode."""
    query = make_url(url).query
    return query.get("pgbouncer") == "true" or "0" in (
        query.get("prepared_statement_cache_size"),
        query.get("statement_cache_size"),
    )


def _with_parameters(url: URL) -> URL:
    query = {}
    for name, value in url.query.items():
        if isinstance(value, tuple):
            raise ValueError(f"has the parameter {name} twice")
        if name == "ssl":
            query["sslmode"] = SSL.get(value.lower(), value)
        elif name == "schema":
            query["search_path"] = value
        elif name in PARAMETERS:
            query[name] = value
        elif name not in IGNORED:
            raise ValueError(f"has the unknown parameter {name}. Known parameters are: {', '.join(sorted(PARAMETERS))}")
    return url.set(query=query)
