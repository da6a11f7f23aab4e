"""Two of the service's tools on FastMCP and the bare driver: no keys, no metrics, no logs."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bare import database
from fastmcp import FastMCP
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


@asynccontextmanager
async def lifespan(_server: FastMCP) -> AsyncIterator[None]:
    await database.open()
    yield


server = FastMCP("tasks", lifespan=lifespan)


def compact(content: Any) -> str:
    return json.dumps(content, default=str, separators=(",", ":"))


@server.tool
async def get_task(task_id: int) -> str:
    """Read one task."""
    row = dict(await database.one(task_id))
    return compact({name: value for name, value in row.items() if value is not None})


@server.tool
async def list_tasks(limit: int = 20) -> str:
    """Find tasks, newest first."""
    names = ("id", "title", "status", "priority", "due_date")
    rows = [dict(row) for row in await database.page(limit)]
    return compact({"items": [{name: row[name] for name in names if row[name] is not None} for row in rows]})


@server.custom_route("/health", methods=["GET"])
async def health(_request: Request) -> Response:
    return JSONResponse({"status": "healthy"})


app = server.http_app(stateless_http=True, json_response=True)
