"""The MCP door: every use case as a tool for AI assistants, over stateless streamable HTTP at `/mcp`."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import ToolAnnotations
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import DatabaseUnavailable, ServiceError
from app.models import Status
from app.problems import problem
from app.schemas import Cursor, PageSize, TaskCreate, TaskId, TaskPage, TaskRead, TaskUpdate
from app.settings import DESCRIPTION, PROJECT, TITLE, VERSION, Settings
from app.tasks import Tasks

PATH = "/mcp"

_HOST = re.compile(r"(\[[0-9a-f:]+\]|[^:]+)(:[0-9]{1,5})?", re.IGNORECASE)

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
SETS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
REPLACES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


@contextmanager
def errors_for_assistants() -> Iterator[None]:
    """Show the service's own errors to the assistant; of any other it learns only that the tool failed."""
    try:
        yield
    except DatabaseUnavailable as error:
        raise ToolError(f"The database is unavailable: {error}. Try again in a few seconds.") from error
    except ServiceError as error:
        raise ToolError(str(error)) from error


def create_mcp_server(tasks: Tasks) -> MCPServer:
    server = MCPServer(
        PROJECT["name"],
        title=TITLE,
        description=DESCRIPTION,
        version=VERSION,
        instructions="Manage tasks. Ids come from list_tasks or create_task; due dates are days such as 2030-12-31.",
        subscriptions=False,
    )

    @server.tool(annotations=ADDS)
    async def create_task(task: TaskCreate) -> TaskRead:
        """Create a task; only its title is required."""
        with errors_for_assistants():
            return await tasks.create(task)

    @server.tool(annotations=READS)
    async def get_task(task_id: TaskId) -> TaskRead:
        """Read one task."""
        with errors_for_assistants():
            return await tasks.get(task_id)

    @server.tool(annotations=READS)
    async def list_tasks(status: Status | None = None, limit: PageSize = 50, cursor: Cursor | None = None) -> TaskPage:
        """List tasks, newest first, all or those of one status. Pass `next_cursor` as `cursor` to read on."""
        with errors_for_assistants():
            return await tasks.list(status=status, limit=limit, cursor=cursor)

    @server.tool(annotations=REPLACES)
    async def update_task(task_id: TaskId, changes: TaskUpdate) -> TaskRead:
        """Change fields of a task. Fields left out keep their values; null empties description or due_date."""
        with errors_for_assistants():
            return await tasks.update(task_id, changes)

    @server.tool(annotations=SETS)
    async def complete_task(task_id: TaskId) -> TaskRead:
        """Mark a task as done."""
        with errors_for_assistants():
            return await tasks.complete(task_id)

    @server.tool(annotations=REPLACES)
    async def delete_task(task_id: TaskId) -> str:
        """Delete a task for good."""
        with errors_for_assistants():
            await tasks.delete(task_id)
        return f"Task {task_id} is deleted."

    return server


def create_mcp_app(server: MCPServer, settings: Settings) -> ASGIApp:
    """The server over HTTP; `server.session_manager.run()` must be entered before the first request.

    Stateless, so that any worker can answer any request. Host and Origin are checked against DNS rebinding.
    """
    streamable_http = server.streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        json_response=True,
        max_request_body_size=settings.max_body_bytes,
        # Checked below: the library would take any host that begins with an allowed one: `localhost:1.evil.example`.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        answer: ASGIApp
        if scope["path"] == "/health":
            answer = JSONResponse({"status": "healthy"})
        elif scope["path"] != PATH:
            answer = problem(404, f"There is nothing at {scope['path']}; MCP is at {PATH}.")
        elif scope["method"] != "POST":
            # The library would hold a GET open for ever, waiting for events that a stateless server never has.
            answer = problem(405, "MCP takes POST only.", headers={"Allow": "POST"})
        elif not _names_one_of(settings.mcp_allowed_hosts, headers.getlist("host")):
            answer = problem(421, "MCP does not answer to this host name; MCP_ALLOWED_HOSTS lists those it answers to.")
        elif not set(headers.getlist("origin")) <= set(settings.cors_origins):
            answer = problem(403, "MCP does not answer to pages of this origin; CORS_ORIGINS lists the allowed ones.")
        else:
            answer = streamable_http
        await answer(scope, receive, send)

    return door


def _names_one_of(allowed: Sequence[str], host_headers: Sequence[str]) -> bool:
    """Whether there is one Host header, with an allowed name and any port."""
    match = _HOST.fullmatch(host_headers[0]) if len(host_headers) == 1 else None
    return match is not None and match[1].lower() in allowed
