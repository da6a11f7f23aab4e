"""Bring the database's schema up to date: `python -m app.db.migrate`.

Alembic is imported only if something is pending: mostly nothing is, and the import would take a tenth of a start.
"""

import argparse
import re
import sys

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.db.database import run_on_connection
from app.db.failures import outage
from app.errors import DatabaseUnavailable
from app.settings import ROOT, Settings, load_settings

_ASSIGNMENT = re.compile(r"^(revision|down_revision)\b[^=\n]*=(.*)$", re.MULTILINE)
_STRING = re.compile("""["']([^"']+)["']""")


class UnknownRevision(SystemExit):
    """The database was migrated by a version of the service that this one does not know."""


def migrate(settings: Settings) -> None:
    """Run pending migrations. Several processes may call this at once: one migrates, and the others wait for it.

    Raises:
        SystemExit: the database cannot be reached or written.
        UnknownRevision: the database is at a revision that is not among the migrations here.
    """
    try:
        if not _is_up_to_date(settings):
            _upgrade(settings)
    except DatabaseUnavailable as error:
        reason = error.__cause__ and outage(error.__cause__)
        sys.exit(
            f"The database cannot be migrated: {reason or error} ({settings.migration_target}). "
            "Check that DATABASE_URL is right, and that the database is running and writable."
        )


def _is_up_to_date(settings: Settings) -> bool:
    try:
        return run_on_connection(settings.migration_url, _read_revisions) == _newest_revisions()
    except DBAPIError:  # there is no alembic_version table yet
        return False


def _read_revisions(connection: Connection) -> set[str]:
    # Updated to the same value: otherwise a read-only database would only be noticed by the first request.
    statement = text("UPDATE alembic_version SET version_num = version_num RETURNING version_num")
    with connection.begin():
        return set(connection.scalars(statement))


def _newest_revisions() -> set[str]:
    """The heads, read without Alembic. If a file is not understood, migrations seem pending, and Alembic decides."""
    revisions: dict[str, set[str]] = {"revision": set(), "down_revision": set()}
    for file in (ROOT / "migrations" / "versions").glob("*.py"):
        for name, value in _ASSIGNMENT.findall(file.read_text(encoding="utf-8")):
            revisions[name].update(_STRING.findall(value))
    return revisions["revision"] - revisions["down_revision"]


def _upgrade(settings: Settings) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(ROOT / "alembic.ini")
    config.attributes["settings"] = settings
    try:
        command.upgrade(config, "heads")  # several, if two branches of the code each added one
    except CommandError as error:
        raise UnknownRevision(
            f"The database cannot be migrated: {error} ({settings.migration_target}). If another version of the service has "
            "migrated it, run that version, or restore a backup from before."
        ) from error


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m app.db.migrate", description=__doc__.partition(":")[0] + ".").parse_args()
    migrate(load_settings())
