"""Fixtures: a migrated database, the app in this process, and the service as gunicorn runs it."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Row, make_url, text
from starlette.testclient import TestClient

from app.database_url import is_sqlite
from app.db.database import run_on_connection
from app.db.migrate import migrate
from app.errors import DatabaseUnavailable
from app.settings import Settings, load_settings
from tests.collector import Collector
from tests.gizmos import GIZMOS_APP, create_app, create_gizmos_table
from tests.server import ADMIN_KEY, Server, free_port

REST_URL = "http://localhost:8000"
MCP_URL = "http://localhost:8051"
JSON_RPC = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
"""The headers that an MCP client sends with each message."""
DATABASE_PASSWORD = "database-password-for-tests"

CallTool = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow tests last, and measure no coverage in this process then: they would take half as long again."""

    def is_slow(item: pytest.Item) -> bool:
        return item.get_closest_marker("slow") is not None

    items.sort(key=is_slow)
    for item in filter(is_slow, items):
        item.add_marker("no_cover")


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database that all tests share, including the gizmos table."""
    with new_database(tmp_path_factory.mktemp("database")) as url:
        migrate(Settings(database_url=SecretStr(url)))
        create_gizmos_table(url)
        yield url


@pytest.fixture
def empty_database_url(tmp_path: Path) -> Iterator[str]:
    """A database of the test's own, without tables."""
    with new_database(tmp_path) as url:
        yield url


@contextmanager
def new_database(folder: Path) -> Iterator[str]:
    """The URL of an empty database: a file in `folder`, or a new database on the server of `DATABASE_URL`."""
    url = load_settings().database_url.get_secret_value()
    if is_sqlite(url):
        yield f"sqlite:///{folder}/test.db"
        return
    name = f"test_{uuid.uuid4().hex}"
    try:
        execute(url, f"CREATE DATABASE {name}")
    except DatabaseUnavailable as error:
        pytest.exit(f"No PostgreSQL answers at DATABASE_URL ({error.__cause__}); `make test` starts one.", 1)
    execute(url, f"ALTER DATABASE {name} SET synchronous_commit = off")  # none of these tests crashes PostgreSQL
    yield make_url(url).set(database=name).render_as_string(hide_password=False)
    execute(url, f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, statement: str) -> Sequence[Row[Any]]:
    """Run one statement outside a transaction, and return its rows."""

    def run(connection: Connection) -> Sequence[Row[Any]]:
        # `reads_only` keeps our engine from starting a transaction on SQLite.
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT", reads_only=True)
        result = autocommit.execute(text(statement))
        return result.all() if result.returns_rows else []

    return run_on_connection(url, run)


@pytest.fixture
def unreachable_database(database_url: str, tmp_path: Path) -> str:
    """The URL of a database of the same kind that cannot be opened."""
    if is_sqlite(database_url):
        return f"sqlite:///{tmp_path}"
    return f"postgresql://service:{DATABASE_PASSWORD}@127.0.0.1:{free_port()}/service"


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
    """The REST API of the app in this process, called with the admin key."""
    with TestClient(create_app(settings), REST_URL, headers={"X-API-Key": ADMIN_KEY}) as client:
        yield client


@pytest.fixture(scope="session")
def key(admin: TestClient) -> str:
    """A service key."""
    value: str = admin.post("/admin/api-keys", json={"name": uuid.uuid4().hex}).json()["key"]
    return value


@pytest.fixture
def client(admin: TestClient, key: str) -> TestClient:
    """The REST API, called with a service key."""
    return client_with(admin, {"X-API-Key": key})


@pytest.fixture
def mcp_client(admin: TestClient, key: str) -> TestClient:
    """The MCP port, called with a service key. To call a tool, `call_tool` is shorter."""
    return client_with(admin, {"X-API-Key": key, **JSON_RPC}, MCP_URL)


def client_with(admin: TestClient, headers: dict[str, str] | None = None, url: str = REST_URL) -> TestClient:
    """Another client of the app that `admin` runs."""
    client = TestClient(admin.app, url, headers=headers, follow_redirects=False)
    client.portal = admin.portal
    return client


@pytest.fixture
def call_tool(mcp_client: TestClient) -> CallTool:
    """A function that calls a tool and returns its text: `call_tool(name, **arguments)`."""
    return lambda name, /, **arguments: _call(mcp_client, name, arguments, is_error=False)


@pytest.fixture
def fail_tool(mcp_client: TestClient) -> CallTool:
    """A function that calls a tool, which must fail, and returns the error: `fail_tool(name, **arguments)`."""
    return lambda name, /, **arguments: _call(mcp_client, name, arguments, is_error=True)


def _call(client: TestClient, name: str, arguments: dict[str, Any], *, is_error: bool) -> str:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    response = client.post("/mcp", json=message)
    assert response.status_code == 200, response.text
    result = response.json()["result"]
    [content] = result["content"]
    assert result.get("isError", False) is is_error, content
    assert content["type"] == "text"
    value: str = content["text"]
    return value


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="session")
def traced_app(settings: Settings, collector: Collector, key: str) -> Iterator[TestClient]:
    """An app that sends spans to `collector`. Shared by all tests, as a process can send spans to only one place."""
    destination = {
        "otel_exporter_otlp_endpoint": collector.url,
        "otel_exporter_otlp_headers": SecretStr("authorization=Basic%20abc,x-tenant=1"),
    }
    app = create_app(settings.model_copy(update=destination))
    with TestClient(app, REST_URL, headers={"X-API-Key": key}) as client:
        yield client


@pytest.fixture(scope="session")
def server(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service with two worker processes. Tests that use it are `slow`."""
    with Server(tmp_path_factory.mktemp("server"), app=GIZMOS_APP, DATABASE_URL=database_url) as running:
        yield running
