"""The lower bound: the same four responses from one ASGI function on the bare driver.

It has no routing, validation, keys or logs, but the same gunicorn, workers, tables and durability.
"""

import asyncio
import json
import os
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

URL = os.environ["DATABASE_URL"]
COLUMNS = "id, title, description, status, priority, due_date, created_at, updated_at"

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Sqlite:
    """One connection for reading and one for writing, each in its own thread."""

    async def open(self) -> None:
        path = URL.removeprefix("sqlite:///")
        self.threads = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.reader, self.writer = (sqlite3.connect(path, isolation_level=None, check_same_thread=False) for _ in "rw")
        for connection in (self.reader, self.writer):
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA busy_timeout = 15000")
            connection.execute("PRAGMA synchronous = FULL")

    async def one(self, task_id: int) -> Any:
        statement = f"SELECT {COLUMNS} FROM tasks WHERE id = ?"
        return await self._run(0, lambda: self.reader.execute(statement, (task_id,)).fetchone())

    async def page(self, limit: int) -> list[Any]:
        statement = f"SELECT {COLUMNS} FROM tasks ORDER BY id DESC LIMIT ?"
        return list(await self._run(0, lambda: self.reader.execute(statement, (limit,)).fetchall()))

    async def add(self, title: str) -> Any:
        now = datetime.now(UTC).isoformat()
        statement = (
            "INSERT INTO tasks (title, status, priority, created_at, updated_at) "
            f"VALUES (?, 'todo', 'normal', ?, ?) RETURNING {COLUMNS}"
        )
        return await self._run(1, lambda: self.writer.execute(statement, (title, now, now)).fetchone())

    async def _run(self, thread: int, query: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads[thread], query)


class Postgres:
    async def open(self) -> None:
        import asyncpg

        self.pool = await asyncpg.create_pool(URL, min_size=10, max_size=10)

    async def one(self, task_id: int) -> Any:
        return await self.pool.fetchrow(f"SELECT {COLUMNS} FROM tasks WHERE id = $1", task_id)

    async def page(self, limit: int) -> list[Any]:
        rows: list[Any] = await self.pool.fetch(f"SELECT {COLUMNS} FROM tasks ORDER BY id DESC LIMIT $1", limit)
        return rows

    async def add(self, title: str) -> Any:
        return await self.pool.fetchrow(
            "INSERT INTO tasks (title, status, priority, created_at, updated_at) "
            f"VALUES ($1, 'todo', 'normal', $2, $2) RETURNING {COLUMNS}",
            title,
            datetime.now(UTC),
        )


database: Any = Sqlite() if URL.startswith("sqlite") else Postgres()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await database.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    content: object
    match scope["method"], scope["path"].split("/")[1:]:
        case "POST", ["tasks"]:
            body = json.loads((await receive())["body"])
            content = dict(await database.add(body["title"]))
        case "GET", ["tasks"]:
            content = [dict(row) for row in await database.page(50)]
        case "GET", ["tasks", task_id]:
            content = dict(await database.one(int(task_id)))
        case _:
            content = {"status": "healthy"}
    encoded = json.dumps(content, default=str).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(encoded)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": encoded})
