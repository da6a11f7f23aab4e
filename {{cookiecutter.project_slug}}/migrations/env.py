"""How Alembic reaches the database; `alembic` and `app.migrate` both come through here."""

import asyncio
import logging.config

from alembic import context
from sqlalchemy import Connection, text

from app import modules_named
from app.database import create_engine, explain_failures
from app.logs import log_config
from app.models import Base
from app.settings import load_settings

LOCK_ID = 7_265_871
"""Key of the advisory lock that lets one process migrate PostgreSQL while the others wait."""

modules_named("*models")  # each adds its tables to `Base.metadata`
settings = context.config.attributes.get("settings") or load_settings()


def run_migrations(connection: Connection) -> None:
    sqlite = connection.dialect.name == "sqlite"
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=sqlite,
        # All or nothing on SQLite too: our engine begins a real transaction there, which is also the lock.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        if not sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": LOCK_ID})
        context.run_migrations()
        if context.get_context().get_current_heads():
            # Where nothing was to do, a database that cannot be written would come to light with the first request.
            connection.execute(text("UPDATE alembic_version SET version_num = version_num"))


async def run() -> None:
    engine = create_engine(settings.migration_url)
    try:
        with explain_failures():
            async with engine.connect() as connection:
                await connection.run_sync(run_migrations)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("Migrations run against a database only: they look at its state.")
if not logging.getLogger().handlers:
    logging.config.dictConfig(log_config(settings.log_level))
asyncio.run(run())
