"""Fixtures: a migrated database, the app in this process, and the service as gunicorn runs it."""

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Row, make_url, text
from starlette.testclient import TestClient

from app.database import create_engine, is_sqlite
from app.main import create_app
from app.migrate import migrate
from app.settings import Settings, load_settings
from tests.server import ADMIN_KEY, Server, free_port

REST_URL = "http://localhost:8000"
MCP_URL = "http://localhost:8051"
DATABASE_PASSWORD = "database-password-for-tests"
CORRUPT_STATUS = "no-such-status"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that wait longest, so that all processes end at the same time."""
    items.sort(key=lambda item: "reliability" not in item.path.name)


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database that the tests of one process share."""
    with new_database(tmp_path_factory.mktemp("database")) as url:
        migrate(Settings(database_url=SecretStr(url)))
        yield url


@pytest.fixture
def empty_database_url(tmp_path: Path) -> Iterator[str]:
    """A database of the test's own, without a table."""
    with new_database(tmp_path) as url:
        yield url


@contextmanager
def new_database(folder: Path) -> Iterator[str]:
    """The URL of an empty database: a file in `folder`, or a new database on the server of `DATABASE_URL`."""
    url = load_settings().database_url.get_secret_value()
    if is_sqlite(url):
        yield f"sqlite:///{folder}/tasks.db"
        return
    name = f"test_{uuid.uuid4().hex}"
    try:
        execute(url, f"CREATE DATABASE {name}")
    except OSError as error:
        pytest.exit(f"No PostgreSQL answers at DATABASE_URL ({error}); `make test` brings one of its own.", 1)
    yield make_url(url).set(database=name).render_as_string(hide_password=False)
    execute(url, f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, statement: str) -> Sequence[Row[Any]]:
    """Run one statement, in no transaction, and return the rows that it gives."""

    async def run() -> Sequence[Row[Any]]:
        engine = create_engine(url)
        try:
            async with engine.connect() as connection:
                # `reads_only` keeps our engine from beginning a transaction on SQLite.
                autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT", reads_only=True)
                result = await autocommit.execute(text(statement))
                return result.all() if result.returns_rows else []
        finally:
            await engine.dispose()

    return asyncio.run(run())


@pytest.fixture
def unreachable_database(database_url: str, tmp_path: Path) -> str:
    """The URL of a database of the same kind that cannot be opened."""
    if is_sqlite(database_url):
        return f"sqlite:///{tmp_path}"
    return f"postgresql://tasks:{DATABASE_PASSWORD}@127.0.0.1:{free_port()}/tasks"


@pytest.fixture
def corrupt_task(database_url: str, client: TestClient) -> Iterator[int]:
    """The id of a task that cannot be read: the service meets an error that it does not expect."""
    task_id = client.post("/tasks", json={"title": "A task"}).json()["id"]
    execute(database_url, f"UPDATE tasks SET status = '{CORRUPT_STATUS}' WHERE id = {task_id}")
    yield task_id
    execute(database_url, f"DELETE FROM tasks WHERE id = {task_id}")


@pytest.fixture(scope="session")
def settings(database_url: str) -> Settings:
    return Settings(
        database_url=SecretStr(database_url),
        database_pool_size=4,
        admin_api_key=SecretStr(ADMIN_KEY),
        cors_origins=("https://app.example.com",),
        port=8000,
        mcp_port=8051,
    )


@pytest.fixture(scope="session")
def admin(settings: Settings) -> Iterator[TestClient]:
    """The REST door of the app in this process, entered with the admin key."""
    with TestClient(create_app(settings), REST_URL, headers={"X-API-Key": ADMIN_KEY}) as client:
        yield client


@pytest.fixture(scope="session")
def key(admin: TestClient) -> str:
    """A service key."""
    value: str = admin.post("/admin/api-keys", json={"name": uuid.uuid4().hex}).json()["key"]
    return value


@pytest.fixture
def client(admin: TestClient, key: str) -> TestClient:
    """The REST door, entered with a service key."""
    return visitor(admin, {"X-API-Key": key})


def visitor(admin: TestClient, headers: dict[str, str] | None = None, url: str = REST_URL) -> TestClient:
    """Another client of the app that `admin` runs."""
    client = TestClient(admin.app, url, headers=headers, follow_redirects=False)
    client.portal = admin.portal
    return client


@pytest.fixture(scope="session")
def server(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service with two workers, in processes of its own."""
    with Server(tmp_path_factory.mktemp("server"), DATABASE_URL=database_url) as running:
        yield running
