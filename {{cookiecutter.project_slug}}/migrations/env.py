"""Connects Alembic to the database, for `alembic` and `app.db.migrate`."""

import logging.config
from typing import Any

from alembic import context
from sqlalchemy import Connection, text

import app.api_keys.models
import app.features  # noqa: F401 # imports the tables of all features
from app.db.columns import Base
from app.db.database import run_on_connection
from app.logs import log_config
from app.settings import load_settings

LOCK_ID = 7_265_871
"""Key of the advisory lock that lets one process migrate PostgreSQL while the others wait."""

settings = context.config.attributes.get("settings") or load_settings()


def is_compared(item: Any, name: str | None, kind: str, is_in_database: bool, _counterpart: Any) -> bool:
    """Ignore text search indexes, which exist only in migrations because some servers do not support them."""
    return not (kind == "index" and is_in_database and name is not None and name.endswith("_search"))


def run_migrations(connection: Connection) -> None:
    sqlite = connection.dialect.name == "sqlite"
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_object=is_compared,
        render_as_batch=sqlite,
        # All or nothing, with SQLite too: our engine begins a real transaction there, which is also the lock.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        if not sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": LOCK_ID})
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("Migrations run against a database only: they look at its state.")
if not logging.getLogger().handlers:
    logging.config.dictConfig(log_config(settings.log_level))
run_on_connection(settings.migration_url, run_migrations)
