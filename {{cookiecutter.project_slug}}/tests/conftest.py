"""Fixtures: a migrated database, the app in this process, and the service as gunicorn runs it."""

import asyncio
import uuid
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text
from starlette.testclient import TestClient

from app.database import create_engine, is_sqlite
from app.main import create_app
from app.migrate import migrate
from app.settings import Settings, load_settings
from tests.server import ADMIN_KEY, Server

REST_URL = "http://localhost:8000"
MCP_URL = "http://localhost:8051"


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database of this test process's own: a file, or a new database on the server of `DATABASE_URL`."""
    url = load_settings().database_url.get_secret_value()
    if is_sqlite(url):
        url = f"sqlite:///{tmp_path_factory.mktemp('database')}/tasks.db"
        migrate(Settings(database_url=SecretStr(url)))
        yield url
        return
    name = f"test_{uuid.uuid4().hex}"
    try:
        asyncio.run(_execute(url, f"CREATE DATABASE {name}"))
    except OSError as error:
        pytest.exit(f"No PostgreSQL answers at DATABASE_URL ({error}); `make test` brings one of its own.", 1)
    own_url = make_url(url).set(database=name).render_as_string(hide_password=False)
    migrate(Settings(database_url=SecretStr(own_url)))
    yield own_url
    asyncio.run(_execute(url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    engine = create_engine(url)
    async with engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text(statement))
    await engine.dispose()


@pytest.fixture(scope="session")
def settings(database_url: str) -> Settings:
    return Settings(
        database_url=SecretStr(database_url),
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
