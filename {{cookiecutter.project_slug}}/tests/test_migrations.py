"""Migrations: complete, reversible, and safe when several processes start at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from app.db.migrate import migrate
from app.settings import ROOT, Settings
from tests.conftest import execute

ADD_TABLE = """
from alembic import op

revision = "{table}"
down_revision = "0001"


def upgrade():
    op.execute("CREATE TABLE {table} (id integer)")
"""


@pytest.fixture
def config(empty_database_url: str) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.attributes["settings"] = Settings(database_url=SecretStr(empty_database_url))
    return config


def test_the_migrated_schema_matches_the_models(config: Config) -> None:
    command.upgrade(config, "heads")
    command.check(config)


def test_every_migration_can_be_reverted_and_run_again(config: Config, empty_database_url: str) -> None:
    command.upgrade(config, "heads")
    command.downgrade(config, "base")
    with pytest.raises(DBAPIError):
        execute(empty_database_url, "SELECT * FROM api_keys")
    command.upgrade(config, "heads")
    command.check(config)


@pytest.mark.slow
def test_processes_that_migrate_at_once_all_succeed_and_one_does_the_work(
    config: Config, empty_database_url: str
) -> None:
    environment = {**os.environ, "DATABASE_URL": empty_database_url}
    processes = [
        subprocess.Popen([sys.executable, "-m", "app.db.migrate"], env=environment, cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    logs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(b"Running upgrade  -> " in log for log in logs) == 1
    newest = [(revision,) for revision in ScriptDirectory.from_config(config).get_heads()]
    assert execute(empty_database_url, "SELECT version_num FROM alembic_version") == newest


def test_migrations_of_two_branches_are_both_run(
    tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    for table in ("one", "another"):
        (tmp_path / "migrations" / "versions" / f"{table}.py").write_text(ADD_TABLE.format(table=table))
    monkeypatch.setattr("app.db.migrate.ROOT", tmp_path)
    migrate(Settings(database_url=SecretStr(empty_database_url)))
    for table in ("one", "another"):
        assert execute(empty_database_url, f"SELECT * FROM {table}") == []


def test_a_database_of_another_version_ends_the_migration_with_one_clear_message(
    config: Config, empty_database_url: str
) -> None:
    command.upgrade(config, "heads")
    execute(empty_database_url, "UPDATE alembic_version SET version_num = 'newer' RETURNING 1")
    with pytest.raises(SystemExit, match=r"^The database cannot be migrated: .* 'newer' .* run that version"):
        migrate(Settings(database_url=SecretStr(empty_database_url)))


def test_a_database_that_is_up_to_date_needs_no_alembic(config: Config, empty_database_url: str) -> None:
    settings = Settings(database_url=SecretStr(empty_database_url))
    migrate(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "upgrade", pytest.fail)
        migrate(settings)
    command.downgrade(config, "-1")
    migrate(settings)
    command.check(config)
