"""Migrations: complete, reversible, and safe when several processes start at once."""

import os
import subprocess
import sys

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from app.settings import ROOT, Settings
from tests.conftest import execute


@pytest.fixture
def config(empty_database_url: str) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.attributes["settings"] = Settings(database_url=SecretStr(empty_database_url))
    return config


def test_the_migrated_schema_is_that_of_the_models(config: Config) -> None:
    command.upgrade(config, "head")
    command.check(config)


def test_every_migration_can_be_taken_back_and_made_again(config: Config, empty_database_url: str) -> None:
    command.upgrade(config, "head")
    command.downgrade(config, "base")
    with pytest.raises(DBAPIError):
        execute(empty_database_url, "SELECT * FROM tasks")
    command.upgrade(config, "head")
    command.check(config)


@pytest.mark.parametrize("_round", range(3))
def test_of_two_processes_that_migrate_at_once_one_does_it_and_both_succeed(
    config: Config, empty_database_url: str, _round: int
) -> None:
    environment = {**os.environ, "DATABASE_URL": empty_database_url}
    processes = [
        subprocess.Popen([sys.executable, "-m", "app.migrate"], env=environment, cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    logs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(b"Running upgrade  -> " in log for log in logs) == 1
    newest = ScriptDirectory.from_config(config).get_current_head()
    assert execute(empty_database_url, "SELECT version_num FROM alembic_version") == [(newest,)]
