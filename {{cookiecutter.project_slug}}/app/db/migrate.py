"""Bring the database's schema up to date: `python -m app.db.migrate`."""

import argparse
import sys

from alembic import command
from alembic.config import Config

from app.db.failures import outage
from app.errors import DatabaseUnavailable
from app.settings import ROOT, Settings, load_settings


def alembic_config(settings: Settings) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.attributes["settings"] = settings
    return config


def migrate(settings: Settings) -> None:
    """Run the migrations that are due. Several processes may do so at once: one works, the others wait for it.

    Raises:
        SystemExit: the database cannot be reached or written.
    """
    try:
        command.upgrade(alembic_config(settings), "heads")  # several, where two branches of the code each added one
    except DatabaseUnavailable as error:
        reason = error.__cause__ and outage(error.__cause__)
        sys.exit(f"The database cannot be migrated: {reason or error} ({settings.migration_target})")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m app.db.migrate", description=__doc__.partition(":")[0] + ".").parse_args()
    migrate(load_settings())
