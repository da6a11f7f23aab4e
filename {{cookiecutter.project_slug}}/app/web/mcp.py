"""The MCP server over stateless streamable HTTP at `/mcp`, for AI assistants."""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import METHOD_NOT_FOUND
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import NotFound
from app.settings import DESCRIPTION, PROJECT, TITLE, VERSION, Settings
from app.web.feature import Feature
from app.web.oauth import metadata_app, metadata_paths
from app.web.tool_calls import ToolCalls
from app.web.tools import ToolServer

PATH = "/mcp"

_HOST = re.compile(r"(\[[0-9a-f:]+\]|[^:]+)(:[0-9]{1,5})?", re.IGNORECASE)


def create_mcp_server(features: Sequence[Feature]) -> ToolServer:
    server = ToolServer(
        PROJECT["name"],
        title=TITLE,
        description=DESCRIPTION,
        version=VERSION,
        instructions="\n".join(feature.instructions for feature in features),
        subscriptions=False,
        middleware=[hide_what_there_is_not],
    )
    for feature in features:
        feature.add_tools(server)
    return server


async def hide_what_there_is_not(context: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Hide prompts and resources: the library advertises them although there are none, and fails if asked."""
    if context.method.startswith(("prompts/", "resources/")):
        raise MCPError(METHOD_NOT_FOUND, f"This server has tools only: there is no {context.method}.")
    result = await call_next(context)
    if isinstance(result, dict) and "capabilities" in result:
        offered = {
            name: value for name, value in result["capabilities"].items() if name not in ("prompts", "resources")
        }
        return result | {"capabilities": offered}
    return result


def create_mcp_app(server: ToolServer, settings: Settings) -> ASGIApp:
    """The server over HTTP; `server.session_manager.run()` must be entered before the first request.

    Stateless, so that any worker can answer any request. Host and Origin are checked against DNS rebinding.
    """
    server.streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        json_response=True,
        max_request_body_size=settings.max_body_bytes,
        # Checked below: the library would accept any host that starts with an allowed one: `localhost:1.evil.example`.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    # Used instead of the app that this created, which adds only a router and middleware that have nothing to do here.
    answer = ToolCalls(server.session_manager)

    metadata = metadata_app(settings.oauth, TITLE) if settings.oauth else None

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removesuffix("/") if scope["path"] == f"{PATH}/" else scope["path"]
        if path == "/health":
            await JSONResponse({"status": "healthy"})(scope, receive, send)
            return
        if metadata is not None and path in metadata_paths(settings.oauth):
            await metadata(scope, receive, send)
            return
        if path != PATH:
            raise NotFound(f"There is nothing at {path}; MCP is at {PATH}.")
        if scope["method"] != "POST":
            # The library would keep a GET open forever, waiting for events that a stateless server never sends.
            raise HTTPException(405, "MCP takes POST only.", headers={"Allow": "POST"})
        headers = Headers(scope=scope)
        if not _names_one_of(settings.mcp_allowed_hosts, headers.getlist("host")):
            raise HTTPException(421, "Host not allowed; MCP_ALLOWED_HOSTS lists those that are.")
        if not all(_is_allowed(origin, settings) for origin in headers.getlist("origin")):
            raise HTTPException(403, "Pages of this origin are not allowed; CORS_ORIGINS lists those that are.")
        await answer(scope, receive, send)

    return app


def _names_one_of(allowed: Sequence[str], host_headers: Sequence[str]) -> bool:
    """Whether there is exactly one Host header, with an allowed name and any port."""
    match = _HOST.fullmatch(host_headers[0]) if len(host_headers) == 1 else None
    return match is not None and match[1].lower() in allowed


def _is_allowed(origin: str, settings: Settings) -> bool:
    """Whether pages of this origin may call. In development, those on this machine may, such as MCP Inspector."""
    if origin in settings.cors_origins:
        return True
    if settings.environment == "production" or not origin.startswith("http://"):
        return False
    return (
        _names_one_of(settings.mcp_allowed_hosts, [urlsplit(origin).netloc])
        and origin == f"http://{urlsplit(origin).netloc}"
    )
