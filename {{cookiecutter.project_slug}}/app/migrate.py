"""Bring the database's schema up to date: `python -m app.migrate`."""

import sys

from alembic import command
from alembic.config import Config

from app.errors import DatabaseUnavailable
from app.settings import ROOT, Settings, load_settings


def migrate(settings: Settings) -> None:
    """Run the migrations that are due. Several processes may do so at once: one works, the others wait for it.

    Raises:
        SystemExit: the database cannot be reached or written.
    """
    config = Config(ROOT / "alembic.ini")
    config.attributes["settings"] = settings
    try:
        command.upgrade(config, "heads")  # several, where two branches of the code each added one
    except DatabaseUnavailable as error:
        sys.exit(f"The database cannot be migrated: {error} ({settings.migration_target})")


if __name__ == "__main__":
    migrate(load_settings())
